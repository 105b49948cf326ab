"""The rows a fit looks at, as one torch tensor on a device: the twin of `classify.solver.design`.

The features are sent to the device once. Weights, gradients and sums stay float64 on the host,
where they are small; `fold` and `unfold` take them to and from the features' own scale on the
device, where the products are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from classify.solver.design import LARGEST_FOLD
from classify.solver.threads import Workers
from classify.solver.tuning import DEVICE_CHUNK_NUMBERS

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]

NUMPY_DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}


class TorchDesign:
    """Features on a device: column ``j`` stands for ``(X[:, j] - shift[j]) / scale[j]``.

    `X` is float32 or float64, contiguous, and not written to.
    """

    def __init__(
        self, X: torch.Tensor, shift: Array | None = None, scale: Array | None = None
    ) -> None:
        self.X = X
        self.shift, self.scale = shift, scale
        self.device = X.device
        self.n_rows, self.n_features = X.shape
        self.edges = np.array([0, self.n_rows])
        self.dtype: np.dtype[Any] = NUMPY_DTYPES[X.dtype]
        self._shift = None if shift is None else self.send(shift)
        self._scale = None if scale is None else self.send(scale)

    def send(self, values: npt.NDArray[Any]) -> torch.Tensor:
        """Copy an array to the device, in its own dtype."""
        return tensor_of(values).to(self.device)

    def take(self, rows: Integers, workers: Workers) -> TorchDesign:
        """Copy some rows, in another order, unless they are all of them in theirs."""
        if np.array_equal(rows, np.arange(self.n_rows)):
            return self
        return TorchDesign(self.X[self.send(rows)], self.shift, self.scale)

    def standardized(self, shift: Array, scale: Array) -> TorchDesign:
        """Return the same rows, shifted and scaled on the fly, or in a copy.

        A copy where a column is so far from zero for its scale that folding loses digits.
        """
        if not np.any(np.abs(shift) > LARGEST_FOLD * scale):
            return TorchDesign(self.X, shift, scale)
        minus, by = self.send(shift), self.send(scale)
        copy = torch.empty_like(self.X)
        for low, high in self.chunks(self.n_features):
            copy[low:high] = (self.X[low:high].double() - minus) / by
        return TorchDesign(copy)

    def in_double(self) -> TorchDesign:
        """Return a copy of these rows in double precision."""
        return TorchDesign(self.X.double(), self.shift, self.scale)

    def moments(self, weight: Array | None = None) -> tuple[Array, Array]:
        """Compute means and scales in float64, as `classify.solver.design.mean_and_scale` does."""
        w = None if weight is None else self.send(weight)[:, None]
        count = float(self.n_rows) if w is None else float(w.sum())
        count = max(count, float(np.finfo(float).tiny))
        # Relative to one of the rows, so that a constant feature varies by exactly zero.
        first = self.X[0].double() if w is None else self.X[int(w[:, 0].argmax())].double()

        def total(minus: torch.Tensor, power: int) -> torch.Tensor:
            found = torch.zeros_like(first)
            for low, high in self.chunks(self.n_features):
                block = (self.X[low:high].double() - first - minus) ** power
                found += (block if w is None else w[low:high] * block).sum(dim=0)
            return found / count

        offset = total(torch.zeros_like(first), 1)
        mean = (first + offset).cpu().numpy()
        scale = total(offset, 2).sqrt().cpu().numpy()
        constant = scale <= 10 * np.finfo(float).eps * np.abs(mean)
        return mean, np.where(constant, 1.0, scale)

    def fold(
        self, weights: torch.Tensor, intercepts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn float64 weights for the columns as they stand into weights for the raw features."""
        if self._scale is not None:
            weights = weights / self._scale
        if self._shift is not None:
            intercepts = intercepts - weights @ self._shift
        return weights.to(self.X.dtype), intercepts.to(self.X.dtype)

    def unfold(self, products: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
        """Turn ``R.T @ X`` into ``R.T @ ((X - shift) / scale)``."""
        if self._shift is not None:
            products = products - totals[:, None] * self._shift
        if self._scale is not None:
            products = products / self._scale
        return products

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Copy some rows, shifted and scaled, on the device."""
        block = self.X[rows]
        if self._shift is not None:
            block -= self._shift.to(block.dtype)
        if self._scale is not None:
            block /= self._scale.to(block.dtype)
        return block

    def dense(self, rows: Integers) -> Floats:
        """Copy some rows, shifted and scaled, to the host: what numpy's preconditioners ask for."""
        return self.gather(self.send(rows)).cpu().numpy()

    def chunks(self, width: int) -> list[tuple[int, int]]:
        """Return first rows, and last rows + 1, so that temporaries of this width stay small."""
        step = max(1, DEVICE_CHUNK_NUMBERS // 2 // max(1, width))
        return [(low, min(low + step, self.n_rows)) for low in range(0, self.n_rows, step)]


def tensor_of(values: npt.NDArray[Any]) -> torch.Tensor:
    """Make a contiguous tensor that shares an array's memory where that may be written to."""
    values = np.ascontiguousarray(values)
    return torch.from_numpy(values if values.flags.writeable else values.copy())


class _FullPrecision:
    """Turn TF32 off for float32 products while a fit runs.

    TF32 keeps 10 bits of a number: too few for a certified optimum. The setting belongs to the
    process, so of fits that run at the same time the first one in saves it and the last one out
    puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._general = "highest"
        self._saved: Any = None

    def __enter__(self) -> None:
        matmul = torch.backends.cuda.matmul
        with self._lock:
            if self._depth == 0 and hasattr(matmul, "fp32_precision"):
                # torch 2.9 has the switch in two forms: of a process that has set the old one and
                # then the new one, the old one can no longer be read, which some of torch does.
                try:
                    self._general = torch.get_float32_matmul_precision()
                except RuntimeError:
                    self._general = "highest"
                self._saved = matmul.fp32_precision
                if self._general != "highest":
                    torch.set_float32_matmul_precision("highest")
                matmul.fp32_precision = "ieee"
            elif self._depth == 0:
                self._saved, matmul.allow_tf32 = matmul.allow_tf32, False
            self._depth += 1

    def __exit__(self, *exc: object) -> None:
        matmul = torch.backends.cuda.matmul
        with self._lock:
            self._depth -= 1
            if self._depth == 0 and hasattr(matmul, "fp32_precision"):
                if self._general != "highest":
                    torch.set_float32_matmul_precision(self._general)
                matmul.fp32_precision = self._saved
            elif self._depth == 0:
                matmul.allow_tf32 = self._saved


_full_precision = _FullPrecision()


@contextmanager
def arithmetic(device: torch.device) -> Iterator[None]:
    """Compute without gradients, autocast or TF32, and leave the caller's settings alone."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False), _full_precision:
        yield
