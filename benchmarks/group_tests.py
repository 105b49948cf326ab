"""Part ``group-tests``: do tests and intervals that resample groups err as seldom as they say.

    make bench PARTS=group-tests        # or: python -m benchmarks.group_tests

Two classifiers whose errors cluster: an image is answered rightly where a normal number is below
the quantile of the accuracy, and this number is in part its group's, in part its own. `correlation`
is the group's part; half of that is common to both. Beside the tests and intervals for groups stand
those for independent images, which is what a run without groups has.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from benchmarks.record import Record, Table
from benchmarks.settings import Settings
from classify.analysis.evaluate import wilson_interval
from classify.analysis.resampling import accuracy_interval, difference_table, group_test, units_of
from classify.analysis.significance import ALPHA, mcnemar_exact

Rights = npt.NDArray[np.bool_]

SHARED = 0.5
DIFFERENCE = 0.05


class Case(NamedTuple):
    """Groups, images of each on average, the group's part of an error, and the accuracy."""

    groups: int
    images: int
    correlation: float
    accuracy: float
    heavy: bool = False  # a few groups are very large


CASES = (
    Case(10, 20, 0.3, 0.8),
    Case(20, 20, 0.3, 0.8),
    Case(40, 20, 0.3, 0.9),
    Case(40, 10, 0.3, 0.8, heavy=True),
    Case(100, 10, 0.3, 0.9),
    Case(100, 10, 0.0, 0.9),
    Case(400, 3, 0.3, 0.9),
)


def draw(
    case: Case, difference: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], Rights, Rights]:
    """Draw groups (n_images,), and who is right, of two classifiers whose accuracies differ so."""
    sizes = 1 + rng.poisson(case.images - 1, case.groups)
    if case.heavy:
        tails = case.images / 2 * (1 + rng.pareto(1.5, case.groups))
        sizes = np.clip(tails, 1, 20 * case.images).astype(np.int64)
    groups = np.repeat(np.arange(case.groups), sizes)
    common = rng.normal(size=case.groups)
    rights = []
    for accuracy in (case.accuracy + difference / 2, case.accuracy - difference / 2):
        own = rng.normal(size=case.groups)
        of_group = SHARED**0.5 * common + (1 - SHARED) ** 0.5 * own
        noise = rng.normal(size=len(groups))
        number = case.correlation**0.5 * of_group[groups] + (1 - case.correlation) ** 0.5 * noise
        rights.append(number < ndtri(accuracy))
    return groups, rights[0], rights[1]


def judge_case(case: Case, draws: int) -> dict[str, Any]:
    """Count, over data sets drawn anew, how often tests reject and intervals hold the truth."""
    rng = np.random.default_rng([case.groups, case.images])
    counts = dict.fromkeys(
        ("signs", "mcnemar", "difference", "power", "bootstrap", "wilson", "agree"), 0
    )
    for _ in range(draws):
        groups, a, b = draw(case, 0.0, rng)
        units = units_of(groups, None, len(groups))
        assert units is not None
        test = group_test(difference_table(a, b, units), ALPHA)
        counts["signs"] += test.p < ALPHA
        counts["agree"] += (test.p < ALPHA) == (test.low > 0 or test.high < 0)
        counts["mcnemar"] += mcnemar_exact(int((a & ~b).sum()), int((b & ~a).sum())) < ALPHA
        for name, (low, high) in (
            ("bootstrap", accuracy_interval(a, units)),
            ("wilson", wilson_interval(int(a.sum()), len(a))),
        ):
            counts[name] += low <= case.accuracy <= high
        groups, a, b = draw(case, DIFFERENCE, rng)
        units = units_of(groups, None, len(groups))
        assert units is not None
        test = group_test(difference_table(a, b, units), ALPHA)
        counts["difference"] += test.low <= DIFFERENCE <= test.high
        counts["power"] += test.p < ALPHA
    return {**case._asdict(), **{name: int(n) / draws for name, n in counts.items()}}


def run(settings: Settings) -> Record:
    """Simulate every case, and print how often tests err and intervals hold."""
    record = Record(settings.results, "group-tests", settings.record())
    draws = max(10, settings.paired_draws // 4)
    record.add({"draws": draws, "difference": DIFFERENCE, "shared": SHARED})
    record.remark(
        f"{draws:,} data sets a row, in %. Errors: tests of equal classifiers that reject at 5 %. "
        f"Coverage: intervals at 95 % that hold the truth. Power: at {100 * DIFFERENCE:g} points."
    )
    heads = [("groups", 6), ("images each", 14), ("correlation", 11), ("accuracy", 8)]
    heads += [("error, signs", 12), ("McNemar", 7), ("coverage, difference", 20), ("power", 5)]
    heads += [("accuracy", 8), ("Wilson", 6)]
    table = Table(heads)
    for case in CASES:
        found = judge_case(case, draws)
        record.add(found)
        shares = ("signs", "mcnemar", "difference", "power", "bootstrap", "wilson")
        each = f"{case.images}{', uneven' if case.heavy else ''}"
        told = [f"{100 * found[name]:.1f}" for name in shares]
        table.row(case.groups, each, case.correlation, case.accuracy, *told)
    record.finish()
    return record


if __name__ == "__main__":
    run(Settings())
