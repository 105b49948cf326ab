"""What readers of feature files hand over: tables that are read in blocks, with columns beside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from data.common.packages import install_extra
from data.format.blocks import all_finite, name_rows

BLOCK_BYTES = 8 << 20

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Blocks = Iterator[tuple[int, Array]]


class Entry(Protocol):
    """An array of a file: its shape and type are known, its content is read when it is needed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sides; the first one counts rows."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its elements as they are stored."""

    def blocks(self, wanted: Mask) -> Blocks:
        """Read rows in order, with the number of the first one of each block.

        Stretches in which no row is wanted may be left out.
        """

    def load(self) -> Array:
        """Read all of it: for what is small beside the features."""


@dataclass(frozen=True)
class Sliced:
    """An array that can be sliced where it lies."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    # Opens the file anew each time, so that nothing stays open in between.
    opened: Callable[[], contextlib.AbstractContextManager[Any]]

    def blocks(self, wanted: Mask) -> Blocks:
        """Read slices."""
        step = rows_of_a_block(self.shape, self.dtype)
        with self.opened() as table:
            for start in range(0, self.shape[0], step):
                if wanted[start : start + step].any():
                    yield start, np.asarray(table[start : min(start + step, self.shape[0])])

    def load(self) -> Array:
        """Read one slice of everything."""
        with self.opened() as table:
            return np.array(table[:])


@dataclass(frozen=True)
class Held:
    """An array that is in memory."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sides."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its type."""
        return self.array.dtype

    def blocks(self, wanted: Mask) -> Blocks:
        """Cut it."""
        step = rows_of_a_block(self.shape, self.dtype)
        for start in range(0, len(self.array), step):
            if wanted[start : start + step].any():
                yield start, self.array[start : start + step]

    def load(self) -> Array:
        """Give it."""
        return self.array


def rows_of_a_block(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Say how many rows a block of moderate size has."""
    width = int(np.prod(shape[1:], dtype=object)) * dtype.itemsize
    return max(1, BLOCK_BYTES // max(1, width))


@dataclass(frozen=True)
class Reading:
    """What the user said about the files: names of arrays and columns, by role or by split."""

    columns: Mapping[str, str] = field(default_factory=dict)  # role -> name
    features: tuple[tuple[str | None, str], ...] = ()  # (split or None, name of an array)
    labels: tuple[tuple[str | None, str], ...] = ()
    obsm: str | None = None  # of AnnData: a table of obsm in place of X
    # Makes a folder for what has to be unpacked; it lives as long as what is read from it
    scratch: Callable[[], Path] | None = None
    on_note: Callable[[str], object] = lambda _: None


@dataclass(frozen=True)
class Part:
    """Rows that belong together: of one file, or of one split in a file."""

    source: str  # the name of the file, for messages and ids
    split: str | None  # train, test or validation, where the file says which
    features: Entry | None  # None in a table of labels
    columns: Mapping[str, Array]  # labels, split, groups, weights, ids: each (n_rows,)
    n_rows: int
    names: Mapping[str, str] = field(default_factory=dict)  # file and name of each column
    unread: tuple[str, ...] = ()  # arrays and columns that were not taken for anything
    class_names: tuple[str, ...] | None = None
    group_names: tuple[str, ...] | None = None


def named(source: str, found: Mapping[str, str]) -> dict[str, str]:
    """Name columns with their file, for messages."""
    return {role: f"{source}: {name}" for role, name in found.items()}


def converted(
    rows: Array, dtype: np.dtype[Any], part: Part, ids: Sequence[str]
) -> npt.NDArray[Any]:
    """Give rows the type of the store; name those that are no numbers there."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.ascontiguousarray(rows, dtype=dtype)
    if all_finite(found):
        return found
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(rows.astype(np.float64)).all(axis=1)
    bad = np.flatnonzero(~finite)
    what, advice = "NaN or infinite values", "fill them in, or leave these rows out"
    if not len(bad):
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        what = f"values that {dtype} cannot hold"
        advice = "scale the features" + ("" if dtype.itemsize > 2 else ", or --store-dtype float32")
    named = name_rows(len(bad), [ids[int(row)] for row in bad])
    raise UserError(f"{part.source}: the features have {what} in {named}; {advice}")


def type_note(entry: Entry, dtype: np.dtype[Any]) -> str | None:
    """Say how features change by being stored; None where every value stays what it is."""
    if np.can_cast(entry.dtype, dtype, "safe"):
        return None
    return f"features of {entry.dtype} are stored as {dtype}"


# What libraries raise for files that are damaged or something else.
_ODD = (OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError)


@contextlib.contextmanager
def refused(path: Path | str, kind: str, *more: type[Exception]) -> Iterator[None]:
    """Turn what a library raises for a damaged file into a `UserError`."""
    kinds: tuple[type[Exception], ...] = (*_ODD, *more)
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} cannot be read as {kind} ({reason}); it is damaged, cut off or something "
            "else: write it again, or give another file"
        ) from error


def needs(package: str, extra: str, what: str) -> UserError:
    """Say what to type where a package of an extra is not installed."""
    return UserError(
        f"{what} needs the package {package}, which is not installed; install it: "
        f"pip install {package} (or Icebox with its extra: {install_extra(extra)})"
    )


@dataclass(frozen=True)
class OutgoingSplit:
    """The rows of one split of a store on their way into another format."""

    name: str
    labels: npt.NDArray[np.int64]  # -1 where there is none
    label_names: tuple[str | None, ...]  # of each row
    ids: list[str]
    features: Any  # an array, or `data.format.stored_rows.StoredRows`
    dtype: np.dtype[Any]  # of the features in the store
    group_names: tuple[str, ...] | None = None  # of each row
    weights: npt.NDArray[np.float64] | None = None
    on_rows: Callable[[int], object] = lambda _: None  # hears of rows that were taken

    @property
    def short_name(self) -> str:
        """What follows ``X_`` in the names of arrays."""
        return "val" if self.name == "validation" else self.name

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.ids)

    def columns(self) -> dict[str, list[Any]]:
        """Give what stands beside the features, by role: labels and groups as names."""
        found: dict[str, list[Any]] = {"labels": list(self.label_names), "ids": list(self.ids)}
        if self.group_names is not None:
            found["groups"] = list(self.group_names)
        if self.weights is not None:
            found["weights"] = self.weights.tolist()
        return found

    def blocks(self, *, quiet: bool = False) -> Iterator[Array]:
        """Read the features block by block, in the type that they are stored in."""
        step = rows_of_a_block(self.features.shape, self.dtype)
        for start in range(0, self.n_rows, step):
            block = self._read(start, min(start + step, self.n_rows))
            yield block
            if not quiet:
                self.on_rows(len(block))

    def whole(self) -> Array:
        """Read all features."""
        self.on_rows(self.n_rows)
        return self._read(0, self.n_rows)

    def _read(self, start: int, stop: int) -> Array:
        if isinstance(self.features, np.ndarray):
            return self.features[start:stop]
        block = np.empty((stop - start, self.features.shape[1]), self.dtype)
        return np.asarray(self.features.read(start, stop, block))


@dataclass(frozen=True)
class Outgoing:
    """A store on its way into another format."""

    splits: tuple[OutgoingSplit, ...]
    width: int
    dtype: np.dtype[Any]
    class_names: tuple[str, ...]
    group_names: tuple[str, ...] = ()

    @property
    def has_weights(self) -> bool:
        """Say whether any row has a weight."""
        return any(split.weights is not None for split in self.splits)
