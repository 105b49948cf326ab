"""One strategy fitted on a device: `classify.solver.fit.Fitter` with its rows in a torch tensor.

The minimiser is the same, on the host. This is the only module that the rest of stage two imports
of those that need torch, and only when a device is asked for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from classify.linear_head import Head
from classify.solver.fit import Fitter
from classify.solver.moves import Trials
from classify.solver.problems import Problems
from classify.solver.solution import Solution
from classify.solver.strategies import Strategy
from classify.solver.torch_backend.design import TorchDesign, arithmetic, tensor_of
from classify.solver.torch_backend.precondition import TorchSampledHessian
from classify.solver.torch_backend.problems import TorchBinaryProblems, TorchSoftmaxProblems
from classify.solver.tuning import (
    DEVICE_FACTOR_NUMBERS,
    DEVICE_FACTOR_PASSES,
    DEVICE_FACTOR_SHARE,
    DEVICE_FACTOR_WORK,
)

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]


class OutOfDeviceMemoryError(Exception):
    """The features, or what a fit needs beside them, do not fit into the device's memory."""


class TorchFitter(Fitter):
    """One strategy on one set of rows on a device (`at`), for any value of C.

    `X` may be a tensor, used where it lies if that is on the device. This and `solve` raise
    `OutOfDeviceMemoryError`.
    """

    _binary, _softmax = TorchBinaryProblems, TorchSoftmaxProblems
    # Every look along a direction is a whole pass, which is cheap on a device.
    _start = Trials

    def __init__(
        self,
        strategy: str | Strategy,
        X: Any,
        labels: Integers,
        n_classes: int,
        workers: Any,
        *,
        at: str,
        sample_weight: Array | None = None,
        standardize: bool = False,
        rows: Integers | None = None,
        memory_plan: None = None,
        fit_intercept: bool = True,
    ) -> None:
        self.device, self._at = at, torch.device(at)
        with _memory_errors(), arithmetic(self._at):
            super().__init__(
                strategy,
                X,
                labels,
                n_classes,
                workers,
                sample_weight=sample_weight,
                standardize=standardize,
                rows=rows,
                fit_intercept=fit_intercept,
            )

    def _open(self, X: Any) -> Any:
        tensor = X.detach() if isinstance(X, torch.Tensor) else tensor_of(X)
        return TorchDesign(tensor.to(self._at).contiguous())

    def _few_rows(self, labels: npt.NDArray[np.intp], n_features: int) -> bool:
        return False

    def _turns(self, design: Any) -> bool:
        return False  # products are what a device is good at

    def _moments(self, design: Any, sample_weight: Array | None) -> tuple[Array, Array]:
        return design.moments(sample_weight)

    def _choose(self, objective: Problems) -> Any:
        """Give each column an inverse of its own, where the device has room for that."""
        d = self.design.n_features
        columns = objective.n_problems * objective.columns
        sample = max(1024, 4 * d)
        rows = min(sample, self.design.n_rows)
        side = min(rows, d)
        work = max(DEVICE_FACTOR_WORK, DEVICE_FACTOR_PASSES * 2 * objective.meetings * d)
        numbers = columns * side * max(side, d)
        if columns * side**2 * (rows + d) <= work and numbers <= self._room_for_inverses():
            return TorchSampledHessian(sample)
        raise OutOfDeviceMemoryError(
            f"{columns:,} problems, each with an inverse Hessian of its own: "
            f"{numbers * self.design.dtype.itemsize / 1e9:.1f} GB"
        )

    def _room_for_inverses(self) -> float:
        """Say how many numbers the inverse Hessians may be, by what the device has in all."""
        if self._at.type != "cuda":
            return DEVICE_FACTOR_NUMBERS
        total = torch.cuda.get_device_properties(self._at).total_memory
        return DEVICE_FACTOR_SHARE * total / self.design.dtype.itemsize

    def solve(
        self, C: float | Any, *, tol: float, max_iter: int, start: Head | None = None
    ) -> tuple[Head, Solution]:
        """Fit the heads for one value of C; see `Fitter.solve`."""
        with _memory_errors(), arithmetic(self._at):
            return super().solve(C, tol=tol, max_iter=max_iter, start=start)


class _memory_errors:
    """Turn torch's out-of-memory errors into `OutOfDeviceMemoryError`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise OutOfDeviceMemoryError(str(error).partition(".")[0]) from None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell an out-of-memory error of a device, or of torch's own libraries on it, from others."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    # cuBLAS and cuSOLVER have statuses of their own; without room a handle is not initialised.
    text = str(error).lower()
    return any(sign in text for sign in ("out of memory", "alloc_failed", "status_not_initialized"))


def release(device: str) -> None:
    """Give the memory that torch keeps for later back to the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def device_name(device: str) -> str:
    """Name a device as a person would, such as ``NVIDIA H100 80GB HBM3``."""
    chosen = torch.device(device)
    return torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"torch {device}"


def cuda_device(name: str) -> str | None:
    """Find the CUDA device of a name, ``cuda`` or ``cuda:1``; None when it is not there."""
    if not torch.cuda.is_available():
        return None
    index = torch.device(name).index
    if index is None:
        index = torch.cuda.current_device()
    return f"cuda:{index}" if index < torch.cuda.device_count() else None


def why_no_cuda() -> str:
    """Say why there is no CUDA device, for a message."""
    return f"torch {torch.__version__} finds none" if torch.version.cuda else "torch has no CUDA"
