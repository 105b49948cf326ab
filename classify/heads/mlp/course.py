"""What a training of the dense head is asked for, and what comes of it; arrays of numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Plan:
    """How a training goes."""

    hidden: tuple[int, ...]
    dropout: float
    max_epochs: int
    patience: int  # epochs without a lower held-out log-loss
    least_steps: int = 0  # of batches: without held-out rows there are as many epochs as that takes
    rate: float = 1e-3
    decay: float = 1e-2  # AdamW's
    batch: int = 256

    def batch_of(self, n_rows: int) -> int:
        """Return the size of a batch: fewer rows than `batch` where there would be few of them."""
        return max(8, min(self.batch, n_rows // 20))


class Layers(NamedTuple):
    """Standardisation and layers: weights (n_in, n_out), float32 as all arrays."""

    mean: Array
    scale: Array
    weights: list[Array]
    biases: list[Array]

    def scores(self, block: Floats) -> npt.NDArray[np.float64]:
        """Return the last layer's values (n_rows, n_classes)."""
        values = (block.astype(np.float32) - self.mean) / self.scale
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = values @ weight
            values += bias
            if i < len(self.weights) - 1:
                np.maximum(values, 0, out=values)
        return values.astype(np.float64)

    def check(self) -> None:
        """Raise a ``ValueError`` where arrays do not fit each other."""
        width = len(self.mean)
        expected: list[tuple[Array, tuple[int, ...]]] = [
            (self.mean, (width,)),
            (self.scale, (width,)),
        ]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            expected += [(weight, (width, len(bias))), (bias, (len(bias),))]
            width = len(bias)
        for array, shape in expected:
            if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"a layer is {array.dtype} {array.shape}, expected {shape}")
        if width < 2 or (self.scale <= 0).any():
            raise ValueError(
                "its last layer has fewer than two classes, or its scale is not positive"
            )


class Course(NamedTuple):
    """A training: its layers after the best epoch, or after the last without held-out rows."""

    layers: Layers
    best: int  # epochs
    stopped: bool  # before there were no more epochs
    n_batches: int  # of an epoch
    # `loss` and `accuracy`, and `validation_loss` and `validation_accuracy`, of each epoch
    curves: dict[str, list[float]]
