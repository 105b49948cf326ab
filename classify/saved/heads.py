"""Trained heads on disk: one safetensors file each, with everything that predicting needs.

Tensors: ``coef`` (n_problems, n_features) and ``intercept`` (n_problems,), float32, in the space of
the raw features; in format 2, which one-vs-one of very many classes of few rows has, in their place
``span``, ``shift``, ``starts``, ``duals`` and ``offset``: see `classify.linear_head.PairHead`.
Format 3 is of heads whose name does not say how their scores become answers: their ``coding`` does
(multinomial, ovr, ovo or ecoc), and ``setting``, as JSON, is in the place of C; the tensor ``code``
(n_classes, n_problems), int64, is the code book of ecoc. Format 4 is of heads of stores side by
side, of any kind of those: ``parts`` says what each store was. For
one-vs-one also ``pairs`` (n_problems, 2), int64, in scikit-learn's order: a
positive score speaks for the second class. Metadata (strings): the
format and its version, strategy, class names and the store's spec as JSON, the store's key, C, the
number of features, the file that the backbone's weights came from, if they came from one, the
temperature that its probabilities are calibrated with, if one was fitted, whether it was fitted
with intercepts, and what rows are divided by before they are scored (``l2``, their norm; empty,
nothing). The last two are not in heads of before they could be chosen.

safetensors runs no code when it is read and checks that the tensors fit the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify import coding
from classify.linear_head import Head, LinearHead, PairHead
from classify.saved.parts import HeadPart, norm_of_parts, parts_list, read_parts
from classify.solver.codes import Code, check_code
from classify.solver.problems import class_pairs
from classify.solver.row_norms import Norm, normalized
from classify.solver.strategies import CODINGS, Strategy
from data.common.errors import UserError
from data.common.files import write_bytes
from data.common.shapes import mismatch
from data.format.spec import SPEC_SHAPE

FORMAT = "icebox-head"
FORMAT_VERSION = 4
# Weights that are not written out where they are sums of few rows: a quarter of a gigabyte.
COMPACT_NUMBERS = 64_000_000
_KINDS = {"F32": "float32", "F64": "float64", "I64": "int64"}
# Rows and scores of a block, so that neither a large X is copied whole to float64, nor the scores
# of many pairs (4 MB a row for 1,000 classes) are held for all rows.
_BLOCK, _SCORES = 8192, 8_000_000


@dataclass(frozen=True)
class SavedHead:
    """A linear classifier on the embeddings of one backbone, or of several side by side.

    All methods take raw embeddings.
    """

    strategy: str
    class_names: tuple[str, ...]  # in the order of the class indices
    coef: npt.NDArray[np.floating[Any]]  # (n_problems, n_features); none beside `sums`
    intercept: npt.NDArray[np.floating[Any]]  # (n_problems,); zero without `fit_intercept`
    spec: dict[str, Any]  # of the store it was trained on
    store_key: str
    C: float | None  # None of heads that have another setting
    weights_file: str | None = None  # where the backbone's weights lay, if they came from a file
    temperature: float | None = None  # of its probabilities; None where no row could tell
    fit_intercept: bool = True
    normalize: Norm = None  # fitted to rows, or parts of rows, divided by their norms
    sums: PairHead | None = None  # one-vs-one of very many classes of few rows
    coding: str | None = None  # how scores become answers, where the name does not say it
    setting: dict[str, Any] | None = None  # in the place of C
    code: Code | None = None  # of ecoc with three classes or more: (n_classes, n_problems)
    parts: tuple[HeadPart, ...] = ()  # of stores side by side

    @property
    def coded(self) -> str:
        """Return how scores become answers: multinomial, ovr, ovo or ecoc."""
        return self.coding or self.strategy

    @property
    def _decoded(self) -> Strategy:
        return Strategy(self.strategy, self.coded, code=self.code)

    @property
    def n_features(self) -> int:
        """Return the width of the embeddings it takes."""
        return int(self.coef.shape[1])

    @property
    def linear(self) -> Head:
        """Return the heads that score rows."""
        weights: Any = self.coef, self.intercept  # scored in float64, whatever they are kept in
        return LinearHead(*weights) if self.sums is None else self.sums

    def scores(self, X: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the linear scores (n_samples, n_problems) of rows, normalised where it says so."""
        return np.concatenate(list(self._blocks(X)))

    def _blocks(self, X: npt.NDArray[np.floating]) -> Iterator[npt.NDArray[np.float64]]:
        """Score block after block; no rows are one block without rows."""
        scores = self.linear.scorer(np.float64)
        step = max(1, min(_BLOCK, _SCORES // self.linear.n_heads))
        for start in range(0, max(1, len(X)), step):
            rows = normalized(X[start : start + step].astype(np.float64), self.normalize)
            yield np.asarray(scores(rows), dtype=np.float64)

    def predict(self, X: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
        """Return the index (n_samples,) of each row's class, as the strategy decides."""
        k = len(self.class_names)
        found = [coding.decide(self._decoded, scores, k) for scores in self._blocks(X)]
        return np.concatenate(found).astype(np.int64)

    def probabilities(self, X: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return class probabilities (n_samples, n_classes), calibrated by its temperature."""
        k = len(self.class_names)
        found = np.concatenate(
            [coding.probabilities(self._decoded, scores, k) for scores in self._blocks(X)]
        )
        return found if self.temperature is None else coding.temper(found, self.temperature)


def save_head(path: Path, head: SavedHead) -> None:
    """Write a head under its final name, in a folder that exists."""
    from safetensors.numpy import save

    tensors = _tensors(head)
    version = 1 if "coef" in tensors else 2  # which every Icebox reads, and older ones
    more = {}
    if head.coding is not None:
        version = 3
        more = {
            "coding": head.coding,
            "setting": json.dumps(head.setting or {}, sort_keys=True, allow_nan=False),
        }
    if head.parts:
        version = FORMAT_VERSION
        more["parts"] = json.dumps(parts_list(head.parts), sort_keys=True)
    if head.coded == "ovo":
        tensors["pairs"] = class_pairs(len(head.class_names)).astype(np.int64)
    if head.code is not None:
        tensors["code"] = head.code.astype(np.int64)
    metadata = {
        "format": FORMAT,
        "format_version": str(version),
        "strategy": head.strategy,
        "class_names": json.dumps(head.class_names, ensure_ascii=False),
        "spec": json.dumps(head.spec, sort_keys=True, ensure_ascii=False, allow_nan=False),
        "store_key": head.store_key,
        "C": "" if head.C is None else repr(float(head.C)),
        "n_features": str(head.n_features),
        # A byte of a name that is no UTF-8 has no place in this format: see `_name_of_file`.
        "weights_file": (head.weights_file or "").encode("utf-8", "backslashreplace").decode(),
        "temperature": "" if head.temperature is None else repr(float(head.temperature)),
        "fit_intercept": "true" if head.fit_intercept else "false",
        "normalize": "l2" if head.normalize else "",
        **more,
    }
    write_bytes(path, _in_order(save(tensors, metadata=metadata)))


def _tensors(head: SavedHead) -> dict[str, npt.NDArray[Any]]:
    if head.sums is None:
        return {
            "coef": np.ascontiguousarray(head.coef, dtype=np.float32),
            "intercept": np.ascontiguousarray(head.intercept, dtype=np.float32),
        }
    floats = {
        name: np.ascontiguousarray(getattr(head.sums, name), dtype=np.float32)
        for name in ("span", "shift", "duals", "offset")
    }
    return {**floats, "starts": head.sums.starts.astype(np.int64)}


def weights_of(head: Head) -> dict[str, Any]:
    """Give a `SavedHead` its weights: written out, or very many of them as sums of few rows."""
    if isinstance(head, PairHead) and compact(head.n_heads, head.span.shape[1]):
        none = np.empty((0, head.span.shape[1]), np.float32)
        return {"coef": none, "intercept": none[:, 0], "sums": head}
    return {
        "coef": np.asarray(head.coef, dtype=np.float32),
        "intercept": np.asarray(head.intercept, dtype=np.float32).reshape(-1),
    }


def compact(n_heads: int, n_features: int) -> bool:
    """Say whether weights are so many that one-vs-one of few rows is kept as sums of rows."""
    return n_heads * n_features > COMPACT_NUMBERS


def _in_order(content: bytes) -> bytes:
    """Sort the metadata of a safetensors file, which come in another order in every process."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + content[start:]


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
