"""A store opened for a fit: in memory where it fits, and left on the disk where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from classify.heads.registry import head_kind, is_solved
from classify.records import Room
from classify.solver.design import COPY_BYTES
from classify.solver.few_rows import are_few, few_rows_bytes
from classify.solver.fit import plan
from classify.solver.memory import TooLittleMemoryError, column_bytes, show_bytes
from classify.solver.strategies import strategy_of
from classify.solver.tuning import GRAM_NUMBERS
from data.common.cli import log
from data.common.errors import UserError
from data.common.memory import default_memory

if TYPE_CHECKING:
    from data.format.records import Features, Header

# A label and a name: a text object of Python, and its place in a list.
ROW_BYTES = 150


def open_store(
    path: Path,
    strategies: tuple[str, ...],
    memory: int | None,
    jobs: int | None,
    normalize: bool = False,
    classes: tuple[str, ...] = (),
) -> tuple[Features, Room]:
    """Open and verify a store within a memory, and say how the memory is divided.

    The features stay on the disk where they do not fit; a `UserError` names the bytes that are
    needed where that does not suffice either. `normalize` counts a copy with rows of norm 1; of
    `classes`, where some are named, the rows alone are read.
    """
    from data.chosen_classes import open_classes
    from data.reading import read_header

    memory = default_memory() if memory is None else memory
    header = whole = read_header(path)
    if classes:
        header = open_classes(path, classes, verify=False, in_memory=False)
    n_classes = max(2, len(header.class_names))
    rows = _n_rows(header)
    copies = 4 * rows * header.n_features if normalize else 0
    solved = tuple(name for name in strategies if is_solved(name))
    kinds = [head_kind(name) for name in strategies if not is_solved(name)]
    of_columns = {
        strategy: column_bytes(header.n_features, 4, strategy, n_classes) for strategy in solved
    }
    shape = (header.n_train + header.n_validation, header.n_features, n_classes)
    of_columns |= {kind.name: kind.fit_bytes(*shape) for kind in kinds}
    in_memory = in_memory_bytes(header) + copies
    needed = in_memory + max(of_columns.values())
    pairs = [name for name in solved if strategy_of(name).coding == "ovo"]
    if needed > memory and pairs and few_rows(header):
        n_fitted = header.n_train + header.n_validation
        few = few_rows_bytes(n_fitted, header.n_features, n_classes)
        of_columns.update(dict.fromkeys(pairs, few))
        needed = in_memory + max(of_columns.values())
    if needed <= memory:
        return open_classes(path, classes), Room(memory, False, None)
    kept = kept_bytes(header, len(strategies)) + ROW_BYTES * (_n_rows(whole) - rows)
    failed = shortages(header, solved, memory - kept, jobs)
    failed |= _other_shortages(header, kinds, memory - kept)
    if failed:
        worst = max(failed.values(), key=lambda error: error.needed)
        rest = [f"--head {name}" for name in strategies if name not in failed]
        advice = f"fit the others alone: {' '.join(rest)}" if rest else "fewer heads"
        raise UserError(
            f"{path}: --memory is {show_bytes(memory)}, and fitting {worst.what} needs at least "
            f"{show_bytes(worst.needed + kept)}, even with the features left on the disk; give "
            f"more, or {advice}"
        ) from worst
    log(
        f"{path}: with its features in memory a fit needs {show_bytes(needed)}, more than "
        f"--memory {show_bytes(memory)}; they stay on the disk and are read in blocks"
    )
    return open_classes(path, classes, in_memory=False), Room(memory, True, memory - kept)


def _n_rows(header: Header) -> int:
    return header.n_train + header.n_validation + header.n_test


def few_rows(header: Header) -> bool:
    """Say whether one-vs-one's pairs are fitted in the coordinates of their few rows."""
    from data.chosen_classes import open_classes

    if (header.n_train + header.n_validation) ** 2 > GRAM_NUMBERS:  # it takes no labels to tell
        return False
    found = open_classes(header.path, header.kept_classes, verify=False, in_memory=False)
    labels = found.train.labels
    if found.validation is not None:
        labels = np.concatenate([labels, found.validation.labels])
    sizes = np.unique(labels, return_counts=True)[1]
    return len(sizes) > 2 and are_few(sizes, header.n_features)


def shortages(
    header: Header, strategies: tuple[str, ...], memory: int, jobs: int | None
) -> dict[str, TooLittleMemoryError]:
    """Find the strategies that cannot be fitted from the disk within a memory, and why."""
    n_classes = max(2, len(header.class_names))
    shape = (header.n_train + header.n_validation, header.n_features)
    failed: dict[str, TooLittleMemoryError] = {}
    for strategy in strategies:
        try:
            plan(shape, np.dtype(np.float32), strategy, n_classes, memory, jobs)
        except TooLittleMemoryError as error:
            failed[strategy] = error
    return failed


def _other_shortages(
    header: Header, kinds: Sequence[Any], memory: int
) -> dict[str, TooLittleMemoryError]:
    """Find the other heads that cannot be fitted within a memory, and why."""
    n_rows, n_features = header.n_train + header.n_validation, header.n_features
    failed: dict[str, TooLittleMemoryError] = {}
    for kind in kinds:
        needed = kind.fit_bytes(n_rows, n_features, max(2, len(header.class_names)))
        if kind.needs_matrix():
            needed += 4 * n_rows * n_features
        if needed > memory:
            what = f"{kind.name} on {n_rows:,} rows x {n_features:,} features"
            failed[kind.name] = TooLittleMemoryError(what, needed, memory)
    return failed


def in_memory_bytes(header: Header) -> int:
    """Count the bytes of a fit in memory: the features, and its copies of them."""
    # The splits in float32, and in half precision if that is how they are stored; a copy of the
    # training rows in another order, up to the size at which none is made; the held-out rows. A
    # validation split is copied to the training rows, into a table of its own.
    row = 4 * header.n_features
    train, more, test = row * header.n_train, row * header.n_validation, row * header.n_test
    widened = (train + more + test) // 2 if header.dtype == "float16" else 0
    held = 2 * more + train if more else train // 10
    return train + more + test + widened + min(train + more, COPY_BYTES) + held


def kept_bytes(header: Header, n_strategies: int) -> int:
    """Count the bytes that a run out of core holds besides its fits."""
    # Labels and names of all rows; every strategy's scores and probabilities of the test rows, and
    # the temporary arrays of the metrics.
    rows = ROW_BYTES * _n_rows(header)
    return rows + (2 * n_strategies + 6) * 8 * header.n_test * len(header.class_names)
