"""What the precision of the features is worth: test predictions that another one would change.

Half-precision storage is tried on the test rows, of very many classes on some of them. What the
network's own precision changes is counted on the rows that ``python -m extract verify STORE.h5
--rows N`` has embedded again and kept beside the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.scoring import rows_of
from classify.solver.out_of_core import is_source, row_steps
from classify.wording import display_name
from data.format.records import StorePart
from data.reading import open_features
from data.reembedded import EXACTLY, Rechecked, digest_of, read_rechecked

if TYPE_CHECKING:
    from classify.records import Fitted
    from data.format.records import Features

STORED = "as stored"
HALVES = "stored as float16"
PLAIN = "fp32, plain torch"
# Scores of test rows by the largest head, above which some of these rows are tried.
TRIED_NUMBERS = 500_000_000
LARGEST_HALF = float(np.finfo(np.float16).max)


def numerics(features: Features, X_test: Any, fitted: Mapping[str, Fitted]) -> dict[str, Any]:
    """Count the test predictions that another precision of the features would change.

    Shapes: X_test (n_test, n_features) or StoredRows.
    """
    spec = features.spec
    engine = (features.provenance or {}).get("engine", "torch")
    cases = []
    if spec.get("store_dtype") != "float16":
        rows = _tried(len(X_test), max(fit.n_scores for fit in fitted.values()))
        cases.append(_case(HALVES, STORED, len(rows), _flips_of_halves(X_test, rows, fitted)))
    cases += _cases_of_rows(features, X_test, fitted)
    stored = f"{engine}, {spec.get('precision')}, {spec.get('store_dtype')}"
    return {"stored": stored, "cases": cases}


def _case(what: str, against: str, n: int, flips: dict[str, int]) -> dict[str, Any]:
    return {"features": what, "against": against, "n": n, "flips": flips}


def _tried(n_rows: int, n_heads: int) -> npt.NDArray[np.intp]:
    """Choose test rows evenly: all, unless that would be very many scores."""
    most = max(1, TRIED_NUMBERS // n_heads)
    return np.arange(n_rows) if n_rows <= most else np.arange(most) * n_rows // most


def _flips_of_halves(
    X_test: Any, rows: npt.NDArray[np.intp], fitted: Mapping[str, Fitted]
) -> dict[str, int]:
    flips = dict.fromkeys(fitted, 0)
    width = max(fit.n_scores for fit in fitted.values())
    if not is_source(X_test):  # `predict` cuts them where there are many heads
        width = 1
    for low, high in row_steps(X_test, len(rows), width):
        some = rows[low:high]
        # Stage one refuses to store what is larger than the largest half.
        halves = np.clip(rows_of(X_test, some), -LARGEST_HALF, LARGEST_HALF)
        halves = halves.astype(np.float16).astype(np.float32)
        for name, fit in fitted.items():
            flips[name] += _differing(fit, halves, fit.predictions[some])
    return flips


def _cases_of_rows(
    features: Features, X_test: Any, fitted: Mapping[str, Fitted]
) -> list[dict[str, Any]]:
    """Compare on the rows that were embedded again, where they are of this very store."""
    kept = features.test.rows
    if kept is not None:  # the rows that were embedded again are of all classes
        X_test = open_features(features.path, verify=False, in_memory=False).test.features
    found = _rechecked(features, X_test)
    if found is None:
        return []
    stored = rows_of(X_test, found.rows)
    mine = np.isin(found.rows, kept) if kept is not None else np.ones(len(found.rows), bool)
    if not mine.any():
        return []
    plain = {name: fit.estimator.predict(found.plain[mine]) for name, fit in fitted.items()}
    cases = []
    for what, every in ((STORED, stored), *found.others.items()):
        rows = every[mine]
        flips = {name: _differing(fit, rows, plain[name]) for name, fit in fitted.items()}
        cases.append(_case(what, PLAIN, len(rows), flips))
    return cases


def _rechecked(features: Features, X_test: Any) -> Rechecked | None:
    """Read the rows that were embedded again; of a sum, those that were in each of its stores."""
    whole = StorePart(features, slice(None), {"test": None})
    found = []
    for part in features.parts or (whole,):
        again = _rechecked_part(part, X_test)
        if again is None:
            return None
        found.append(again)
    if len(found) == 1:
        return found[0]
    rows = reduce(np.intersect1d, [again.rows for again in found])
    if not len(rows):
        return None
    places = [np.searchsorted(again.rows, rows) for again in found]
    names = [name for name in found[0].others if all(name in again.others for again in found)]

    def beside(blocks: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        return np.hstack([block[some] for block, some in zip(blocks, places, strict=True)])

    return Rechecked(
        features.key,
        rows,
        "",
        beside([again.plain for again in found]),
        {name: beside([again.others[name] for again in found]) for name in names},
    )


def _rechecked_part(part: StorePart, X_test: Any) -> Rechecked | None:
    """Read the rows of a store beside it, as rows of `X_test`, if they are of this very store."""
    header = part.header
    found = read_rechecked(header.path, header.key, header.n_features)
    if found is None or found.rows.min() < 0 or found.rows.max() >= len(X_test):
        return None
    order = part.orders["test"]
    rows = found.rows if order is None else np.argsort(order)[found.rows]
    if digest_of(rows_of(X_test, rows)[:, part.columns]) != found.digest:
        return None
    if order is None:
        return found
    ascending = np.argsort(rows)
    others = {name: block[ascending] for name, block in found.others.items()}
    return replace(found, rows=rows[ascending], plain=found.plain[ascending], others=others)


def _differing(fit: Fitted, rows: npt.NDArray[np.floating], expected: npt.NDArray[np.int64]) -> int:
    return int((fit.estimator.predict(rows) != expected).sum())


def numerics_line(results: Mapping[str, Any]) -> str:
    """Say in one line how many test predictions would flip in fp32, and with exact decoding."""
    found = results["numerics"]
    lines = []
    for case in found["cases"]:
        flips = ", ".join(f"{display_name(name)} {count}" for name, count in case["flips"].items())
        if (case["features"], case["against"]) == (STORED, PLAIN):
            lines.append(
                f"with features in {PLAIN} (these: {found['stored']}), of {case['n']:,} test "
                f"predictions would flip: {flips}"
            )
        elif (case["features"], case["against"]) == (EXACTLY, PLAIN):
            lines.append(f"with images decoded exactly (these: --decode fast): {flips}")
    return "; ".join(lines)
