"""What the precision of the features is worth: test predictions that another one would change.

Half-precision storage is tried on every test row. What the network's own precision changes is
counted on the rows that ``python -m extract verify STORE.h5 --rows N`` has embedded again and kept
beside the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.solver.out_of_core import is_source, row_steps
from classify.wording import display_name
from data.reembedded import EXACTLY, digest_of, read_rechecked

if TYPE_CHECKING:
    from classify.records import Fitted
    from data.format.records import Features

STORED = "as stored"
HALVES = "stored as float16"
PLAIN = "fp32, plain torch"
LARGEST_HALF = float(np.finfo(np.float16).max)


def numerics(features: Features, X_test: Any, fitted: Mapping[str, Fitted]) -> dict[str, Any]:
    """Count the test predictions that another precision of the features would change.

    Shapes: X_test (n_test, n_features) or StoredRows.
    """
    spec = features.spec
    engine = (features.provenance or {}).get("engine", "torch")
    cases = []
    if spec.get("store_dtype") != "float16":
        cases.append(_case(HALVES, STORED, len(X_test), _flips_of_halves(X_test, fitted)))
    cases += _cases_of_rows(features, X_test, fitted)
    stored = f"{engine}, {spec.get('precision')}, {spec.get('store_dtype')}"
    return {"stored": stored, "cases": cases}


def _case(what: str, against: str, n: int, flips: dict[str, int]) -> dict[str, Any]:
    return {"features": what, "against": against, "n": n, "flips": flips}


def _flips_of_halves(X_test: Any, fitted: Mapping[str, Fitted]) -> dict[str, int]:
    flips = dict.fromkeys(fitted, 0)
    width = max(fit.estimator.head_.n_heads for fit in fitted.values())
    if not is_source(X_test):  # `predict` cuts them where there are many heads
        width = 1
    for low, high in row_steps(X_test, len(X_test), width):
        part = X_test.read(low, high) if is_source(X_test) else X_test[low:high]
        # Stage one refuses to store what is larger than the largest half.
        halves = np.clip(part, -LARGEST_HALF, LARGEST_HALF).astype(np.float16).astype(np.float32)
        for name, fit in fitted.items():
            flips[name] += _differing(fit, halves, fit.predictions[low:high])
    return flips


def _cases_of_rows(
    features: Features, X_test: Any, fitted: Mapping[str, Fitted]
) -> list[dict[str, Any]]:
    """Compare on the rows that were embedded again, where they are of this very store."""
    found = read_rechecked(features.path, features.key, int(X_test.shape[1]))
    if found is None or found.rows.min() < 0 or found.rows.max() >= len(X_test):
        return []
    stored = X_test.gather(found.rows) if is_source(X_test) else X_test[found.rows]
    if digest_of(stored) != found.digest:
        return []
    plain = {name: fit.estimator.predict(found.plain) for name, fit in fitted.items()}
    cases = []
    for what, rows in ((STORED, stored), *found.others.items()):
        flips = {name: _differing(fit, rows, plain[name]) for name, fit in fitted.items()}
        cases.append(_case(what, PLAIN, len(rows), flips))
    return cases


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
