"""``--class-weight``: balanced, or a file with a weight for every class of a store."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.common.errors import UserError, nearest

BALANCED = "balanced"
_EXPECTED = (
    'expected a JSON object such as {"cat": 1, "dog": 2.5}, or a table of two columns, the class '
    "and its weight"
)


def read_class_weights(
    given: str | None, class_names: Sequence[str], left_out: Sequence[str] = ()
) -> Any:
    """Return what estimators take: None, ``balanced``, or a weight for each class index.

    A file may name classes of the store that are `left_out`. A `UserError` names the file and what
    is wrong with it.
    """
    if given is None or given == BALANCED:
        return given
    path = Path(given)
    weights = _parse(path)
    unknown = [name for name in weights if name not in class_names and name not in left_out]
    if unknown:
        hint = nearest(unknown[0], class_names)
        known = hint or f"the classes are {', '.join(class_names[:5])}{_more(len(class_names), 5)}"
        raise UserError(
            f"--class-weight {path} names {unknown[0]!r}, which is no class of this store"
            f"{_more(len(unknown), 1)}; {known}"
        )
    missing = [name for name in class_names if name not in weights]
    if missing:
        raise UserError(
            f"--class-weight {path} has no weight for {', '.join(map(repr, missing[:3]))}"
            f"{_more(len(missing), 3)}; give each of the {len(class_names)} classes one, such as 1"
        )
    return {label: weights[name] for label, name in enumerate(class_names)}


def _parse(path: Path) -> dict[str, float]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text file"
        hint = nearest(str(path), [BALANCED])
        raise UserError(
            f"--class-weight {path} cannot be read ({why}); {f'{hint} Give' if hint else 'give'} "
            "balanced, or a JSON or CSV file with a weight for each class"
        ) from error
    pairs = _json_pairs(path, text) if text.lstrip()[:1] in ("{", "[") else _table_pairs(path, text)
    found: dict[str, float] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"--class-weight {path} names {name!r} twice; remove one of them")
        found[name] = _number(path, name, value)
    if not found:
        raise UserError(f"--class-weight {path} holds no class; {_EXPECTED}")
    return found


def _json_pairs(path: Path, text: str) -> list[tuple[str, Any]]:
    try:
        pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--class-weight {path} is not JSON ({error}); {_EXPECTED}") from error
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise UserError(f"--class-weight {path} holds a JSON list; {_EXPECTED}")
    return pairs


def _table_pairs(path: Path, text: str) -> list[tuple[str, Any]]:
    separator = next((mark for mark in "\t;," if mark in text.split("\n", 1)[0]), ",")
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(text.splitlines(), delimiter=separator)
        if any(cell.strip() for cell in row)
    ]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise UserError(
                f"--class-weight {path}: row {number} has {len(row)} "
                f"{'column' if len(row) == 1 else 'columns'}, {_EXPECTED}"
            )
    if rows and not _is_number(rows[0][1]):
        del rows[0]  # the names of the columns
    return [(name, value) for name, value in rows]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(path: Path, name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise UserError(
            f"--class-weight {path}: the weight of {name!r} is {value!r}, expected a finite number "
            "above 0; to leave a class out, run stage one with --drop-class"
        )
    return number


def _more(n: int, shown: int) -> str:
    return f" and {n - shown} more" if n > shown else ""
