"""One job in a process of its own: ``python -m benchmarks.trial FOLDER`` does FOLDER/job.json.

Peers are fitted here and not in the process that prints, because one of them patches scikit-learn
for its whole process, and because a fit that takes too long can then be ended.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import estimator, icebox, prepare, quietly, weights_of
from benchmarks.processes import READY
from benchmarks.rows import Rows

WARM_UP_ROWS = 300


def perform(job: dict[str, Any], ready: Any = lambda: None) -> dict[str, Any]:
    """Do a job.

    Parameters
    ----------
    job : dict
        ``kind``: ``fit`` (one fit of ``peer`` at ``tol``), ``contest`` (``repeats`` paired fits,
        Icebox and ``peer`` in turn; without ``peer`` Icebox alone) or ``memory`` (one fit of
        Icebox). With ``strategy`` and ``C``, and ``rows``, a folder that `Rows.save` wrote; for
        ``memory`` alternatively ``store``.
    ready : callable
        Called when everything is loaded and warm.

    Returns
    -------
    dict
        ``seconds``: a number; for a contest a list for each of ``icebox`` and ``peer``. ``coef``
        and ``intercept``; in a contest with ``icebox_`` and ``peer_`` before them.
    """
    strategy, C, peer = job["strategy"], job["C"], job.get("peer")
    if peer:
        prepare(peer)
    if job["kind"] == "memory":
        return _memory(job, ready)
    rows = Rows.load(Path(job["rows"]))
    few = _few(rows)
    makers: dict[str, Any] = {"icebox": lambda: icebox(strategy, C)}
    if peer:
        makers["peer"] = lambda: estimator(peer, strategy, C, job["tol"])
    if job["kind"] == "fit":
        del makers["icebox"]
    for make in makers.values():  # threads, worker processes, lazy imports
        quietly(make(), rows.X[few], rows.y[few])
    ready()
    seconds: dict[str, list[float]] = {who: [] for who in makers}
    heads = {}
    for _ in range(job.get("repeats", 1)):
        for who, make in makers.items():
            start = time.perf_counter()
            fitted = quietly(make(), rows.X, rows.y)
            seconds[who].append(time.perf_counter() - start)
            heads[who] = weights_of(fitted)
    if job["kind"] == "fit":
        coef, intercept = heads["peer"]
        return {"seconds": seconds["peer"][0], "coef": coef, "intercept": intercept}
    result: dict[str, Any] = {"seconds": seconds}
    for who, (coef, intercept) in heads.items():
        result |= {f"{who}_coef": coef, f"{who}_intercept": intercept}
    return result


def _few(rows: Rows) -> np.ndarray:
    """A few rows, of every class where there are not too many."""
    firsts = np.unique(rows.y, return_index=True)[1]
    return np.unique(np.concatenate([firsts, firsts + 1, np.arange(WARM_UP_ROWS)]) % len(rows.y))


def _memory(job: dict[str, Any], ready: Any) -> dict[str, Any]:
    if "store" in job:
        from data import open_features

        features = open_features(job["store"])  # as `classify fit` does
        X, y = features.train.features, features.train.labels
    else:
        rows = Rows.load(Path(job["rows"]))
        X, y = rows.X, rows.y
    ready()
    start = time.perf_counter()
    icebox(job["strategy"], job["C"], standardize="store" in job).fit(X, y)
    return {"seconds": time.perf_counter() - start}


def main(folder: Path) -> None:
    """Do the job of a folder; results go beside it."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    result = perform(job, lambda: print(READY, flush=True))
    arrays = {key: value for key, value in result.items() if isinstance(value, np.ndarray)}
    with open(folder / "arrays.npz", "wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    numbers = {key: value for key, value in result.items() if key not in arrays}
    (folder / "numbers.json").write_text(json.dumps(numbers), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
