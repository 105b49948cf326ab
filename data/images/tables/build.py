"""From the rows of a table to the splits of a dataset; what cannot be is refused with its rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.cli import log
from data.common.errors import UserError, nearest
from data.images.arrays import FileImages, RawDataset, RecordImages, Split
from data.images.decode import SUFFIXES
from data.images.splits import SPELLINGS, split_of
from data.images.tables.files import ImageFolder, missing_files
from data.images.tables.records import (
    NAMED,
    NOT_A_NUMBER,
    Column,
    Table,
    in_order,
    is_number,
    rows_text,
)

Rows = npt.NDArray[np.int64]
PARTS = ("train", "test", "validation")
UNLABELLED = -1
_WHOLE = re.compile(r"([+-]?\d+)\.0*")


def build_dataset(
    table: Table, name: str, root: Path, split_values: Mapping[str, str]
) -> RawDataset:
    """Make a dataset of a table: its labelled rows by split, and the others, in the table's order.

    A table without splits is all training rows: who asked for it holds out a part.
    """
    if not len(table):
        raise UserError(
            f"the table {table.path} has no rows, only the columns; a row for each image is "
            "expected: add them, or give another table"
        )
    table = _with_files(table, root)
    labels = _labels(table)
    parts = _parts(table, labels, split_values)
    kept = _without_repeats(table, labels, parts)
    class_names, index = _classes(table, labels)
    groups, group_names = _groups(table, labels)
    weights = _weights(table, labels)
    coded = np.append(index, -1)[labels.codes]

    def split(rows: Rows, *, labelled: bool = True) -> Split:
        names = tuple(table.names[row] for row in rows.tolist())
        images = (
            FileImages(root, names) if table.records is None else RecordImages(table.records, rows)
        )
        return Split(
            images,
            coded[rows],
            names,
            groups[rows] if labelled and groups is not None else None,
            weights[rows] if labelled and weights is not None else None,
        )

    found = {part: kept[parts[kept] == i] for i, part in enumerate(PARTS)}
    unlabelled = kept[parts[kept] == UNLABELLED]
    if len(unlabelled):
        log(
            f"{table.path}: {len(unlabelled):,} of {len(table):,} rows have no label; they are "
            "embedded, and left out of fits"
        )
    return RawDataset(
        name,
        class_names,
        split(found["train"]),
        split(found["test"]),
        _origin(table, found, unlabelled),
        validation=split(found["validation"]) if len(found["validation"]) else None,
        unlabelled=split(unlabelled, labelled=False) if len(unlabelled) else None,
        group_names=group_names,
    )


def _origin(table: Table, found: Mapping[str, Rows], unlabelled: Rows) -> dict[str, Any]:
    columns = {"image": table.image_column}
    for role in ("label", "split", "group", "weight"):
        column = getattr(table, role)
        if column is not None:
            columns[role] = column.name
    return {
        "kind": "table",
        "path": str(table.path),
        "columns": columns,
        "n_rows": len(table),
        "n_unlabelled": len(unlabelled),
        "splits": {part: len(rows) for part, rows in found.items() if len(rows)},
        "sha256": None,
        "verified": False,
    }


def _with_files(table: Table, root: Path) -> Table:
    """Find the image files of a table."""
    empty = [row for row, name in enumerate(table.names) if not name]
    if empty:
        raise UserError(
            f"{table.path}: {len(empty):,} rows have no image in the column {table.image_column} "
            f"({rows_text(empty)}); write the names, or remove the rows"
        )
    if table.records is not None:
        return table
    names, missing = ImageFolder(root).resolve(table.names)
    if missing:
        raise missing_files(table.path, table.image_column, root, table.names, missing)
    return replace(table, names=names)


def _labels(table: Table) -> Column:
    """Check the labels; whole numbers lose their point, which pandas adds beside empty cells."""
    labels = table.label
    if not labels.values:
        raise UserError(
            f"{table.path}: every cell of the column {labels.name} is empty, so there is nothing "
            "to learn; write the labels, or name another column with --label-column"
        )
    for value in labels.values:
        if value.lower() == NOT_A_NUMBER:
            rows = labels.rows_of(value)
            raise UserError(
                f"{table.path}: the label of {len(rows):,} rows is {value} in the column "
                f"{labels.name} ({rows_text(rows)}); write the class, or leave the cell empty: an "
                "image without a label is embedded and left out of fits"
            )
    paths = [value for value in labels.values if value.lower().endswith(SUFFIXES)]
    if len(paths) * 2 > len(labels.values):
        raise UserError(
            f"{table.path}: the column {labels.name} looks like names of images, not like labels "
            f"({rows_text([0], {0: labels[0]})})\nname that of the classes with --label-column"
        )
    if all(map(is_number, labels.values)):
        whole = [_WHOLE.fullmatch(value) for value in labels.values]
        if all(
            found or "." not in value for found, value in zip(whole, labels.values, strict=True)
        ):
            plain = [f[1] if f else v for f, v in zip(whole, labels.values, strict=True)]
            names = list(dict.fromkeys(plain))
            codes = np.array([*map(names.index, plain), -1], np.int64)
            labels = Column(labels.name, names, codes[labels.codes])
    if table.class_names:
        labels = _named_labels(table, labels)
    return labels


def _named_labels(table: Table, labels: Column) -> Column:
    """Name labels that number the classes that the table itself lists."""
    for value in labels.values:
        if not value.isdecimal() or int(value) >= len(table.class_names):
            rows = labels.rows_of(value)
            raise UserError(
                f"{table.path}: the label {value} of {rows_text(rows)} numbers none of the "
                f"{len(table.class_names)} classes that the file lists (0 to "
                f"{len(table.class_names) - 1}); mend the column {labels.name}, or write the file "
                "again without the list"
            )
    return replace(labels, values=[table.class_names[int(value)] for value in labels.values])


def _parts(table: Table, labels: Column, split_values: Mapping[str, str]) -> Rows:
    """Tell the split of each row: an index into `PARTS`, or `UNLABELLED`."""
    parts = np.zeros(len(table), np.int64)
    split = table.split
    if split is not None:
        of_value = [_part_of(table, labels, value, split_values) for value in split.values]
        parts = np.array([*of_value, -2], np.int64)[split.codes]
        nowhere = np.flatnonzero((parts == -2) & (labels.codes >= 0))
        if len(nowhere):
            raise UserError(
                f"{table.path}: {len(nowhere):,} rows with a label have no split in the column "
                f"{split.name} ({rows_text(nowhere)}); write train, test or val in each"
            )
    parts[labels.codes < 0] = UNLABELLED
    if split is not None and not (parts == 0).any():
        there = ", ".join(split.values[:NAMED])
        raise UserError(
            f"{table.path}: no row of the column {split.name} is for training (it has {there}); "
            "write train in some, or name another column with --split-column"
        )
    return parts


def _part_of(table: Table, labels: Column, value: str, split_values: Mapping[str, str]) -> int:
    assert table.split is not None
    if split_values:
        named = split_values.get(value)
        part = "train" if named is None else split_of(named)
        if part is None:
            raise UserError(
                f"--split-column {table.split.name}:{named}={value}: {named} is no split; "
                "give test or val"
            )
        return PARTS.index(part)
    part = split_of(value)
    if part is not None:
        return PARTS.index(part)
    rows = table.split.rows_of(value)
    rows = rows[labels.codes[rows] >= 0]
    if not len(rows):  # images without labels need no split
        return UNLABELLED
    where = (
        f"{table.path}: the split of {rows_text(rows)} is {value} in the column {table.split.name}"
    )
    if is_number(value):
        raise UserError(
            f"{where}: a number names a fold, and not which split it is\nsay which folds are not "
            f"for training, such as --split-column {table.split.name}:test={value} or "
            f"{table.split.name}:test={value},val=OTHER"
        )
    known = [name for names in SPELLINGS.values() for name in names]
    raise UserError(
        f"{where}, which is no split that is known; write train, test or val\n"
        + nearest(value, known)
    )


def _without_repeats(table: Table, labels: Column, parts: Rows) -> Rows:
    """Leave out rows that say the same again; refuse rows of an image with different labels."""
    if len(set(table.names)) == len(table):
        return np.arange(len(table), dtype=np.int64)
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(table.names):
        rows_of.setdefault(name, []).append(row)
    kept: list[int] = []
    conflicts: list[tuple[str, list[int]]] = []
    for name, rows in rows_of.items():
        labelled = [row for row in rows if labels.codes[row] >= 0]
        if len({int(labels.codes[row]) for row in labelled}) > 1:
            conflicts.append((name, labelled))
        # Once in each split; where there is a label, not as an image without one.
        first: dict[int, int] = {}
        for row in labelled or rows:
            first.setdefault(int(parts[row]), row)
        kept += first.values()
    if conflicts:
        said = [
            f"{name}: "
            + ", ".join(f"row {row + 1} {labels[row]}" for row in rows[:NAMED])
            + (", ..." if len(rows) > NAMED else "")
            for name, rows in conflicts[:NAMED]
        ]
        more = "; ..." if len(conflicts) > NAMED else ""
        raise UserError(
            f"{table.path}: {len(conflicts):,} images have rows with different labels in the "
            f"column {labels.name} ({'; '.join(said)}{more})\nleave one row for each image, with "
            "one label"
        )
    n_left = len(table) - len(kept)
    if n_left:
        log(f"{table.path}: {n_left:,} rows name an image a second time, and are left out")
    return np.sort(np.array(kept, np.int64))


def _classes(table: Table, labels: Column) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Order the classes; returns their names, and for each label its class."""
    names = tuple(in_order(labels.values) if not table.class_names else _listed(table, labels))
    place = {name: index for index, name in enumerate(names)}
    return names, np.array([place[value] for value in labels.values], np.int64)


