r"""Per-class sufficient statistics: count, mean and scatter of the rows of each class.

For the rows :math:`x_i` of class :math:`c`,

.. math::  n_c = \#\{i\}, \quad \mu_c = \frac{1}{n_c} \sum_i x_i, \quad
           S_c = \sum_i (x_i - \mu_c)(x_i - \mu_c)^T .

They are what linear discriminant analysis, ridge regression and preconditioners need of a data
set, and those of a union of classes follow from them (Chan, Golub and LeVeque 1983).

Rows are shifted by the class mean rounded to float32 before the products, which then run in
float32 at full speed; block results are added in float64, and the rounding of the shift is taken
out at the end: :math:`S_c = \sum_i y_i y_i^T - n_c r r^T` with :math:`y_i = x_i - m` and
:math:`r = \bar y`. So a large common offset costs no digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

BLOCK_BYTES = 16 << 20
SMALLEST = float(np.finfo(np.float32).tiny)
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Moments:
    """Sufficient statistics of each class."""

    count: npt.NDArray[np.int64]  # (n_classes,), rows of each class
    # (n_classes, n_features), their means; zero for a class without rows
    mean: npt.NDArray[np.float32]
    # (n_classes, n_features, n_features), their centred sums of outer products
    scatter: npt.NDArray[np.float32]


class RangeError(ArithmeticError):
    """The scatter of these features does not fit float32: it overflows, or vanishes."""


class Table(Protocol):
    """Rows that can be picked: an array, or rows on the disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and features."""

    def __getitem__(self, rows: npt.NDArray[np.intp], /) -> npt.NDArray[Any]:
        """Pick rows."""


def class_moments(
    features: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], n_classes: int
) -> Moments:
    """Compute the moments of every class.

    Shapes: ``features`` (n_samples, n_features); ``labels`` (n_samples,).
    """
    width = features.shape[1]
    count = np.zeros(n_classes, np.int64)
    mean = np.zeros((n_classes, width), np.float32)
    scatter = np.zeros((n_classes, width, width), np.float32)
    parts = iter_class_moments(features, labels, n_classes)
    for index, (rows, centre, spread) in enumerate(parts):
        count[index], mean[index], scatter[index] = rows, centre, spread
    return Moments(count, mean, scatter)


def iter_class_moments(
    features: Table, labels: npt.NDArray[np.integer], n_classes: int
) -> Iterator[tuple[int, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Compute the moments of one class after the other, holding one scatter matrix at a time.

    Shapes: Yields (n_features,); yields (n_features, n_features).
    """
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(n_classes + 1))
    for first, last in itertools.pairwise(bounds):
        yield _one_class(features, order[first:last])


def _one_class(
    features: Table, rows: npt.NDArray[np.intp]
) -> tuple[int, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    width = features.shape[1]
    if not len(rows):
        return 0, np.zeros(width, np.float32), np.zeros((width, width), np.float32)
    step = max(1, BLOCK_BYTES // (4 * width))
    blocks = [rows[start : start + step] for start in range(0, len(rows), step)]

    total = np.zeros(width)
    for block in blocks:
        total += features[block].sum(axis=0, dtype=np.float64)
    centre = (total / len(rows)).astype(np.float32)

    scatter = np.zeros((width, width))
    residual = np.zeros(width)
    variance = np.zeros(width)
    # An overflow is looked for in the result, and reported as such.
    with np.errstate(over="ignore", invalid="ignore"):
        for block in blocks:
            shifted = features[block].astype(np.float32) - centre
            residual += shifted.sum(axis=0, dtype=np.float64)
            variance += np.einsum("ij,ij->j", shifted, shifted, dtype=np.float64)
            scatter += shifted.T @ shifted
        residual /= len(rows)
        mean = centre + residual
        scatter -= len(rows) * np.outer(residual, residual)
        variance -= len(rows) * residual**2
        rounded = scatter.astype(np.float32)
    _check_range(rounded, variance)
    return len(rows), mean.astype(np.float32), rounded


def _check_range(scatter: npt.NDArray[np.float32], variance: npt.NDArray[np.float64]) -> None:
    if not np.isfinite(scatter).all() or not (variance < LARGEST).all():
        raise RangeError("the scatter of these features overflows float32")
    # `variance` is the diagonal in float64: what float32 lost shows there.
    lost = (variance > 0) & (variance < SMALLEST)
    if lost.any():
        raise RangeError(f"the scatter of {int(lost.sum())} features vanishes in float32")
