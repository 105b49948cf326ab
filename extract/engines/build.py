"""What runs the network: torch in either memory format, folded, compiled, or OpenVINO.

All of them compute the same function, and in float32 the same store within 1e-5 relative; so
the engine is provenance and not part of a store's key. Which is fastest depends on the network
and the processor, and is measured (`extract.engines.tuning`).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from data.common.packages import install_extra
from extract.engines.constants import FP32_TOLERANCE, LOWEST_COSINE
from extract.engines.device import EngineError, openvino_version
from extract.engines.torch_settings import set_memory_format
from extract.model.backbone import Backbone
from extract.model.features.network import vector_function
from extract.options import ENGINES

if TYPE_CHECKING:
    import torch

    from extract.engines.device import Network

# Those that compute otherwise than torch's own layers, and are compared with them first.
CHECKED = ("folded", "compiled", "openvino")


def default_engine(backbone: Backbone) -> str:
    """Choose an engine without measuring: channels last for convolutional networks.

    Measured on two cores in fp32: MobileNetV2 gains a factor of 1.3 to 2 by it, ResNet-50 1.4;
    vision transformers lose more than half of their speed.
    """
    return "channels-last" if backbone.is_convolutional else "torch"


def candidates(backbone: Backbone, device: torch.device, precision: str) -> list[str]:
    """List the engines that can be tried here at once, the default one first.

    Not ``compiled``, which takes tens of seconds to try.
    """
    from extract.engines.folding import foldable

    if not backbone.n_parameters:
        return ["torch"]  # there is nothing to compute
    found = [
        name for name in ENGINES if name != "compiled" and why_not(name, device, precision) is None
    ]
    if not backbone.is_convolutional:
        found.remove("channels-last")
    if "folded" in found and not foldable(backbone.module):
        found.remove("folded")
    return sorted(found, key=lambda name: name != default_engine(backbone))


def why_not(name: str, device: torch.device, precision: str) -> str | None:
    """Say why an engine cannot run here, and what to do; None where it can."""
    if name in ("torch", "channels-last"):
        return None
    if name == "compiled":
        from extract.engines.compiled import missing_tool

        missing = missing_tool(device)
        return missing and f"{missing}; install it, or give --engine auto"
    if device.type != "cpu":
        return f"it runs on the CPU, not on {device.type}; give --device cpu or --engine auto"
    if name == "folded":
        return None
    if openvino_version() is None:
        return f"OpenVINO is not installed; {install_extra('cpu')}, or give --engine auto"
    from extract.engines.openvino import computes_in

    if not computes_in(precision):
        return f"OpenVINO does not compute in {precision} on this processor; give --engine auto"
    return None


def check_engine(name: str, device: torch.device, precision: str) -> None:
    """Refuse an engine that the user insists on and that cannot run here."""
    reason = None if name == "auto" else why_not(name, device, precision)
    if reason is not None:
        raise UserError(f"--engine {name}: {reason}")


def build(
    name: str, backbone: Backbone, device: torch.device, precision: str, batch_size: int
) -> Network:
    """Prepare a network for batches of one size."""
    import torch

    module = backbone.module.to(device)
    if name == "openvino":
        from extract.engines.openvino import compile_network

        set_memory_format(module, torch.contiguous_format)
        return compile_network(backbone, precision, batch_size)
    convolutional = backbone.is_convolutional
    last = name == "channels-last" or (name in ("folded", "compiled") and convolutional)
    memory_format = torch.channels_last if last else torch.contiguous_format
    size = backbone.preprocessing.size
    if name == "folded":
        from extract.engines.folding import fold_batch_norms

        module = fold_batch_norms(copy.deepcopy(module), torch.zeros(1, 3, *size))
    set_memory_format(module, memory_format)
    if name != "compiled":
        return _torch_network(vector_function(module), device, precision, memory_format)
    from extract.engines.compiled import compiled_function

    def first_batch(function: Network) -> None:
        images = torch.zeros(batch_size, 3, *size, device=device)
        with torch.inference_mode():
            _torch_network(function, device, precision, memory_format)(images)

    kept_as = f"compiled-{device}-{precision}-{batch_size}"
    function = compiled_function(backbone, device, memory_format, first_batch, kept_as)
    return _torch_network(function, device, precision, memory_format)


def _torch_network(
    function: Network, device: torch.device, precision: str, memory_format: torch.memory_format
) -> Network:
    """Put a network's function behind the conversions that its format and precision ask for."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def run(images: torch.Tensor) -> torch.Tensor:
        images = images.contiguous(memory_format=memory_format)
        if dtype is None:
            return function(images)
        with torch.autocast(device.type, dtype=dtype):
            return function(images)

    return run


def check_rows(
    rows: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], precision: str
) -> None:
    """Compare an engine's vectors of some images with those of plain torch in float32.

    Shapes: `rows` and `reference` (n, width).
    """
    error, cosine = differences(rows, reference)
    if not np.isfinite(rows).all():
        raise EngineError("it gives NaN or infinite values")
    if precision == "fp32" and error.max() > FP32_TOLERANCE:
        raise EngineError(
            f"it differs from torch by {error.max():.1e} of the largest value, more than "
            f"{FP32_TOLERANCE:g}"
        )
    if cosine.min() < LOWEST_COSINE[precision]:
        raise EngineError(
            f"a vector of it in {precision} has a cosine of {cosine.min():.4f} with torch's in "
            f"fp32, less than {LOWEST_COSINE[precision]:g}"
        )


def differences(
    rows: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Measure how far vectors are from a reference.

    Shapes: `rows` and `reference` (n, width); returns `error` (n,), each row's largest difference
    relative to the largest value of the whole reference, and `cosine` (n,).
    """
    scale = float(np.abs(reference).max()) or 1.0
    error = np.abs(rows - reference).max(axis=1) / scale
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(reference, axis=1)
    cosine = (rows * reference).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return error, cosine
