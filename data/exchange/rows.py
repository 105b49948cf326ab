"""From what is in the files to the rows of a store's splits."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from data.exchange.classes import (
    Coded,
    check_no_measures,
    coded,
    named_by,
    rearranged,
    together,
    weights_of,
)
from data.exchange.names import listed, split_named, split_of_file
from data.exchange.records import Part, converted
from data.images.sampling import hold_out, hold_out_groups

SPLITS = ("train", "test", "validation", "unlabelled")


@dataclass(frozen=True)
class Wanted:
    """How rows become splits."""

    class_names: tuple[str, ...] | None = None  # from --class-names
    class_names_file: str = ""
    test_fraction: float | None = None
    seed: int = 0
    merges: tuple[str, ...] = ()  # a=b,c
    drops: tuple[str, ...] = ()  # classes whose rows are left out
    split_values: Mapping[str, str] = field(default_factory=dict)  # value -> split; else train


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split: where they lie, and what stands beside them."""

    parts: tuple[tuple[Part, npt.NDArray[np.bool_]], ...]  # which rows of each
    labels: npt.NDArray[np.int64]
    ids: list[str]
    groups: npt.NDArray[np.int64] | None
    weights: npt.NDArray[np.float64] | None

    def blocks(
        self, dtype: np.dtype[Any]
    ) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]:
        """Read the features in the type of the store, with the rows that have an embedding."""
        done = 0
        for part, mask in self.parts:
            assert part.features is not None
            before = done
            for start, block in part.features.blocks(mask):
                rows = block[mask[start : start + len(block)]]
                ids = self.ids[done : done + len(rows)]
                done += len(rows)
                if len(rows):
                    yield converted(rows, dtype, part, ids), np.ones(len(rows), np.bool_)
            if done - before != int(mask.sum()):
                raise UserError(
                    f"{part.source} ended after {done - before:,} of {int(mask.sum()):,} rows; it "
                    "has changed while it was read, or is cut off"
                )


@dataclass(frozen=True)
class Rows:
    """The rows of all splits."""

    splits: dict[str, SplitRows]
    class_names: tuple[str, ...]
    group_names: tuple[str, ...]
    width: int


def attached(parts: Sequence[Part]) -> list[Part]:
    """Give tables of labels, which are files of their own, to the features that they describe."""
    features = [part for part in parts if part.features is not None]
    tables = [part for part in parts if part.features is None]
    if not features:
        raise UserError(
            f"{listed(part.source for part in parts)}: no features in there; give a file with a "
            "table of numbers (X, features, embedding, or feature_0, feature_1, ...), or name it "
            "with --features-path"
        )
    if len(features) > 1:
        features, tables = [_by_file(p) for p in features], [_by_file(p) for p in tables]
    for table in tables:
        fitting = [n for n, p in enumerate(features) if p.split == table.split]
        fitting = [0] if len(features) == 1 else fitting
        if len(fitting) != 1:
            raise UserError(
                f"{table.source} holds labels, and it is not clear of which of "
                f"{listed(part.source for part in features)}; name the files alike, such as "
                "train.npy train.csv test.npy test.csv"
            )
        features[fitting[0]] = _joined(features[fitting[0]], table)
    return features


def _by_file(part: Part) -> Part:
    """Take the split from the name of the file where the file itself has none."""
    if part.split is not None or "split" in part.columns:
        return part
    return replace(part, split=split_of_file(Path(part.source).stem))


def _joined(part: Part, table: Part) -> Part:
    if table.n_rows != part.n_rows:
        raise UserError(
            f"{part.source} has {part.n_rows:,} rows of features and {table.source} has "
            f"{table.n_rows:,} rows; both must describe the same rows, in the same order"
        )
    if "labels" in part.columns and "labels" in table.columns:
        raise UserError(
            f"{part.source} has labels, and so has {table.source}; leave one of the files out"
        )
    return replace(
        part,
        columns={**part.columns, **table.columns},
        names={**part.names, **table.names},
        class_names=part.class_names or table.class_names,
        group_names=part.group_names or table.group_names,
    )


def arranged(parts: Sequence[Part], wanted: Wanted) -> Rows:
    """Put the rows of all files into splits, and refuse what nothing can be fitted to."""
    rows = assembled(parts, wanted)
    _check(rows.splits, rows.class_names, parts)
    return rows


