"""Labels, groups and weights as files have them, turned into codes with names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError, nearest
from data.exchange.names import listed
from data.exchange.records import Array
from data.images.classes import parse_merges

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Coded:
    """Values of rows as indices into their names; -1 where a value is missing."""

    names: tuple[str, ...]
    codes: Codes
    whole: bool  # whether the values are whole numbers, and so may index names that are given


def coded(values: Array, where: str) -> Coded:
    """Turn values of any type into codes, in the order in which their names come."""
    kind = values.dtype.kind
    if kind == "O":
        return _of_objects(values, where)
    if kind == "f":
        missing = np.isnan(values)
        _check_whole(values[~missing], where)
        names, codes = np.unique(values[~missing].astype(np.int64), return_inverse=True)
        spread = np.full(len(values), -1, np.int64)
        spread[~missing] = codes
        return Coded(tuple(map(str, names.tolist())), spread, True)
    if kind not in "iubSU":
        raise UserError(f"{where} holds {values.dtype}; give whole numbers or names")
    names, codes = np.unique(values, return_inverse=True)
    texts = [_text(name) for name in names.tolist()]
    return _without_empty(texts, codes.astype(np.int64).reshape(-1), kind in "iu")


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():  # whole numbers beside missing ones
        return str(int(value))
    return str(value)


def _without_empty(texts: list[str], codes: Codes, whole: bool) -> Coded:
    kept = [number for number, text in enumerate(texts) if text.strip()]
    place = np.full(len(texts) + 1, -1, np.int64)
    place[kept] = np.arange(len(kept))
    return Coded(tuple(texts[number] for number in kept), place[codes], whole)


def _of_objects(values: Array, where: str) -> Coded:
    index: dict[str, int] = {}
    codes = np.full(len(values), -1, np.int64)
    whole, floats = True, []
    for row, value in enumerate(values.tolist()):
        if value is None or value != value:
            continue
        if isinstance(value, float):
            floats.append(value)
        whole = whole and isinstance(value, int | float) and not isinstance(value, bool)
        codes[row] = index.setdefault(_text(value), len(index))
    _check_whole(np.array(floats), where)
    return _without_empty(list(index), codes, whole and bool(index))


def _check_whole(values: Array, where: str) -> None:
    odd = values[~np.isfinite(values) | (values != np.floor(values))]
    if len(odd):
        some = ", ".join(f"{value:g}" for value in dict.fromkeys(odd[:100].tolist()[:5]))
        raise UserError(
            f"{where} holds {some}: labels are whole numbers or names of classes; numbers that are "
            "measured are no classes: cut them into ranges first, or name another column with "
            "--label-column"
        )


def check_no_measures(names: Sequence[str], n_rows: int, where: str) -> None:
    """Refuse texts that are numbers with decimals, nearly all of them different."""
    if len(names) > max(10, n_rows // 2) and all(_is_measure(name) for name in names):
        raise UserError(
            f"{where} holds {len(names):,} different numbers in {n_rows:,} rows, such as "
            f"{listed(names[:3])}; numbers that are measured are no classes: cut them into ranges "
            "first, or name another column with --label-column"
        )


def _is_measure(name: str) -> bool:
    try:
        return math.isfinite(float(name)) and re.fullmatch(r"[-+]?\d+", name.strip()) is None
    except ValueError:
        return False


def together(parts: Sequence[Coded], given: Sequence[str] | None) -> tuple[tuple[str, ...], Codes]:
    """Put the codes of several files on one list of names, sorted or in the order that is given."""
    found = {name for part in parts for name in part.names}
    if given is not None and found <= set(given):
        order = list(given)
    else:
        order = sorted(found)
        if all(re.fullmatch(r"-?\d{1,18}", name) for name in order):
            order.sort(key=int)
    place = {name: number for number, name in enumerate(order)}
    codes = []
    for part in parts:
        table = np.array([*(place[name] for name in part.names), -1], np.int64)
        codes.append(table[part.codes])
    return tuple(order), np.concatenate(codes) if codes else np.empty(0, np.int64)


def named_by(part: Coded, names: Sequence[str], where: str, whose: str) -> Coded:
    """Give labels that are whole numbers the names that they index."""
    if not part.whole:
        unknown = [name for name in part.names if name not in set(names)]
        if unknown:
            raise UserError(
                f"{where} has the class {unknown[0]}, which is not among {whose} "
                f"({listed(names)}); {nearest(unknown[0], names) or 'add it there'}"
            )
        return part
    numbers = [int(name) for name in part.names]
    outside = [number for number in numbers if number >= len(names) or number < -1]
    if outside:
        raise UserError(
            f"{where} has the label {outside[0]}, and {whose} has {len(names):,} names, for 0 to "
            f"{len(names) - 1}; give a name for each label"
        )
    # -1 is how those without a label are written where labels index names.
    texts = ["" if number < 0 else names[number] for number in numbers]
    codes = np.where(part.codes < 0, len(texts), part.codes)
    return _without_empty([*texts, ""], codes, True)


def rearranged(
    names: Sequence[str], codes: Codes, merges: Sequence[str], drops: Sequence[str]
) -> tuple[tuple[str, ...], Codes, npt.NDArray[np.bool_]]:
    """Put classes together, then leave some out: new names and codes, and which rows go."""
    into = parse_merges(merges)
    for member in into:
        _check_known("--merge-classes", member, names)
    becomes = [into.get(name, name) for name in names]
    for name in drops:
        _check_known("--drop-class", name, becomes)
    kept = [name for name in dict.fromkeys(becomes) if name not in drops]
    place = {name: number for number, name in enumerate(kept)}
    gone = -2
    table = np.array([*(place.get(name, gone) for name in becomes), -1], np.int64)
    found = table[codes]
    return tuple(kept), np.where(found == gone, -1, found), found == gone


def _check_known(option: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        hint = nearest(name, names)
        raise UserError(
            f"{option} {name}: the files have no such class; they have {listed(names)}"
            + (f"\n{hint}" if hint else "\ngive one of them")
        )


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a name a line, or a JSON list of names."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise UserError(
            f"--class-names {path}: cannot be read ({error}); give a file with a name a line"
        ) from error
    while names and isinstance(names, list) and isinstance(names[-1], str) and not names[-1]:
        names.pop()
    fine = isinstance(names, list) and all(isinstance(n, str) and n.strip() for n in names)
    if not fine or len(set(names)) != len(names) or not names:
        raise UserError(
            f"--class-names {path}: expected different names, one a line, the first for label 0"
        )
    return tuple(name.strip() for name in names)


def weights_of(values: Array, where: str) -> npt.NDArray[np.float64]:
    """Turn a column of weights into numbers, and name the rows that are none."""
    found = np.full(len(values), np.nan)
    if values.dtype.kind in "iufb":
        found = values.astype(np.float64)
    else:
        for row, value in enumerate(values.tolist()):
            try:
                found[row] = float(value)
            except (TypeError, ValueError):
                continue
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{where} holds {values.tolist()[row]!r} in row {row} ({len(wrong):,} such rows), "
            "expected a weight of 0 or more; correct it, or leave the row out"
        )
    return found
