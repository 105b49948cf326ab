"""Where a fit runs: on the CPU with numpy, or on a CUDA device with torch.

torch takes seconds to load, so it is loaded only where a device is asked for and there may be one.
When the device's memory is too small, the fit is done again on the CPU, and says so.
"""

from __future__ import annotations

import glob
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.linear_head import Head
from classify.solver.fit import Fitter
from classify.solver.solution import Solution
from classify.solver.strategies import Strategy, strategy_of
from data.common.memory import keep_small_blocks

# The device's code on torch's CPU tensors: for tests, being slower than numpy's.
TORCH_ON_CPU = "torch-cpu"


class DeviceMissingError(ValueError):
    """A CUDA device was asked for, and is not there."""


class DeviceMemoryWarning(RuntimeWarning):
    """A fit was done on the CPU because the device's memory was too small."""


def _warn(text: str) -> None:
    warnings.warn(text, DeviceMemoryWarning, stacklevel=2)


_tell: ContextVar[Callable[[str], None]] = ContextVar("tell", default=_warn)


@contextmanager
def redirect_notes(tell: Callable[[str], None]) -> Iterator[None]:
    """Send what a fit has to say about its device elsewhere than to a `DeviceMemoryWarning`."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def note_on_device(text: str) -> None:
    """Say something of a device, where `redirect_notes` sends it."""
    _tell.get()(text)


def may_have_nvidia() -> bool:
    """Tell, without torch, whether this machine could have an NVIDIA device."""
    return bool(glob.glob("/dev/nvidia*")) or shutil.which("nvidia-smi") is not None


def check_device(option: Any) -> None:
    """Raise `ValueError` for a ``device`` parameter that names no kind of device."""
    known = isinstance(option, str) and re.fullmatch(r"auto|cpu|cuda(:\d+)?", option)
    if not known and option != TORCH_ON_CPU:
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {option!r}")


def choose_device(option: str, X: Any = None) -> str:
    """Turn a ``device`` parameter into a device that is there."""
    check_device(option)
    if option in ("cpu", TORCH_ON_CPU):
        return option
    if option in ("auto", "cuda") and is_tensor(X) and X.device.type == "cuda":
        return str(X.device)
    if option == "auto" and not may_have_nvidia():
        return "cpu"
    from classify.solver.torch_backend.fit import cuda_device, why_no_cuda

    found = cuda_device("cuda" if option == "auto" else option)
    if found is None and option != "auto":
        which = "CUDA device" if option == "cuda" else f"CUDA device with the number {option[5:]}"
        raise DeviceMissingError(
            f"device {option}: there is no {which} ({why_no_cuda()}); use cpu, or auto"
        )
    return found or "cpu"


def device_title(device: str) -> str:
    """Name a device for the record of a run: a GPU's own name, or ``cpu``."""
    if device in ("cpu", TORCH_ON_CPU):
        return device
    from classify.solver.torch_backend.fit import device_name

    return device_name(device)


def is_tensor(X: Any) -> bool:
    """Tell whether something is a torch tensor; it can only be one if torch has been imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(X, torch.Tensor)


def lies_on(X: Any, device: str) -> bool:
    """Tell whether features are a tensor that a fit on this device can use where it lies."""
    at = "cpu" if device == TORCH_ON_CPU else device
    return device != "cpu" and is_tensor(X) and str(X.device) == at


def as_labels(y: Any) -> Any:
    """Bring labels that are a tensor to the host; leave others as they are."""
    return y.detach().cpu().numpy() if is_tensor(y) else y


def open_fitter(
    device: str,
    strategy: str | Strategy,
    X: Any,
    labels: npt.NDArray[np.intp],
    n_classes: int,
    workers: Any,
    **options: Any,
) -> Fitter | DeviceFitter:
    """Set up a fit on a device."""
    if device == "cpu":
        keep_small_blocks()
        return Fitter(strategy, X, labels, n_classes, workers, **options)
    return DeviceFitter(device, strategy, X, labels, n_classes, workers, **options)


class DeviceFitter:
    """A fit on a device that goes on with the CPU when the device's memory is too small."""

    def __init__(
        self,
        device: str,
        strategy: str | Strategy,
        X: Any,
        labels: npt.NDArray[np.intp],
        n_classes: int,
        workers: Any,
        **options: Any,
    ) -> None:
        self.device = device
        self._arguments = (strategy_of(strategy), X, labels, n_classes, workers)
        self._options = options
        self._fitter: Fitter | None = None
        self._try(self._open)

    def _open(self) -> Fitter:
        from classify.solver.torch_backend.fit import TorchFitter

        at = "cpu" if self.device == TORCH_ON_CPU else self.device
        self._fitter = TorchFitter(*self._arguments, at=at, **self._options)
        return self._fitter

    def _try(self, work: Callable[[], Any]) -> Any:
        """Do something on the device; None where it had to move to the CPU."""
        from classify.solver.torch_backend.fit import OutOfDeviceMemoryError, release

        try:
            return work()
        except OutOfDeviceMemoryError as error:
            reason = str(error)
        # Outside the handler: its traceback holds on to the tensors.
        self._fitter = None
        if self.device != TORCH_ON_CPU:
            release(self.device)
        _tell.get()(
            f"{device_title(self.device)} has too little memory for the "
            f"{self._arguments[0].name} fit ({reason}); the CPU does it instead. Choose the "
            "device cpu to save the attempt."
        )
        self.device = "cpu"
        strategy, X, *rest = self._arguments
        X = X.detach().cpu().numpy() if is_tensor(X) else X
        self._fitter = Fitter(strategy, X, *rest, **self._options)
        return None

    def solve(
        self, C: float | Any, *, tol: float, max_iter: int, start: Head | None = None
    ) -> tuple[Head, Solution]:
        """Fit the heads for one value of C; see `classify.solver.fit.Fitter.solve`."""

        def work() -> tuple[Head, Solution]:
            assert self._fitter is not None
            return self._fitter.solve(C, tol=tol, max_iter=max_iter, start=start)

        return work() if self.device == "cpu" else self._try(work) or work()
