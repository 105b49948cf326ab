"""Devices, precisions and batch sizes, and the errors of engines."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeAlias

from data.common.errors import UserError
from extract.engines.constants import CPU_BATCH, CUDA_BATCH

if TYPE_CHECKING:
    import torch

    # Normalised images of shape (batch_size, 3, height, width) to their vectors.
    Network: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


# How torch's and OpenVINO's allocators, and CUDA's libraries, say that memory is out: without room
# for its workspace, cuBLAS has no handle and cuDNN no algorithm.
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "bad_alloc",
    "alloc_failed",
    "cublas_status_not_initialized",
    "unable to find a valid cudnn algorithm",
    "unable to find an engine to execute this computation",
)


class OutOfMemoryError(Exception):
    """A batch did not fit into the device's memory."""

    job: Any = None  # the one whose batch it was, where several are under way


def choose_device(option: str) -> torch.device:
    """Turn ``--device`` into a device that is there."""
    import torch

    if option == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if option == "cuda":
        built = torch.version.cuda
        why = f"torch {torch.__version__} finds none" if built else "this torch is built without it"
        raise UserError(f"--device cuda: there is no CUDA device ({why}); give --device cpu")
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Name a device for the provenance: what decides the last bits of a result."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def choose_precision(option: str, device: torch.device) -> str:
    """Turn ``--precision`` into one that the device can compute in."""
    import torch

    if option != "auto":
        return option
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def default_batch_size(device: torch.device) -> int:
    """Give the batch size to begin with; an out-of-memory error halves it."""
    return CPU_BATCH if device.type == "cpu" else CUDA_BATCH


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell an out-of-memory error of CUDA, of torch's CPU allocator or of OpenVINO from others."""
    import torch

    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in OUT_OF_MEMORY)


class EngineError(Exception):
    """An engine cannot run this network, or gives other vectors than torch; says why."""


def openvino_version() -> str | None:
    """Return the version of OpenVINO; None where it is not installed."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None
