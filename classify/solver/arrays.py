"""What a backend provides: rows, passes over them, a preconditioner, arrays; and numpy's arrays.

The CPU's are `classify.solver.design`, `passes` and `preconditioner`, a device's `torch_backend`.
The certificate's formulas are written once, over a module `xp` (numpy or torch: arithmetic,
``exp``, ``where``, ``stack`` and ``sum(axis=...)`` are spelled alike) and over `Arrays`, for what
is spelled differently or has another price: numpy overwrites temporaries and works in threads, a
device should not be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from classify.solver.losses import LOGISTIC, BinaryLoss
from classify.solver.passes import Group
from classify.solver.threads import Workers
from classify.solver.tuning import CERTIFICATE_NUMBERS, CERTIFICATE_ROWS

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


def block_rows(columns: int) -> int:
    """Say how many rows of so many columns of scores are in one block on the host."""
    return min(CERTIFICATE_ROWS, max(64, CERTIFICATE_NUMBERS // max(1, columns)))


class Design(Protocol):
    """The rows of a fit: features with a shift and a scale per column."""

    n_rows: int
    n_features: int
    dtype: np.dtype[Any]  # of the features
    edges: Integers  # between rows that are loaded together; two where all are

    def dense(self, rows: Integers) -> Floats:
        """Copy some rows to the host, shifted and scaled, ``(k, n_features)``."""

    def in_double(self) -> Any:
        """Return a copy of these rows in double precision."""


class RowPasses(Protocol):
    """Passes over the rows of a design; scores and residuals are arrays of the backend's kind."""

    def fused(
        self, groups: Sequence[Group], weights: Array, intercepts: Array, link: Callable[..., Any]
    ) -> tuple[Array, Array, Array]:
        """Return summed losses, summed residuals, and ``residuals.T @ features``, per column."""

    def scores(self, groups: Sequence[Group], weights: Array, intercepts: Array) -> list[Any]:
        """Return every group's signed scores: the first half of a pass."""

    def back(
        self, groups: Sequence[Group], residuals: Sequence[Any], n_columns: int
    ) -> tuple[Array, Array]:
        """Return summed residuals and their products with the features: the second half."""


class ScoreBlock(NamedTuple):
    """Consecutive rows of one group."""

    group: int  # its index
    rows: slice
    within: slice  # the same rows, counted from the group's first


class PositiveEntries(Protocol):
    """Which entries of a block of scores are those of rows in their own class's columns."""

    def flip(self, table: Any) -> None:
        """Negate the entries, in place, where the group's signs have not."""

    def add(self, u: Any, shift: Any) -> None:
        """Add a change of the intercepts to minus margins, in place."""

    def sums(self, table: Any) -> tuple[Any, Any]:
        """Sum the columns of the other entries, and those of these."""

    def choose(self, positive: Any, negative: Any, n_rows: int) -> Any:
        """Give every entry its column's one of two values."""


class LabelEntries(Protocol):
    """The entries of rows in their own class, of tables of rows x problems x classes."""

    def of(self, table: Any) -> Any:
        """Copy the entries, rows x problems."""

    def put(self, table: Any, values: Any) -> None:
        """Overwrite the entries."""


class Arrays(Protocol):
    """Arrays of one kind, with the labels and weights of one objective's rows among them."""

    xp: Any

    def send(self, values: npt.NDArray[Any]) -> Any:
        """Turn a small array of numpy's into one of this kind."""

    def host(self, values: Any) -> Array:
        """Turn a small array of this kind into one of numpy's."""

    def zeros(self, *shape: int) -> Any:
        """Make an array of float64."""

    def double(self, block: Any) -> Any:
        """Copy a block to float64."""

    def at_least(self, values: Any, low: float) -> Any:
        """Replace values that are smaller."""

    def at_most(self, values: Any, high: float) -> Any:
        """Replace values that are larger."""

    def loss(self, u: Any) -> tuple[Any, Any]:
        """Return the loss of binary problems and its derivative, of minus the margins."""

    def slopes(self, u: Any) -> tuple[Any, Any]:
        """Return the first two derivatives of that loss; `u` may be overwritten."""

    def softmax(self, z: Any) -> tuple[Any, Any]:
        """Return the softmax over the last axis, and its logarithm."""

    def outer(self, a: Any, b: Any) -> Any:
        """Sum ``a[i, p, k] b[i, p, l]`` over the rows ``i``."""

    def groups(self, groups: Sequence[Group]) -> list[Group]:
        """Return groups whose columns and signs are arrays of this kind."""

    def weight(self, rows: slice, ndim: int) -> Any:
        """Return rows' weights to multiply a table of so many axes by; 1 where all have that."""

    def positive_entries(self, group: Group, rows: slice, positive: Any) -> PositiveEntries:
        """Find the positive entries of some rows of one of `groups`.

        `positive` is the positive class of each problem.
        """

    def label_entries(self, rows: slice, n_problems: int) -> LabelEntries:
        """Find some rows' entries in their own class."""

    def block_rows(self, columns: int) -> int:
        """Say how many rows of so many columns are in one block."""

    def map(
        self, visit: Callable[[ScoreBlock], Any], blocks: list[ScoreBlock]
    ) -> Iterable[tuple[ScoreBlock, Any]]:
        """Visit blocks; give them back with what was returned, in their order."""


