"""Classes as the user wants them, of any data set: named, put together, left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError, nearest
from data.images.arrays import RawDataset, Split


def with_classes(
    raw: RawDataset,
    class_names_file: Path | None,
    merges: Sequence[str] = (),
    drops: Sequence[str] = (),
) -> RawDataset:
    """Name the classes of a data set, then put some together, then leave some out."""
    if class_names_file is not None:
        raw = _named(raw, class_names_file)
    if merges:
        raw = _merged(raw, parse_merges(merges))
    if drops:
        raw = _dropped(raw, drops)
    return raw


def check_classes(raw: RawDataset) -> None:
    """Refuse classes of a table of which nothing can be learned, and labels that all differ.

    Other sources look at their classes when they are read: here, some are merged or left out.
    """
    if raw.origin.get("kind") != "table":
        return
    n_classes, where = len(raw.class_names), raw.origin["path"]
    labels = f"the column {raw.origin['columns']['label']}"
    counts = {
        name: np.bincount(split.labels, minlength=n_classes)
        for name, split in raw.splits.items()
        if name != "unlabelled"
    }
    single = np.flatnonzero(sum(counts.values()) == 1)
    if len(single) * 2 > n_classes:
        raise UserError(
            f"{where}: {len(single):,} of {n_classes:,} classes of {labels} have one image "
            f"({_some(raw, single)}); of each class two or more are needed, to learn and to test\n"
            "name the column of the classes with --label-column, or put classes together with "
            "--merge-classes"
        )
    for name, found in counts.items():
        unseen = np.flatnonzero((found > 0) & (counts["train"] == 0))
        if len(unseen):
            split = raw.splits[name]
            image = split.ids[int(np.flatnonzero(split.labels == unseen[0])[0])]
            raise UserError(
                f"{where}: the {name} split has classes of {labels} without training images: "
                f"{_some(raw, unseen)} (such as {image}); nothing could be learned of them\nleave "
                f"them out with --drop-class {quote(raw.class_names[unseen[0]])}, or mend {labels}"
            )


def _some(raw: RawDataset, classes: npt.NDArray[np.int64]) -> str:
    names = ", ".join(raw.class_names[label] for label in classes[:3])
    return names + (", ..." if len(classes) > 3 else "")


def parse_merges(words: Sequence[str]) -> dict[str, str]:
    """Read ``a=b,c``: class -> the class that it becomes a part of."""
    into: dict[str, str] = {}
    for word in words:
        name, sign, parts = word.partition("=")
        members = [part.strip() for part in parts.split(",")]
        if not sign or not name.strip() or not all(members):
            raise UserError(f"--merge-classes {word}: give NEW=CLASS,CLASS, such as animal=cat,dog")
        for member in members:
            if into.get(member, name.strip()) != name.strip():
                raise UserError(
                    f"--merge-classes {word}: {member} is already a part of {into[member]}; give "
                    "each class once"
                )
            into[member] = name.strip()
    return into


def _known(raw: RawDataset, option: str, name: str) -> None:
    if name not in raw.class_names:
        hint = nearest(name, raw.class_names)
        shown = ", ".join(raw.class_names[:10]) + (", ..." if len(raw.class_names) > 10 else "")
        raise UserError(
            f"{option} {name}: {raw.origin['path']} has no such class; it has {shown}"
            + (f"\n{hint}" if hint else "\ngive one of them")
        )


def _merged(raw: RawDataset, into: Mapping[str, str]) -> RawDataset:
    """Put classes together; a new one stands where the first of its members stood."""
    for member in into:
        _known(raw, "--merge-classes", member)
    return _relabelled(raw, [into.get(name, name) for name in raw.class_names])


def _dropped(raw: RawDataset, drops: Sequence[str]) -> RawDataset:
    """Leave out the rows of classes."""
    for name in drops:
        _known(raw, "--drop-class", name)
    return _relabelled(raw, [None if name in drops else name for name in raw.class_names])


def _named(raw: RawDataset, file: Path) -> RawDataset:
    """Take the names and the order of the classes from the lines of a file."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not in UTF-8"
        raise UserError(
            f"--class-names {file}: cannot be read: {reason}; give a text file with a line a class"
        ) from error
    lines = [line.strip() for line in text.rstrip().splitlines()]
    twice = sorted({line for line in lines if lines.count(line) > 1}) if len(lines) < 10**4 else []
    if not all(lines) or twice:
        what = f"has {twice[0]} twice" if twice and twice[0] else "has an empty line"
        raise UserError(f"--class-names {file}: {what}; a line a class is expected, in their order")
    if all(name.isdecimal() for name in raw.class_names):
        wrong = [name for name in raw.class_names if int(name) >= len(lines)]
        if wrong:
            raise UserError(
                f"--class-names {file} has {len(lines)} lines, for the labels 0 to "
                f"{len(lines) - 1}, and {raw.origin['path']} has the label {wrong[0]}; give a line "
                "for each label (where labels begin at 1, put a line before the first)"
            )
        found = [lines[int(name)] for name in raw.class_names]
    else:
        for name in raw.class_names:
            if name not in lines:
                hint = nearest(name, lines)
                raise UserError(
                    f"--class-names {file} does not list the class {name} of {raw.origin['path']}"
                    f"; add a line for it{'; ' + hint if hint else ''}"
                )
        found = list(raw.class_names)
    return _relabelled(raw, found, sorted(set(found), key=lines.index))


def _relabelled(
    raw: RawDataset, becomes: Sequence[str | None], order: Sequence[str] | None = None
) -> RawDataset:
    """Give each class the name that it becomes; None leaves its rows out."""
    names = list(order or dict.fromkeys(name for name in becomes if name is not None))
    gone = -2
    index = np.array([gone if name is None else names.index(name) for name in becomes], np.int64)

    def relabelled(split: Split) -> Split:
        labels: npt.NDArray[np.int64] = index[split.labels]
        if not (labels == gone).any():
            return replace(split, labels=labels)
        rows = np.flatnonzero(labels != gone)
        return replace(split.take(rows), labels=labels[rows])

    return replace(
        raw,
        class_names=tuple(names),
        train=relabelled(raw.train),
        test=relabelled(raw.test),
        validation=None if raw.validation is None else relabelled(raw.validation),
    )
