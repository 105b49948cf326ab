"""Which device this is: asked in a process of its own, so that none is kept busy meanwhile."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("timm", "triton", "torchvision", "h5py", "scikit-learn", "numpy")


def facts() -> dict[str, Any]:
    """Describe the first CUDA device and the libraries; ``name`` is None where there is none."""
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "name": None}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    if not torch.cuda.is_available():
        return found
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    return found | {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": total,
        "free_bytes": free,
        "cudnn": torch.backends.cudnn.version(),
        "driver": driver(),
    }


def driver() -> str:
    """Ask for the driver's version."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.splitlines()[0].strip()
    return "unknown"


def title(found: dict[str, Any]) -> str:
    """Describe the device in one line."""
    total, free = found["memory_bytes"] / 1e9, found["free_bytes"] / 1e9
    return (
        f"{found['name']}, {total:.1f} GB ({free:.1f} GB free), driver {found['driver']}, "
        f"torch {found['torch']}, CUDA {found['cuda']}, cuDNN {found['cudnn']}"
    )
