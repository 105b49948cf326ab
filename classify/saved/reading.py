"""Heads read from safetensors files, every part checked against the others before it is used."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.linear_head import Head, LinearHead, PairHead
from classify.saved.heads import FORMAT, FORMAT_VERSION, SavedHead
from classify.saved.parts import HeadPart, norm_of_parts, read_parts
from classify.solver.codes import Code, check_code
from classify.solver.problems import class_pairs
from classify.solver.strategies import CODINGS, Strategy
from data.common.errors import UserError
from data.common.shapes import mismatch
from data.format.spec import SPEC_SHAPE

_KINDS = {"F32": "float32", "F64": "float64", "I64": "int64"}


def load_head(path: Path) -> SavedHead:
    """Read a head and check that its parts fit each other; a `UserError` says what does not."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        what = ", which is a folder" if path.is_dir() else ""
        raise UserError(
            f"no head at {path}{what}; give a file heads/STRATEGY.safetensors from the folder of a "
            "run (`python -m classify fit` writes them)"
        )
    try:
        with safe_open(path, framework="numpy") as stored:
            metadata = stored.metadata() or {}
            _check_format(path, metadata)
            return _head(path, metadata, stored)
    except MemoryError as error:
        raise _bad(path, "its tensors do not fit into the memory that is free") from error
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as safetensors ({error}); it is damaged or something else: "
            "give a file heads/STRATEGY.safetensors from the folder of a run"
        ) from error


def _name_of_file(text: str) -> str:
    r"""Turn ``\udcNN``, for a byte of a name that is no UTF-8, into Python's form of it."""
    return re.sub(r"\\udc([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), text)


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} is a safetensors file but not a head (weights of a backbone?); "
            "give a file heads/STRATEGY.safetensors from the folder of a run"
        )
    version = metadata.get("format_version", "")
    if not version.isdecimal():
        raise _bad(path, f"format_version is {version!r}, expected a number")
    if int(version) > FORMAT_VERSION:
        raise UserError(
            f"{path} has head format {version}, newer than {FORMAT_VERSION}, the newest that this "
            "Icebox reads; update Icebox, or fit again with this one"
        )


def _bad(path: Path, what: str) -> UserError:
    return UserError(f"{path} is not a usable head: {what}; fit again to get a new one")


def _json_of(path: Path, metadata: dict[str, str], key: str) -> Any:
    try:
        return json.loads(metadata[key])
    except KeyError:
        raise _bad(path, f"its metadata has no {key}") from None
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"{key} in its metadata is not JSON ({error})") from error


def _class_names(path: Path, metadata: dict[str, str]) -> tuple[str, ...]:
    names = _json_of(path, metadata, "class_names")
    if (
        not isinstance(names, list)
        or len(names) < 2
        or not all(isinstance(name, str) for name in names)
    ):
        raise _bad(path, "class_names in its metadata is not a list of two or more names")
    if not all(name.strip() for name in names):
        raise _bad(path, "class_names in its metadata holds an empty name")
    return tuple(names)


def _positive(path: Path, metadata: dict[str, str], key: str) -> float:
    try:
        value = float(metadata.get(key, ""))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        found = metadata.get(key)
        raise _bad(path, f"{key} in its metadata is {found!r}, expected a positive number")
    return value


def _one_of(path: Path, metadata: dict[str, str], key: str, known: Sequence[str]) -> str:
    """Read one of a few words; older heads have none."""
    value = metadata.get(key, "")
    if value and value not in known:
        raise _bad(path, f"{key} in its metadata is {value!r}, expected {' or '.join(known)}")
    return value


def _read_tensor(
    path: Path, stored: Any, name: str, shape: Sequence[int | None]
) -> npt.NDArray[Any]:
    """Read a tensor whose type and shape, as the file states them, are what they must be."""
    if name not in stored.keys():  # noqa: SIM118 - it is no dict
        raise _bad(path, f"the tensor {name} is missing")
    stated = stored.get_slice(name)
    kind, found = stated.get_dtype(), tuple(stated.get_shape())
    kind = _KINDS.get(kind, kind)
    wanted = "int64" if name in ("pairs", "starts", "code") else "float32"
    fits = len(found) == len(shape) and all(
        want in (None, got) for want, got in zip(shape, found, strict=True)
    )
    if not fits or kind != wanted or 0 in found:
        expected = "(" + ", ".join("n" if side is None else str(side) for side in shape) + ")"
        raise _bad(path, f"{name} is {kind} {found}, expected {wanted} {expected}")
    array = np.asarray(stored.get_tensor(name))
    if wanted == "float32" and not np.isfinite(array).all():
        raise _bad(path, f"{name} holds NaN or infinite values")
    return array


