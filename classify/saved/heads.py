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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.codings import decisions
from classify.linear_head import Head, LinearHead, PairHead
from classify.saved.parts import HeadPart, parts_list
from classify.solver.codes import Code
from classify.solver.problems import class_pairs
from classify.solver.row_norms import Norm, normalized
from classify.solver.strategies import Strategy
from data.common.files import write_bytes

FORMAT = "icebox-head"
FORMAT_VERSION = 4
# Weights that are not written out where they are sums of few rows: a quarter of a gigabyte.
COMPACT_NUMBERS = 64_000_000
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
        found = [decisions.decide(self._decoded, scores, k) for scores in self._blocks(X)]
        return np.concatenate(found).astype(np.int64)

    def probabilities(self, X: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return class probabilities (n_samples, n_classes), calibrated by its temperature."""
        k = len(self.class_names)
        found = np.concatenate(
            [decisions.probabilities(self._decoded, scores, k) for scores in self._blocks(X)]
        )
        return decisions.temper(found, self.temperature)


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
        # A byte of a name that is no UTF-8 has no place here: see `classify.saved.reading`.
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
