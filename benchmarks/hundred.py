"""Part ``hundred``: one-vs-one of a hundred classes, 4,950 pairs.

The classes are made by splitting each class of real embeddings into k-means clusters. Icebox is
timed whole; scikit-learn on a random sample of the pairs, with all cores busy, scaled up.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.memory import fit_memory
from benchmarks.objective import objective
from benchmarks.one_c import REFERENCE_TOL
from benchmarks.peers import cores, icebox, quietly, single, weights_of
from benchmarks.processes import pages_kept, scratch
from benchmarks.record import Record, amount, duration, tiny
from benchmarks.rows import Rows
from benchmarks.search import SAME, loosest
from benchmarks.settings import Settings
from classify.solver.problems import class_pairs

GOAL = 4.0
Pairs = npt.NDArray[np.intp]


def split_classes(rows: Rows, wanted: int) -> Rows:
    """Split every class into clusters, so that there are about so many classes.

    Parameters
    ----------
    rows : Rows
        With few classes; with more than half of `wanted`, they stay as they are.
    wanted : int
        Classes.

    Returns
    -------
    Rows
        The same features.
    """
    from sklearn.cluster import MiniBatchKMeans

    parts = wanted // rows.n_classes
    if parts < 2:
        return rows
    y = np.empty(len(rows.y), np.intp)
    for label in range(rows.n_classes):
        which = np.flatnonzero(rows.y == label)
        clusters = MiniBatchKMeans(min(parts, len(which)), random_state=0, n_init=3)
        y[which] = label * parts + quietly(clusters, rows.X[which], None).labels_
    _, y = np.unique(y, return_inverse=True)
    return Rows(f"{rows.name}, each class split by k-means", rows.X, y)


def fit_pair(X: Any, y: Any, pair: tuple[int, int], C: float, tol: float) -> Any:
    """Fit scikit-learn to one pair; in a worker process."""
    which = np.flatnonzero((y == pair[0]) | (y == pair[1]))
    return weights_of(quietly(single("scikit-learn", C, tol), X[which], y[which] == pair[1]))


def fit_sample(rows: Rows, sample: Pairs, C: float, tol: float) -> tuple[float, list[Any]]:
    """Fit scikit-learn to some pairs, with all cores.

    Parameters
    ----------
    rows : Rows
        In mapped files, so that handing them to the workers costs nothing: a whole fit does that
        once, and scaling it up with the sample would be unfair.
    sample : ndarray of int, shape (n, 2)
        Pairs of classes.
    C, tol : float
        For scikit-learn.

    Returns
    -------
    seconds : float
        For all of them.
    heads : list
        Weights and intercept of each.
    """
    import joblib

    start = time.perf_counter()
    heads = joblib.Parallel(n_jobs=cores())(
        joblib.delayed(fit_pair)(rows.X, rows.y, (int(a), int(b)), C, tol) for a, b in sample
    )
    return time.perf_counter() - start, list(heads)


def of_pairs(rows: Rows, sample: Pairs, heads: list[Any], C: float) -> float:
    """Return the sum of the pairs' objectives."""
    total = 0.0
    for (first, second), (coef, intercept) in zip(sample, heads, strict=True):
        which = np.flatnonzero((rows.y == first) | (rows.y == second))
        y = (rows.y[which] == second).astype(np.intp)
        total += objective("ovo", coef, intercept, C, rows.X[which], y)
    return total


def reference_heads(rows: Rows, sample: Pairs, C: float) -> list[Any]:
    """Fit each pair by itself in float64."""
    heads = []
    for first, second in sample:
        which = np.flatnonzero((rows.y == first) | (rows.y == second))
        one = icebox("ovo", C, tol=REFERENCE_TOL, max_iter=5000)
        X = rows.X[which].astype(np.float64)
        heads.append(weights_of(quietly(one, X, rows.y[which])))
    return heads


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "hundred", settings.record())
    for given in settings.data():
        rows = split_classes(given, settings.classes)
        record.remark(rows.describe())
        with scratch() as folder:
            rows.save(folder)
            for C in settings.C:
                record.add(_measure(rows, folder, C, settings, record))
    record.finish()
    return record


def _measure(
    rows: Rows, saved: Path, C: float, settings: Settings, record: Record
) -> dict[str, Any]:
    pairs = class_pairs(rows.n_classes)
    chosen = np.random.default_rng(0).permutation(len(pairs))[: settings.pairs]
    sample = pairs[np.sort(chosen)]
    lowest = of_pairs(rows, sample, reference_heads(rows, sample, C), C)
    mapped = Rows.load(saved, mapped=True)

    def attempt(tol: float) -> tuple[float, float] | None:
        seconds, heads = fit_sample(mapped, sample, C, tol)
        return of_pairs(rows, sample, heads, C) / lowest - 1, seconds

    with pages_kept():
        fit_sample(mapped, sample, C, 1e-2)  # the worker processes start
        found = loosest(attempt, start=settings.peer_tol)
        assert found.tol is not None
        ours, theirs = [], []
        for _ in range(settings.repeats):
            start = time.perf_counter()
            fitted = quietly(icebox("ovo", C), rows.X, rows.y)
            ours.append(time.perf_counter() - start)
            theirs.append(fit_sample(mapped, sample, C, found.tol)[0])
    coef, intercept = weights_of(fitted)
    heads = [(coef[[k]], intercept[[k]]) for k in np.sort(chosen)]
    our_excess = of_pairs(rows, sample, heads, C) / lowest - 1
    scale = len(pairs) / len(sample)
    ratio = statistics.median(scale * b / a for a, b in zip(ours, theirs, strict=True))
    peak = fit_memory({"strategy": "ovo", "C": C, "rows": str(saved)})["peak_bytes"]
    extra = peak - rows.X.nbytes
    record.remark(
        f"C={C:g}: Icebox, all {len(pairs):,} pairs: {duration(statistics.median(ours))} "
        f"(excess {tiny(our_excess)} on the sample); peak memory {amount(peak)}, that is "
        f"{amount(extra)} beyond the {amount(rows.X.nbytes)} of features"
    )
    median = statistics.median(theirs)
    near = "" if found.reached else f" (as near as it gets: none reaches {SAME:g})"
    record.remark(
        f"scikit-learn, {len(sample)} pairs at random on {cores()} cores, "
        f"tol={found.tol:g}{near}: {duration(median)} (excess {tiny(found.excess)}); SCALED UP by "
        f"{scale:.4g}: {duration(scale * median)}, {ratio:.1f} times Icebox's (floor: {GOAL:g})"
    )
    return {
        "data": rows.describe(),
        "C": C,
        "pairs": len(pairs),
        "sample": sample.tolist(),
        "icebox_seconds": ours,
        "peer_seconds_of_sample": theirs,
        "scale": scale,
        "peer_seconds_scaled": scale * median,
        "ratio": ratio,
        "our_excess": our_excess,
        "peer_excess": found.excess,
        "peer_tol": found.tol,
        "peer_reached": found.reached,
        "search": found.tried,
        "peak_bytes": peak,
        "features_bytes": rows.X.nbytes,
        "beyond_features_bytes": extra,
    }