def assembled(parts: Sequence[Part], wanted: Wanted) -> Rows:
    """Put the rows of all files into splits, and turn labels into indices of classes."""
    parts = attached(parts)
    width = _width(parts)
    for part in parts:
        for role, values in part.columns.items():
            if len(values) != part.n_rows:
                raise UserError(
                    f"{where_of(part, role)} has {len(values):,} values for {part.n_rows:,} rows; "
                    "the file is damaged: write it again"
                )
        if "labels" not in part.columns:
            other = f" (it has {listed(part.unread)})" if part.unread else ""
            raise UserError(
                f"{part.source} has no labels{other}; name an array with --labels-path or a column "
                "with --label-column, or give a table of labels beside it, such as labels.csv"
            )
    class_names, labels = _labels(parts, wanted)
    class_names, labels, gone = rearranged(class_names, labels, wanted.merges, wanted.drops)
    group_names, groups = _groups(parts)
    weights = _weights(parts)
    ids = [name for part in parts for name in ids_of(part)]
    split = _splits(parts, wanted.split_values)
    split[labels < 0] = SPLITS.index("unlabelled")
    labels = np.where(split == SPLITS.index("unlabelled"), -1, labels)
    split[gone] = -1  # of no split: these rows are left out
    if wanted.test_fraction is not None:
        _hold_out(split, labels, groups, group_names, ids, wanted)
    found = {}
    starts = np.cumsum([0, *(part.n_rows for part in parts)])
    for number, name in enumerate(SPLITS):
        rows = np.flatnonzero(split == number)
        if len(rows) or name in ("train", "test"):
            masks = [split[a:b] == number for a, b in itertools.pairwise(starts.tolist())]
            found[name] = SplitRows(
                tuple(zip(parts, masks, strict=True)),
                labels[rows],
                [ids[row] for row in rows.tolist()],
                None if groups is None else groups[rows],
                None if weights is None else weights[rows],
            )
    return Rows(found, class_names, group_names, width)


def _width(parts: Sequence[Part]) -> int:
    widths = {part.features.shape[1]: part.source for part in parts if part.features is not None}
    if len(widths) > 1:
        have = " and ".join(f"{width:,} ({source})" for width, source in widths.items())
        raise UserError(f"the features have different widths: {have}; one network makes one width")
    return next(iter(widths))


def where_of(part: Part, role: str) -> str:
    """Name a column of a file in a message."""
    return part.names.get(role, f"{part.source}: {role}")


def _labels(parts: Sequence[Part], wanted: Wanted) -> tuple[tuple[str, ...], Any]:
    found: list[Coded] = []
    given = wanted.class_names or next((p.class_names for p in parts if p.class_names), None)
    for part in parts:
        where = where_of(part, "labels")
        one = coded(np.asarray(part.columns["labels"]), where)
        if wanted.class_names is not None:
            whole = one.whole or all(name.isdecimal() for name in one.names)
            one = named_by(
                replace(one, whole=whole and not set(one.names) <= set(wanted.class_names)),
                wanted.class_names,
                where,
                f"--class-names {wanted.class_names_file}",
            )
        elif part.class_names is not None:
            one = named_by(one, part.class_names, where, f"class_names of {part.source}")
        check_no_measures(one.names, part.n_rows, where)
        found.append(one)
    return together(found, given)


def _groups(parts: Sequence[Part]) -> tuple[tuple[str, ...], Any]:
    having = [part for part in parts if "groups" in part.columns]
    if not having:
        return (), None
    found = []
    for part in parts:
        if "groups" not in part.columns:
            raise UserError(f"{having[0].source} has groups and {part.source} has none")
        one = coded(np.asarray(part.columns["groups"]), where_of(part, "groups"))
        missing = np.flatnonzero(one.codes < 0)
        if len(missing):
            raise UserError(
                f"{where_of(part, 'groups')} is empty in row {missing[0]} ({len(missing):,} such "
                "rows); every row needs a group: give each such row one of its own"
            )
        found.append(one)
    return together(found, next((p.group_names for p in parts if p.group_names), None))


def _weights(parts: Sequence[Part]) -> Any:
    having = [part for part in parts if "weights" in part.columns]
    if not having:
        return None
    for part in parts:
        if "weights" not in part.columns:
            raise UserError(f"{having[0].source} has weights and {part.source} has none")
    return np.concatenate(
        [weights_of(np.asarray(p.columns["weights"]), where_of(p, "weights")) for p in parts]
    )


def ids_of(part: Part) -> list[str]:
    """Give each row a name: its own, or the file's with the number of the row."""
    if "ids" not in part.columns:
        split = f"{part.split}:" if part.split is not None else ""
        return [f"{part.source}:{split}{row}" for row in range(part.n_rows)]
    values = np.asarray(part.columns["ids"]).tolist()
    names = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]
    missing = [row for row, value in enumerate(values) if value is None or not str(value)]
    if missing:
        raise UserError(
            f"{where_of(part, 'ids')} is empty in row {missing[0]} ({len(missing):,} such rows); "
            "fill it in, or number the rows with --id-column none"
        )
    return names


