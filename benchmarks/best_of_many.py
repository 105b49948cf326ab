"""Part ``best-of-many``: is the best among those that may be it as often as is said.

    make bench PARTS=best-of-many        # or: python -m benchmarks.best_of_many

Classifiers of known accuracies answer the same images: an image is answered rightly where a normal
number is below the quantile of the accuracy. `alike` is the part of that number that is the
image's, and common to all; in groups, a part of the rest is common to an image's group. Each data
set is drawn anew, and judged by `classify.analysis.best_of_many` as a page is. Beside it stands
what ignores that the leader was chosen on the test images: a paired test of each against the
leader at 5 %.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from benchmarks.record import Record, Table
from benchmarks.settings import Settings
from classify.analysis.best_of_many import AgainstBest, against_best
from classify.analysis.resampling import Units, difference_table, group_test, units_of
from classify.analysis.significance import ALPHA, mcnemar_exact

Rights = npt.NDArray[np.bool_]

HIGHEST = 0.9
OF_GROUP = 0.5  # of what is a classifier's own, in data sets with groups
MANY = 10  # classifiers from which on fewer data sets are drawn
LIMITS = {"missed": 0.025, "interval": 0.05, "at_once": 0.05}


class Case(NamedTuple):
    """Images, classifiers, how their accuracies lie, and how alike they are."""

    images: int
    classifiers: int
    truth: str  # a key of TRUTHS
    alike: float
    groups: int = 0

    @property
    def accuracies(self) -> npt.NDArray[np.float64]:
        """Return the true accuracies; the first is the best, or one of the best."""
        return HIGHEST - TRUTHS[self.truth](np.arange(self.classifiers))


TRUTHS: dict[str, Any] = {
    "all equal": lambda i: 0.0 * i,
    "one is best": lambda i: 0.01 * (i > 0),
    "two are best": lambda i: 0.03 * (i > 1),
    "ladder": lambda i: 0.005 * i,
}
CASES = (
    Case(400, 2, "all equal", 0.8),
    Case(2_000, 2, "one is best", 0.8),
    Case(400, 6, "all equal", 0.8),
    Case(2_000, 6, "all equal", 0.5),
    Case(2_000, 6, "one is best", 0.8),
    Case(2_000, 6, "ladder", 0.9),
    Case(10_000, 6, "two are best", 0.8),
    Case(2_000, 24, "all equal", 0.8),
    Case(2_000, 24, "one is best", 0.9),
    Case(2_000, 24, "ladder", 0.9),
    Case(800, 6, "all equal", 0.8, groups=40),
    Case(800, 6, "one is best", 0.8, groups=40),
)


def draw(case: Case, rng: np.random.Generator) -> tuple[Rights, Units | None]:
    """Draw who is right, (classifiers, images), and the units of the images."""
    shape = (case.classifiers, case.images)
    own = rng.normal(size=shape)
    units = None
    if case.groups:
        groups = np.arange(case.images) * case.groups // case.images
        shared = rng.normal(size=(case.classifiers, case.groups))[:, groups]
        own = OF_GROUP**0.5 * shared + (1 - OF_GROUP) ** 0.5 * own
        units = units_of(groups, None, case.images)
    number = case.alike**0.5 * rng.normal(size=case.images) + (1 - case.alike) ** 0.5 * own
    return number < ndtri(case.accuracies)[:, None], units


def leader_beats(rights: Rights, units: Units | None) -> bool:
    """Tell whether a test at 5 % says that the leader of a test set is better than the first."""
    leader = int(rights.mean(axis=1).argmax())
    if units is not None:
        found = group_test(difference_table(rights[leader], rights[0], units), ALPHA)
        return found.p < ALPHA and found.low > 0
    wins, losses = (int((a & ~b).sum()) for a, b in (rights[[leader, 0]], rights[[0, leader]]))
    return wins > losses and mcnemar_exact(wins, losses) < ALPHA


def judge_draw(
    found: list[AgainstBest], truth: npt.NDArray[np.float64]
) -> tuple[bool, npt.NDArray[np.bool_], bool]:
    """Say whether the best is left out, which intervals miss, and whether any promise fails."""
    low, high = (np.array([getattr(entry, name) for entry in found]) for name in ("low", "high"))
    missed = found[0].beaten_by is not None
    below, above = truth < low, truth > high
    return missed, below | above, bool(missed or above[0] or below.any())


def judge_case(case: Case, draws: int) -> dict[str, Any]:
    """Count over data sets drawn anew how often what a page says is wrong."""
    rng = np.random.default_rng([case.images, case.classifiers, case.groups])
    accuracies = case.accuracies
    others = [np.delete(accuracies, i).max() for i in range(case.classifiers)]
    truth = accuracies - others
    missed, at_once, naive, kept = 0, 0, 0, 0
    intervals = np.zeros(case.classifiers)
    for _ in range(draws):
        rights, units = draw(case, rng)
        found = against_best(rights, units)
        left_out, wrong, failed = judge_draw(found, truth)
        missed += left_out
        intervals += wrong
        at_once += failed
        naive += leader_beats(rights, units)
        kept += sum(entry.beaten_by is None for entry in found)
    return {
        **case._asdict(),
        "draws": draws,
        "missed": missed / draws,
        "interval": float(intervals.max() / draws),
        "at_once": at_once / draws,
        "leader_only": naive / draws,
        "kept": kept / draws,
    }


def run(settings: Settings) -> Record:
    """Simulate every case, and print how often the set and its intervals are wrong."""
    record = Record(settings.results, "best-of-many", settings.record())
    record.remark(
        "in % of data sets: the best is not among those that may be it (at most "
        f"{100 * LIMITS['missed']:g}), the interval of the worst of all rows misses (at most "
        f"{100 * LIMITS['interval']:g}), anything that is said to hold at once fails (at most "
        f"{100 * LIMITS['at_once']:g}); how many may be the best, on average; and how often a test "
        "against the leader alone at 5 % calls the best worse"
    )
    heads = [("images", 6), ("groups", 6), ("classifiers", 11), ("accuracies", 12), ("alike", 5)]
    heads += [("data sets", 9), ("best left out", 13), ("interval misses", 15)]
    heads += [("at once", 7), ("may be best", 11), ("leader alone", 12)]
    table, within = Table(heads), True
    for case in CASES:
        draws = max(10, settings.paired_draws // (16 if case.classifiers > MANY else 4))
        found = judge_case(case, draws)
        record.add(found)
        for name, limit in LIMITS.items():
            # A simulation of the limit itself is above it half the time.
            slack = 3.0 * (limit * (1 - limit) / draws) ** 0.5
            within &= found[name] <= limit + slack
        table.row(
            f"{case.images:,}",
            case.groups or "none",
            case.classifiers,
            case.truth,
            case.alike,
            f"{draws:,}",
            *(f"{100 * found[name]:.1f}" for name in LIMITS),
            f"{found['kept']:.1f}",
            f"{100 * found['leader_only']:.1f}",
        )
    record.remark(
        f"all within the limits, up to three standard errors: {'yes' if within else 'NO'}"
    )
    record.finish()
    return record


if __name__ == "__main__":
    run(Settings())