class HostArrays:
    """Numpy's arrays."""

    xp: Any = np

    def __init__(
        self,
        labels: Integers,
        weight: Array | None,
        workers: Workers,
        loss: BinaryLoss = LOGISTIC,
    ) -> None:
        self._labels, self._weight, self._workers = labels, weight, workers
        self._loss = loss

    def send(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the array itself."""
        return values

    def host(self, values: Array) -> Array:
        """Return the array itself."""
        return values

    def zeros(self, *shape: int) -> Array:
        """Make an array of float64."""
        return np.zeros(shape)

    def double(self, block: npt.NDArray[Any]) -> Array:
        """Copy a block to float64."""
        return block.astype(np.float64)

    def at_least(self, values: Array, low: float) -> Array:
        """Replace values that are smaller."""
        return np.maximum(values, low)

    def at_most(self, values: Array, high: float) -> Array:
        """Replace values that are larger."""
        return np.minimum(values, high)

    def loss(self, u: Array) -> Any:
        """Return the loss of binary problems and its derivative, of minus the margins."""
        return self._loss.value(u)

    def slopes(self, u: Array) -> Any:
        """Return the first two derivatives of that loss; `u` is overwritten."""
        return self._loss.curvature(u)

    def softmax(self, z: Array) -> tuple[Array, Array]:
        """Return the softmax over the last axis, and its logarithm."""
        z = z - z.max(axis=-1, keepdims=True)
        p = np.exp(z)
        total = p.sum(axis=-1, keepdims=True)
        return p / total, z - np.log(total)

    def outer(self, a: Array, b: Array) -> Any:
        """Sum ``a[i, p, k] b[i, p, l]`` over the rows ``i``."""
        return np.einsum("npk,npl->pkl", a, b, optimize=True)

    def groups(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups themselves."""
        return list(groups)

    def weight(self, rows: slice, ndim: int) -> Any:
        """Return rows' weights to multiply a table of so many axes by; 1 where all have that."""
        if self._weight is None:
            return 1.0
        return self._weight[rows].reshape(-1, *[1] * (ndim - 1))

    def positive_entries(self, group: Group, rows: slice, positive: Integers) -> PositiveEntries:
        """Find some rows' positive entries."""
        return _PositiveEntries(group, self._labels[rows], positive)

    def label_entries(self, rows: slice, n_problems: int) -> LabelEntries:
        """Find some rows' entries in their own class."""
        return _LabelEntries(self._labels[rows])

    def block_rows(self, columns: int) -> int:
        """Say how many rows of so many columns are in one block."""
        return block_rows(columns)

    def map(
        self, visit: Callable[[ScoreBlock], Any], blocks: list[ScoreBlock]
    ) -> Iterable[tuple[ScoreBlock, Any]]:
        """Visit blocks in threads."""
        return zip(blocks, self._workers.map(visit, blocks), strict=True)


class _PositiveEntries:
    """The entries by their places, for one-vs-rest: at most one a row.

    One-vs-one's groups say for whole columns which are positive, and their scores are signed.
    """

    def __init__(self, group: Group, labels: Integers, positive: Integers) -> None:
        self.columns, self.sign = group.columns, group.sign
        self._entries: tuple[Integers, ...] | None = None
        if group.sign is None:
            self._entries = np.nonzero(labels[:, None] == positive)

    def flip(self, table: Array) -> None:
        if self._entries is not None:
            table[self._entries] = -table[self._entries]

    def add(self, u: Array, shift: Array) -> None:
        move = shift[self.columns]
        if self.sign is not None:
            u += self.sign * move
            return
        u += move
        assert self._entries is not None
        u[self._entries] -= 2 * move[self._entries[1]]

    def sums(self, table: Array) -> tuple[Array, Array]:
        whole = table.sum(axis=0)
        if self.sign is not None:
            return np.where(self.sign < 0, 0.0, whole), np.where(self.sign < 0, whole, 0.0)
        assert self._entries is not None
        mine = np.zeros_like(table)
        mine[self._entries] = table[self._entries]
        return (table - mine).sum(axis=0), mine.sum(axis=0)

    def choose(self, positive: Array, negative: Array, n_rows: int) -> Array:
        positive, negative = positive[self.columns], negative[self.columns]
        if self.sign is not None:
            return np.where(self.sign < 0, positive, negative)
        assert self._entries is not None
        table = np.tile(negative, (n_rows, 1))
        table[self._entries] = positive[self._entries[1]]
        return table


class _LabelEntries:
    def __init__(self, labels: Integers) -> None:
        self._labels, self._rows = labels, np.arange(len(labels))

    def of(self, table: Array) -> Array:
        return table[self._rows, :, self._labels]

    def put(self, table: Array, values: Any) -> None:
        table[self._rows, :, self._labels] = values
