"""Part ``closed-form``: heads in closed form and nearest rows, next to scikit-learn's.

Ours go through all values of a setting, as `classify fit` does before it chooses one; scikit-learn
fits one value. Both have the same float32 rows, standardised beforehand.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.record import Record, Table, duration
from benchmarks.rows import Rows
from benchmarks.settings import Settings
from classify.heads.interface import FitContext, RowSet
from classify.heads.registry import head_kind

# Seconds on two quiet cores, for 50,000 rows of 1,280 features and 10,000 queries.
LIMITS = {"ridge": 1.0, "lda": 1.0, "knn": 10.0}
LIMIT_SHAPE = (50_000, 1280, 10)
# Neighbours that scikit-learn's search is asked for.
THEIR_K = 20


class _Seconds(NamedTuple):
    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> _Seconds:
    """Time something, by the clock and by the processors."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return _Seconds(time.perf_counter() - start, time.process_time() - cpu)


def cases(
    rows: Rows, queries: npt.NDArray[np.float32]
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any], str]]:
    """Return what is timed for each head: ours, scikit-learn's, and what its is."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

    X, y = rows.X, rows.y
    mine = RowSet(X, np.arange(len(y)), y, rows.n_classes)

    def path(name: str) -> list[Any]:
        kind = head_kind(name)
        return list(kind.path(mine, mine, kind.grid(mine), FitContext()))

    def answers() -> Any:
        return head_kind("knn").answers(path("knn"), queries)

    k = min(THEIR_K, len(y))
    nearest = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp((1 - distances) / 0.07),
    ).fit(X, y)
    fits = {
        "ridge": RidgeClassifier(1.0, solver="cholesky"),
        "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        "nearest-mean": NearestCentroid(),
    }
    found: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
        name: (lambda name=name: path(name), lambda model=model: model.fit(X, y), str(model))  # type: ignore[misc]
        for name, model in fits.items()
    }
    found["knn"] = answers, lambda: nearest.predict(queries), f"KNeighborsClassifier({k})"
    return found


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "closed-form", settings.record())
    for rows in settings.closed_form_data():
        queries = rows.X[np.linspace(0, len(rows.X) - 1, settings.closed_form_queries).astype(int)]
        record.remark(
            f"{rows.describe()}; {len(queries):,} queries of knn; medians of {settings.repeats}"
        )
        columns = (("head", 12), ("settings", 8), ("seconds", 9), ("CPU", 9), ("limit", 6))
        theirs = (("within", 6), ("theirs", 9), ("CPU", 9), ("ratio", 6), ("what", 30))
        table = Table((*columns, *theirs))
        for name, (ours, their_work, what) in cases(rows, queries).items():
            pairs = [(timed(ours), timed(their_work)) for _ in range(settings.repeats)]
            wall, cpu, their_wall, their_cpu = (
                statistics.median(pair[side][kind] for pair in pairs)
                for side in (0, 1)
                for kind in (0, 1)
            )
            is_case = (*rows.X.shape, rows.n_classes) == LIMIT_SHAPE and len(queries) == 10_000
            limit = LIMITS.get(name) if is_case else None
            within = None if limit is None else wall <= limit
            grid = head_kind(name).grid(RowSet(rows.X, np.arange(len(rows.y)), rows.y, 1))
            table.row(
                *(name, len(grid), duration(wall), duration(cpu)),
                "-" if limit is None else f"{limit:g} s",
                {None: "-", True: "yes", False: "NO"}[within],
                *(duration(their_wall), duration(their_cpu), f"{their_wall / wall:.1f}x", what),
            )
            record.add(
                {"head": name, "settings": len(grid), "limit": limit, "within": within}
                | {"seconds": wall, "cpu_seconds": cpu, "peer": what, "peer_seconds": their_wall}
                | {"peer_cpu_seconds": their_cpu, "ratio": their_wall / wall}
            )
    record.finish()
    return record