def _splits(parts: Sequence[Part], values: Mapping[str, str]) -> npt.NDArray[np.int64]:
    """Give the number of each row's split; rows of no split are training rows."""
    found = []
    named = [part for part in parts if part.split is not None or "split" in part.columns]
    for part in parts:
        if "split" in part.columns:
            found.append(_split_column(part, values))
            continue
        if part.split is None and named:
            raise UserError(
                f"{named[0].source} says which split its rows are, and {part.source} does not; "
                "name the files train, test and val, or give both a split column"
            )
        found.append(np.full(part.n_rows, SPLITS.index(part.split or "train"), np.int64))
    return np.concatenate(found)


def _split_column(part: Part, values: Mapping[str, str]) -> npt.NDArray[np.int64]:
    where = where_of(part, "split")
    one = coded(np.asarray(part.columns["split"]), where)
    missing = np.flatnonzero(one.codes < 0)
    if len(missing):
        raise UserError(
            f"{where} is empty in row {missing[0]} ({len(missing):,} such rows); give train, test "
            "or val"
        )
    numbers = []
    for number, name in enumerate(one.names):
        split = split_named(values.get(name, "train") if values else name)
        if split is None:
            count = int((one.codes == number).sum())
            raise UserError(
                f"{where} has the value {name} ({count:,} rows), expected train, test or val; "
                "change it, name another column with --split-column, or say which values are not "
                f"for training: --split-column COLUMN:test={name}"
            )
        numbers.append(SPLITS.index(split))
    return np.array(numbers, np.int64)[one.codes]


def _hold_out(
    split: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    groups: Any,
    group_names: Sequence[str],
    ids: Sequence[str],
    wanted: Wanted,
) -> None:
    """Make a share of the training rows test rows."""
    assert wanted.test_fraction is not None
    if (split == SPLITS.index("test")).any():
        raise UserError("--test-fraction: the files have a test split; leave the option out")
    rows = np.flatnonzero(split == SPLITS.index("train"))
    if groups is not None:
        chosen = hold_out_groups(
            labels[rows], groups[rows], group_names, wanted.test_fraction, wanted.seed
        )
    else:
        chosen = np.zeros(len(rows), np.bool_)
        for label in np.unique(labels[rows]):
            here = np.flatnonzero(labels[rows] == label)
            names = [ids[row] for row in rows[here].tolist()]
            chosen[here] = hold_out(names, wanted.test_fraction, wanted.seed)
    if not chosen.any():
        raise UserError(
            f"--test-fraction {wanted.test_fraction:g}: no row can be spared, because no class has "
            "a second row or group; give more rows, or a test split"
        )
    split[rows[chosen]] = SPLITS.index("test")


def _check(splits: dict[str, SplitRows], class_names: Sequence[str], parts: Sequence[Part]) -> None:
    """Refuse what nothing can be fitted to or tested on."""
    sources = listed(part.source for part in parts)
    train, test = splits["train"], splits["test"]
    if not len(train.ids):
        raise UserError(f"{sources}: there are no training rows; name a split or file train")
    if not len(test.ids):
        raise UserError(
            f"{sources}: there are no test rows; hold some out with --test-fraction 0.2, or give a "
            "split column or a file of test rows"
        )
    counts = np.bincount(train.labels, minlength=len(class_names))
    present = [name for name, count in zip(class_names, counts, strict=True) if count]
    if len(present) < 2:
        raise UserError(
            f"{sources}: the training rows have {len(present)} class ({listed(present)}); a "
            "classifier needs two or more"
        )
    for name in ("test", "validation"):
        if name in splits:
            new = sorted({class_names[c] for c in splits[name].labels.tolist() if not counts[c]})
            if new:
                raise UserError(
                    f"{sources}: {name} rows have classes that no training row has: {listed(new)}; "
                    "add training rows of them, or leave these rows out"
                )
    if counts.max() < 2:
        raise UserError(
            f"{sources}: no class has more than one training row ({len(present):,} classes); are "
            "these labels, or names of rows? Name the labels with --label-column"
        )
    for name, rows in splits.items():
        if len(set(rows.ids)) < len(rows.ids):
            twice = next(name for name, times in Counter(rows.ids).items() if times > 1)
            raise UserError(
                f"{sources}: the id {twice} stands for more than one {name} row; name another "
                "column with --id-column, or number the rows with --id-column none"
            )
