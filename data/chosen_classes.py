"""The rows of some classes of a store, as if the store held no others; nothing is copied on disk.

Of three classes or more the order is the store's, so that the same classes are the same problem
however they are named. Of two, the second that is named is the positive one.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError, nearest
from data.format.records import Features, FeatureSplit, Header
from data.format.stored_rows import SelectedRows

OPTION = "--classes"
_EXAMPLE = f"such as {OPTION} cat,dog"
_SHOWN = 8


def parse_classes(text: str) -> tuple[str, ...]:
    """Parse names that are separated by commas; a name that holds one stands in double quotes."""
    try:
        [cells] = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{OPTION} is {text!r}, which is no list of names ({error}); expected names "
            f"separated by commas, {_EXAMPLE}"
        ) from error
    names = [cell.strip() for cell in cells] or [""]
    if not all(names):
        raise UserError(f"{OPTION} is {text!r}, which names an empty class; {_expected(names)}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(
            f"{OPTION} is {text!r}, which names {repeated[0]!r} twice; {_expected(names)}"
        )
    if len(names) < 2:
        raise UserError(
            f"{OPTION} is {text!r}, which is one class; a classifier needs two or more, {_EXAMPLE}"
        )
    return tuple(names)


def _expected(names: Sequence[str]) -> str:
    once = [name for name in dict.fromkeys(names) if name]
    return f"name each once: {OPTION} {','.join(once)}" if len(once) > 1 else _EXAMPLE


def check_names(header: Header, wanted: Sequence[str]) -> None:
    """Refuse names that are no class of a store; the `UserError` has the nearest that are."""
    known = header.class_names
    unknown = [name for name in wanted if name not in known]
    if not unknown:
        return
    told = "; ".join(f"{name!r}: {nearest(name, known) or 'nothing like it'}" for name in unknown)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    raise UserError(
        f"{OPTION} names what is no class of {header.path}: {told} "
        f"(its classes: {', '.join(known[:_SHOWN])}{more})"
    )


def keep_classes(features: Features, wanted: Sequence[str]) -> Features:
    """Keep the rows of some classes, with their ids, groups, weights and digests.

    Features that lie on the disk stay there. Rows without labels are left out. A `UserError` says
    which class is not there, or has no training or no test rows.
    """
    check_names(features, wanted)
    names = features.class_names
    order = wanted if len(wanted) == 2 else sorted(wanted, key=names.index)
    new = np.full(len(names), -1)
    new[[names.index(name) for name in order]] = np.arange(len(order))
    splits = {
        name: _kept(split, new) for name, split in features.splits.items() if name != "unlabelled"
    }
    for split, called in (("train", "training"), ("test", "test")):
        counts = np.bincount(splits[split].labels, minlength=len(order))
        if not counts.all():
            lost = [name for name, n in zip(order, counts, strict=True) if not n]
            raise UserError(
                f"{OPTION}: {features.path} has no {called} rows of {', '.join(lost)}; name other "
                "classes, or make the store with more images (--limit)"
            )
    more = splits.get("validation")
    more = more if more is not None and len(more) else None
    return replace(
        features,
        class_names=tuple(order),
        kept_classes=tuple(order),
        n_train=len(splits["train"]),
        n_test=len(splits["test"]),
        n_validation=0 if more is None else len(more),
        n_unlabelled=0,
        train=splits["train"],
        test=splits["test"],
        validation=more,
        unlabelled=None,
    )


def _kept(split: FeatureSplit, new: npt.NDArray[np.int64]) -> FeatureSplit:
    rows = np.flatnonzero(new[split.labels] >= 0)
    X = split.features
    kept: Any = X[rows] if isinstance(X, np.ndarray) else SelectedRows(X, rows)
    return FeatureSplit(
        kept,
        new[split.labels[rows]],
        [split.ids[row] for row in rows.tolist()],
        _some(split.groups, rows),
        _some(split.weights, rows),
        _some(split.image_sha256, rows),
        rows,
    )


def _some(column: Any, rows: npt.NDArray[np.intp]) -> Any:
    return None if column is None else column[rows]


def into_memory(features: Features) -> Features:
    """Read features that lie on the disk; those that are in memory stay what they are."""

    def read(split: FeatureSplit | None) -> Any:
        if split is None or isinstance(split.features, np.ndarray):
            return split
        return replace(split, features=split.features.read(0, len(split)))

    return replace(
        features,
        train=read(features.train),
        test=read(features.test),
        validation=read(features.validation),
        unlabelled=read(features.unlabelled),
    )


def open_classes(
    path: Path, wanted: Sequence[str], *, verify: bool = True, in_memory: bool = True
) -> Features:
    """Open a store as `data.reading.open_features` does, and keep some classes, or all for none.

    The rows of other classes are verified like all others, and take no memory.
    """
    from data.reading import open_features

    if not wanted:
        return open_features(path, verify=verify, in_memory=in_memory)
    kept = keep_classes(open_features(path, verify=verify, in_memory=False), wanted)
    return into_memory(kept) if in_memory else kept
