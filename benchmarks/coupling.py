"""Part ``coupling``: seconds that class probabilities take from one-vs-one scores."""

from __future__ import annotations

import statistics
import time

import numpy as np

from benchmarks.record import Record, Table, duration
from benchmarks.settings import Settings
from classify.codings.decisions import probabilities
from classify.solver.problems import n_heads

# Limits for 10,000 rows.
LIMITS = {10: 0.2, 100: 20.0}


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "coupling", settings.record())
    n_rows = settings.coupling_rows
    record.remark(f"one-vs-one probabilities of {n_rows:,} rows, medians of {settings.repeats}")
    table = Table((("classes", 8), ("pairs", 6), ("seconds", 10), ("limit", 8), ("within", 6)))
    for n_classes, limit in LIMITS.items():
        rng = np.random.default_rng(0)
        # Heads that agree on a ranking, with noise: scores as of a trained classifier.
        liking = 3 * rng.standard_normal((n_rows, n_classes), dtype=np.float32)
        first, second = np.triu_indices(n_classes, k=1)
        scores = liking[:, second] - liking[:, first]
        scores += rng.standard_normal((n_rows, n_heads("ovo", n_classes)), dtype=np.float32)
        seconds = []
        for _ in range(settings.repeats):
            start = time.perf_counter()
            probabilities("ovo", scores, n_classes)
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        within = median <= limit
        shown = "yes" if within else "NO"
        table.row(n_classes, scores.shape[1], duration(median), f"{limit:g} s", shown)
        record.add(
            {"classes": n_classes, "rows": n_rows, "seconds": seconds, "median": median}
            | {"limit": limit, "within": within}
        )
    record.finish()
    return record