def _listed(table: Table, labels: Column) -> list[str]:
    """Order classes as the table lists them."""
    there = set(labels.values)
    return [name for name in table.class_names if name in there]


def _groups(table: Table, labels: Column) -> tuple[Rows | None, tuple[str, ...]]:
    column = table.group
    if column is None:
        return None, ()
    alone = np.flatnonzero((column.codes < 0) & (labels.codes >= 0))
    if len(alone):
        raise UserError(
            f"{table.path}: {len(alone):,} rows with a label have no group in the column "
            f"{column.name} ({rows_text(alone)}); write one in each: a name of its own for an "
            "image that belongs to no other"
        )
    used = set(np.unique(column.codes[labels.codes >= 0]).tolist())
    names = tuple(in_order(column.values[code] for code in used))
    place = {name: index for index, name in enumerate(names)}
    index = np.array([*(place.get(value, -1) for value in column.values), -1], np.int64)
    return index[column.codes], names


def _weights(table: Table, labels: Column) -> npt.NDArray[np.float64] | None:
    column = table.weight
    if column is None:
        return None
    of_value = np.array([*map(_number, column.values), math.nan])
    weights = of_value[column.codes]
    for wrong, what in (
        (~np.isfinite(weights), "no number"),
        (weights < 0, "negative"),
    ):
        rows = np.flatnonzero(wrong & (labels.codes >= 0))
        if len(rows):
            said = {int(row): column[int(row)] or "empty" for row in rows[:NAMED]}
            raise UserError(
                f"{table.path}: the weight of {len(rows):,} rows is {what} in the column "
                f"{column.name}: {rows_text(rows, said)}; a number of 0 or more is expected in "
                "each row with a label"
            )
    if not weights[labels.codes >= 0].any():
        raise UserError(
            f"{table.path}: every weight of the column {column.name} is 0, so there is nothing to "
            "learn; write numbers above 0, or name another column with --weight-column"
        )
    return weights


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
