"""What ``--decode fast`` changes: embeddings and predictions beside those of exact decoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.common.cli import log
from data.format.records import Features

# Heads whose answer is the class of the highest score.
HEADS = ("multinomial", "ovr")
_BLOCK = 8192
Rows = npt.NDArray[np.float32]


class Classifier(NamedTuple):
    """What says whether a prediction flips."""

    name: str
    predict: Callable[[Rows], npt.NDArray[np.int64]]


def compare_decoding(
    store: Features, reports_dir: Path, fast: Rows, exact: Rows, reduced: list[int]
) -> None:
    """Say how far rows of images at a reduced scale are from exact ones, and how many flip.

    `fast` and `exact` are all rows embedded again, (n, width), by the same network in fp32;
    `reduced` says which of them were decoded at a reduced scale.
    """
    from extract.engines.build import differences

    n = len(fast)
    if not reduced:
        log(f"--decode fast decoded none of these {n} images at a reduced scale")
        return
    error, cosine = differences(fast[reduced], exact[reduced])
    log(
        f"--decode fast decoded {len(reduced)} of these {n} images at a reduced scale; their "
        f"embeddings against exact decoding, both in fp32 by plain torch: lowest cosine "
        f"{cosine.min():.6f}, median {np.median(cosine):.6f}, largest difference "
        f"{error.max():.1e} of the largest value"
    )
    classifier = trained_head(store, reports_dir) or nearest_mean(store)
    flips = int((classifier.predict(fast) != classifier.predict(exact)).sum())
    log(f"{flips} of {n} predictions would flip with exact decoding, of {classifier.name}")


def trained_head(store: Features, reports_dir: Path) -> Classifier | None:
    """Find the newest head that was trained on this very store; None where there is none."""
    paths = [path for name in HEADS for path in reports_dir.glob(f"*/*/heads/{name}.safetensors")]
    for path in sorted(paths, key=_newest_first):
        found = _read_head(path, store)
        if found is not None:
            return found
    return None


def _newest_first(path: Path) -> tuple[float, int]:
    try:
        made = path.parent.stat().st_mtime
    except OSError:
        made = 0.0
    return -made, HEADS.index(path.stem)


def _read_head(path: Path, store: Features) -> Classifier | None:
    """Read a head by docs/reference/formats.md; None where it is not of this store."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            told = file.metadata() or {}
            if told.get("store_key") != store.key or told.get("strategy") != path.stem:
                return None
            coef = np.asarray(file.get_tensor("coef"), dtype=np.float64)
            intercept = np.asarray(file.get_tensor("intercept"), dtype=np.float64)
    except (SafetensorError, OSError, ValueError) as error:
        log(f"not used: {path} ({error})")
        return None
    if coef.shape != (len(intercept), store.train.features.shape[1]):
        return None

    def predict(rows: Rows) -> npt.NDArray[np.int64]:
        wide = rows.astype(np.float64)
        if told.get("normalize") == "l2":
            norms = np.linalg.norm(wide, axis=1, keepdims=True)
            wide /= np.where(norms > 0, norms, 1.0)
        scores = wide @ coef.T + intercept
        # Of two classes there is one row of scores, which speaks for the second.
        return (scores[:, 0] > 0).astype(np.int64) if len(coef) == 1 else scores.argmax(axis=1)

    return Classifier(f"the head {path}", predict)


def nearest_mean(store: Features) -> Classifier:
    """Make a classifier of the stored training rows alone: the class with the nearest mean."""
    features, labels = store.train.features, np.asarray(store.train.labels)
    sums = np.zeros((len(store.class_names), features.shape[1]))
    for start in range(0, len(labels), _BLOCK):
        part = slice(start, start + _BLOCK)
        np.add.at(sums, labels[part], np.asarray(features[part], dtype=np.float64))
    counts = np.bincount(labels, minlength=len(sums))
    there = np.flatnonzero(counts)
    means = sums[there] / counts[there, None]
    halves: Any = 0.5 * (means**2).sum(axis=1)

    def predict(rows: Rows) -> npt.NDArray[np.int64]:
        return there[np.argmax(rows.astype(np.float64) @ means.T - halves, axis=1)]

    return Classifier(
        "the nearest mean of a class in the stored training rows (python -m classify fit trains "
        "heads, whose predictions are counted instead)",
        predict,
    )