def _head(path: Path, metadata: dict[str, str], stored: Any) -> SavedHead:
    strategy, coded, setting = _what_head(path, metadata)
    names = _class_names(path, metadata)
    spec = _json_of(path, metadata, "spec")
    problem = mismatch(spec, SPEC_SHAPE, "spec")
    if problem:
        raise _bad(path, f"in its metadata {problem}")
    parts = _parts(path, metadata, spec)
    code = _read_code(path, stored, len(names)) if coded == "ecoc" and len(names) > 2 else None
    rows = Strategy(strategy, coded, code=code).n_heads(len(names))
    head = _read_head(path, metadata, stored, rows, len(names))
    if coded == "ovo":
        pairs = _read_tensor(path, stored, "pairs", (rows, 2))
        if not np.array_equal(pairs, class_pairs(len(names))):
            raise _bad(path, "pairs are not in the order (0, 1), (0, 2), ...")
    saved = SavedHead(
        strategy=strategy,
        class_names=names,
        coef=np.empty((0, head.span.shape[1])) if isinstance(head, PairHead) else head.coef,
        intercept=np.empty(0) if isinstance(head, PairHead) else head.intercept,
        sums=head if isinstance(head, PairHead) else None,
        spec=spec,
        store_key=metadata.get("store_key", ""),
        C=None if setting is not None and not metadata.get("C") else _positive(path, metadata, "C"),
        weights_file=_name_of_file(metadata.get("weights_file") or "") or None,
        # Heads of before there was one have no such line.
        temperature=_positive(path, metadata, "temperature")
        if metadata.get("temperature")
        else None,
        fit_intercept=_one_of(path, metadata, "fit_intercept", ("true", "false")) != "false",
        normalize=norm_of_parts(_one_of(path, metadata, "normalize", ("l2",)) or None, parts),
        coding=None if setting is None else coded,
        setting=setting,
        code=code,
        parts=parts,
    )
    if metadata.get("n_features") != str(saved.n_features):
        raise _bad(
            path, f"n_features is {metadata.get('n_features')!r} but coef has {saved.n_features}"
        )
    return saved


def _read_code(path: Path, stored: Any, n_classes: int) -> Code:
    try:
        return check_code(_read_tensor(path, stored, "code", (n_classes, None)), n_classes)
    except ValueError as error:
        raise _bad(path, str(error)) from error


def _parts(path: Path, metadata: dict[str, str], spec: dict[str, Any]) -> tuple[HeadPart, ...]:
    found = _json_of(path, metadata, "parts") if metadata.get("parts") else None
    try:
        return read_parts(found, spec, metadata.get("n_features"))
    except ValueError as error:
        raise _bad(path, str(error)) from error


def _what_head(path: Path, metadata: dict[str, str]) -> tuple[str, str, dict[str, Any] | None]:
    """Read a head's name, how its scores become answers, and its setting where it has no C alone.

    Before format 3 the name is the coding.
    """
    strategy = metadata.get("strategy", "")
    has_coding = metadata["format_version"] == "3" or "coding" in metadata
    coded = metadata.get("coding", "") if has_coding else strategy
    known = CODINGS if has_coding else CODINGS[:3]
    if coded not in known:
        which = "coding" if has_coding else "strategy"
        raise _bad(path, f"{which} {coded!r} is none of {', '.join(known)}")
    if not has_coding:
        return strategy, coded, None
    if not strategy.strip():
        raise _bad(path, "its metadata has no strategy")
    setting = _json_of(path, metadata, "setting")
    if not isinstance(setting, dict):
        raise _bad(path, "setting in its metadata is not a JSON object")
    return strategy, coded, setting


def _read_head(
    path: Path, metadata: dict[str, str], stored: Any, n_heads: int, n_classes: int
) -> Head:
    """Read the weights: written out, or as sums of the rows that they were fitted to."""
    version, pairs = metadata["format_version"], metadata.get("coding") or metadata["strategy"]
    spanned = version in ("3", "4") and "span" in stored.keys()  # noqa: SIM118 - no dict
    if version != "2" and not spanned:
        coef = _read_tensor(path, stored, "coef", (n_heads, None))
        return LinearHead(coef, _read_tensor(path, stored, "intercept", (n_heads,)))
    if pairs != "ovo" or n_classes < 3:
        raise _bad(path, "it has the tensors of one-vs-one of three or more classes")
    span = _read_tensor(path, stored, "span", (None, None))
    starts = _read_tensor(path, stored, "starts", (n_classes + 1,))
    if starts[0] != 0 or starts[-1] != len(span) or not (np.diff(starts) > 0).all():
        raise _bad(path, f"starts do not ascend from 0 to the {len(span):,} rows of span")
    return PairHead(
        span,
        _read_tensor(path, stored, "shift", (span.shape[1],)),
        starts,
        _read_tensor(path, stored, "duals", (len(span), n_classes)),
        _read_tensor(path, stored, "offset", (n_heads,)),
    )
