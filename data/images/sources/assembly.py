"""From the rows that a source listed to a dataset: classes, splits, rows without labels.

Sources that bring splits and labels of their own (``hf:``, ``wds:``, ``torchvision:``, sequences)
read them row by row into `Rows`; what follows is the same for all of them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.cli import log
from data.common.errors import UserError, nearest
from data.images.arrays import (
    ArrayImages,
    EncodedImages,
    FileImages,
    RawDataset,
    RecordImages,
    Split,
)
from data.images.sources.registry import SourceRequest, dataset_name

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
NAMED = 3  # of rows that are at fault


@dataclass
class Rows:
    """The rows of one split."""

    images: ArrayImages | EncodedImages
    labels: Sequence[Any]  # text, whole numbers, or None where there is none
    ids: Sequence[str]
    groups: Sequence[Any] | None = None
    weights: Sequence[Any] | None = None


@dataclass
class Listed:
    """What a source listed."""

    splits: Mapping[str, Rows]  # by train, validation, test
    path: str  # where it lies, for messages and the provenance
    class_names: Sequence[str] | None = None  # what labels that are numbers stand for
    origin: Mapping[str, Any] = field(default_factory=dict)  # of the provenance: what else


def assemble(asked: SourceRequest, listed: Listed, *, kind: str) -> RawDataset:
    """Make a dataset of what was listed."""
    found = {name: rows for name, rows in listed.splits.items() if len(rows.ids)}
    if not found:
        raise UserError(f"{asked.dataset} has no images; give a data set that has some")
    class_names, labels = code_labels(
        [rows.labels for rows in found.values()], listed.class_names, asked.dataset
    )
    group_names, groups = _groups(asked, found)
    parts = {
        name: Split(rows.images, label, tuple(rows.ids), group, _weights(asked, name, rows))
        for (name, rows), label, group in zip(found.items(), labels, groups, strict=True)
    }
    labelled, unlabelled = _set_apart(asked, parts)
    settled = _settle(asked, labelled)
    train = settled["train"]
    origin = {
        "kind": kind,
        "path": listed.path,
        "source": asked.dataset,
        "sha256": None,
        "verified": False,
        **listed.origin,
        "splits": {name: {"n_images": len(split)} for name, split in parts.items()},
    }
    shown = settled.get("test", train)
    if isinstance(shown.images, FileImages) and shown.ids == shown.images.names:
        origin.setdefault("files", str(shown.images.root))  # what the ids of test rows count from
    return RawDataset(
        dataset_name(asked.dataset),
        class_names,
        train,
        settled.get("test", train.take(np.zeros(0, np.int64))),
        origin,
        validation=settled.get("validation"),
        unlabelled=unlabelled,
        group_names=group_names,
    )


def _settle(asked: SourceRequest, found: dict[str, Split]) -> dict[str, Split]:
    """Settle which part is for training, of those that have labels."""
    if not found:
        raise UserError(
            f"{asked.dataset}: no row has a label; name the column of the labels with "
            "--label-column, or label the images with a head: python -m classify predict"
        )
    if "train" not in found:
        if len(found) > 1:
            raise UserError(
                f"{asked.dataset} has the splits {' and '.join(sorted(found))} but none for "
                "training; add one that is called train"
            )
        found = {"train": next(iter(found.values()))}
    return found


def code_labels(
    columns: Sequence[Sequence[Any]], names: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], list[npt.NDArray[np.int64]]]:
    """Give labels of all splits the same numbers; what has none gets -1.

    Whole numbers index `names`, where there are some, and are ordered as numbers; text is ordered
    by code point. A class of which `names` has more than there are rows stays out.
    """
    plain = [[plain_label(value) for value in column] for column in columns]
    used = {value for column in plain for value in column if value is not None}
    if names is None:
        known = sorted(used, key=_order(used))
        called = {value: str(value) for value in known}
        order = tuple(called.values())
    else:
        called = {value: _named(value, names, where) for value in used}
        there = set(called.values())
        order = tuple(name for name in names if name in there)
    code = {name: number for number, name in enumerate(order)}
    return order, [
        np.array([-1 if v is None else code[called[v]] for v in column], dtype=np.int64)
        for column in plain
    ]


def plain_label(value: Any) -> int | str | None:
    """Give a label as a whole number or as text; None where it is none, such as NaN."""
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()  # of numpy, or of torch
    if value is None or isinstance(value, str):
        text = None if value is None else value.strip()
        if not text:
            return None
        return int(text) if _INTEGER.fullmatch(text) and text != "-0" else text
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else str(value)
    if isinstance(value, bytes):
        return plain_label(value.decode("utf-8", "replace"))
    if isinstance(value, int):
        return value
    raise UserError(
        f"a label is {type(value).__name__} ({str(value)[:40]}); text or a whole number is expected"
    )


def _order(used: Iterable[int | str]) -> Any:
    numbers = all(isinstance(value, int) for value in used)
    return (lambda value: value) if numbers else str


def _named(value: int | str, names: Sequence[str], where: str) -> str:
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    text = str(value)
    if text in names:
        return text
    hint = nearest(text, names)
    raise UserError(
        f"{where} has the label {text!r}, which is none of its {len(names)} class names "
        f"({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"
        + (f"; {hint}" if hint else "")
        + "\nlabels that are numbers count the names from 0 on; mend the names or the labels"
    )


def _groups(
    asked: SourceRequest, splits: Mapping[str, Rows]
) -> tuple[tuple[str, ...], list[npt.NDArray[np.int64] | None]]:
    columns = [rows.groups for rows in splits.values()]
    if any(column is None for column in columns):
        return (), [None for _ in columns]
    names, coded = code_labels([column or () for column in columns], None, asked.dataset)
    for rows, codes in zip(splits.values(), coded, strict=True):
        if len(codes) and codes.min() < 0:
            raise UserError(
                f"{asked.dataset}: the row {rows.ids[int(np.argmin(codes))]} has no group; fill "
                "the column in, or leave --group-column out"
            )
    return names, list(coded)


def _weights(asked: SourceRequest, split: str, rows: Rows) -> npt.NDArray[np.float64] | None:
    if rows.weights is None:
        return None
    try:
        weights = np.array([float(value) for value in rows.weights])
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{asked.dataset}: a weight of its {split} split is not a number ({error}); mend the "
            "column, or leave --weight-column out"
        ) from error
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise UserError(
            f"{asked.dataset}: the row {rows.ids[int(bad[0])]} has the weight "
            f"{weights[bad[0]]:g}; numbers of zero or more are expected"
        )
    return weights


def _set_apart(
    asked: SourceRequest, parts: Mapping[str, Split]
) -> tuple[dict[str, Split], Split | None]:
    """Take the rows without labels out of their splits, into one of their own."""
    labelled, without = {}, []
    for name, split in parts.items():
        has = split.labels >= 0
        if has.any():
            labelled[name] = split if has.all() else split.take(np.flatnonzero(has))
        if not has.all():
            rest = split.take(np.flatnonzero(~has))
            without.append(replace(rest, groups=None, weights=None))
    if not without:
        return labelled, None
    count = sum(map(len, without))
    log(f"{asked.dataset}: {count:,} rows have no label; they are embedded, and left out of fits")
    return labelled, _together(without)


def _together(splits: Sequence[Split]) -> Split:
    """Put the rows of several splits one after another."""
    if len(splits) == 1:
        return splits[0]
    ids = [name for split in splits for name in split.ids]
    if len(set(ids)) < len(ids):
        ids = [f"{number}/{name}" for number, split in enumerate(splits) for name in split.ids]
    return Split(
        _joined([split.images for split in splits]),
        np.concatenate([split.labels for split in splits]),
        tuple(ids),
    )


def _joined(parts: Sequence[ArrayImages | EncodedImages]) -> ArrayImages | EncodedImages:
    """Put images of one kind one after another."""
    if all(isinstance(part, ArrayImages) for part in parts):
        return ArrayImages(np.concatenate([part.array for part in parts]))  # type: ignore[union-attr]
    if all(isinstance(part, FileImages) for part in parts):
        paths = [str(part.path(i)) for part in parts for i in range(len(part))]  # type: ignore[union-attr]
        return file_images(paths)
    # A source that reads records has one container for all its splits.
    records = [part for part in parts if isinstance(part, RecordImages)]
    assert len(records) == len(parts)
    return replace(records[0], rows=np.concatenate([part.rows for part in records]))


def file_images(paths: Sequence[str]) -> FileImages:
    """Take image files that lie anywhere, by absolute paths."""
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return FileImages(Path(root), tuple(Path(os.path.relpath(p, root)).as_posix() for p in paths))
