"""Part ``slopes``: seconds of a pass against rows, columns and width, and their exponents."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from benchmarks.record import Record, Table, duration
from benchmarks.settings import Settings
from classify.solver.fit import Fitter
from classify.solver.threads import workers

# Each size is timed for at least so long, and the fastest pass counts: others share the machine.
SECONDS = 1.0
LEAST_PASSES = 5


def fit_slope(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Fit ``log(seconds)`` by a line in ``log(size)``.

    Parameters
    ----------
    sizes, seconds : sequence of float
        At least two points.

    Returns
    -------
    slope : float
        The exponent.
    r_squared : float
        The share of the variance that the line explains.
    """
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(seconds, float))
    slope, constant = np.polyfit(x, y, 1)
    spread = ((y - y.mean()) ** 2).sum()
    rest = ((y - slope * x - constant) ** 2).sum()
    return float(slope), float(1 - rest / spread) if spread else 1.0


def seconds_of_a_pass(n_rows: int, columns: int, width: int, budget: float = SECONDS) -> float:
    """Time `Problems.evaluate` of one-vs-rest with so many problems riding in the pass.

    Parameters
    ----------
    n_rows, columns, width : int
        Shape; at least three columns.
    budget : float
        Seconds to spend.

    Returns
    -------
    float
        The fastest.
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n_rows, width), dtype=np.float32)
    labels = np.arange(n_rows) % columns
    with workers(None) as pool:
        problems = Fitter("ovr", X, labels, columns, pool).problems(0.01)
        which = np.arange(problems.n_problems)
        points = rng.standard_normal((len(which), problems.n_parameters)) / width**0.5
        problems.evaluate(which, points)
        best, passes, begun = np.inf, 0, time.perf_counter()
        while passes < LEAST_PASSES or time.perf_counter() - begun < budget:
            start = time.perf_counter()
            problems.evaluate(which, points)
            best = min(best, time.perf_counter() - start)
            passes += 1
    return float(best)


def run(settings: Settings, budget: float = SECONDS) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "slopes", settings.record())
    axes = {
        "rows": settings.slope_rows,
        "columns": settings.slope_columns,
        "width": settings.slope_width,
    }
    base = {name: sizes[len(sizes) // 2] for name, sizes in axes.items()}
    shape = ", ".join(f"{size:,} {name}" for name, size in base.items())
    record.remark(f"seconds of one pass, fastest of {LEAST_PASSES} or more; base: {shape}")
    table = Table((("varied", 8), ("size", 9), ("a pass", 10), ("GFLOP/s", 8)))
    fitted = []
    for name, sizes in axes.items():
        points = []
        for size in sizes:
            at = {**base, name: size}
            seconds = seconds_of_a_pass(at["rows"], at["columns"], at["width"], budget)
            work = 4 * at["rows"] * at["columns"] * at["width"]  # two products
            table.row(name, f"{size:,}", duration(seconds), f"{work / seconds / 1e9:.1f}")
            points.append({"size": size, "seconds": seconds})
        slope, r_squared = fit_slope(list(sizes), [point["seconds"] for point in points])
        record.add({"varied": name, "points": points, "slope": slope, "r_squared": r_squared})
        fitted.append((name, slope, r_squared))
    for name, slope, r_squared in fitted:
        record.remark(f"seconds ~ {name} ^ {slope:.2f} (R^2 {r_squared:.4f})")
    record.finish()
    return record
