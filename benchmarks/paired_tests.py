"""Part ``paired-tests``: do the paired tests of a page err as seldom as they say.

    make bench PARTS=paired-tests        # or: python -m benchmarks.paired_tests

For so many test rows, expected discordant pairs and tests: the family-wise error (any test of equal
classifiers rejects) and the simultaneous coverage (all intervals hold the true differences).

Counts are trinomial, so what one interval misses is summed exactly, over the numbers of discordant
rows and the tails of a binomial for each. Times the number of tests it bounds both, however the
tests depend on each other. Beside the bounds stand simulations: tests on data of their own, and
challengers that all meet one champion on the same rows and come in triples that copy each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import binom

from benchmarks.record import Record, Table
from benchmarks.settings import Settings
from classify.analysis.paired_interval import difference_intervals
from classify.analysis.significance import ALPHA

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

ROWS = (200, 2_000, 10_000)
DISCORDANT = (2, 10, 100, 1_000)
TESTS = (1, 3, 15, 135)
WIDTHS = (2, 10, 100)  # discordant pairs at which widths are compared
# Twice the chance that a discordant row favours the first classifier, minus 1.
FAVOURS = (0.0, 0.5, 0.8, 1.0)
COPIES, COPIED = 3, 0.9
HIGHEST_ERROR, LEAST_COVERAGE = 0.05, 0.94


class Truth(NamedTuple):
    """Champion and challengers: a share of rows is hard, the rest are right for everybody."""

    n: int
    discordance: float
    favour: float

    @property
    def difference(self) -> float:
        return self.discordance * self.favour

    @property
    def hit_rates(self) -> tuple[float, float]:
        """Chances of the champion and of a challenger on a hard row: a half, plus and minus."""
        shift = (1.0 - (1.0 - self.favour**2) ** 0.5) / (2.0 * self.favour) if self.favour else 0.0
        return 0.5 + shift, 0.5 - shift

    @property
    def hard(self) -> float:
        champion, challenger = self.hit_rates
        return self.discordance / (champion * (1 - challenger) + challenger * (1 - champion))


class Bounds(NamedTuple):
    """By the number of discordant rows: from which counts on an interval misses the truth."""

    above: Integers  # only_a at which the lower limit is above the true difference
    below: Integers  # only_b at which the upper limit is below it


def first_miss(n: int, discordant: Integers, difference: float, n_tests: int) -> Integers:
    """Find the least only_a whose lower limit is above a difference: it rises with only_a."""
    low, high = np.zeros_like(discordant), discordant + 1
    while np.any(low < high):
        middle = (low + high) // 2
        only_a = np.minimum(middle, discordant)
        limits = difference_intervals(only_a, discordant - only_a, n, ALPHA / n_tests)[:, 0]
        above = (limits > difference) & (middle <= discordant)
        high = np.where((low < high) & above, middle, high)
        low = np.where((low < high) & ~above, middle + 1, low)
    return low


def bounds(truth: Truth, n_tests: int) -> Bounds:
    """Find where intervals miss, for every likely number of discordant rows (others are 0)."""
    low, high = binom.ppf([1e-12, 1.0 - 1e-12], truth.n, truth.discordance).astype(int)
    likely = np.arange(low, high + 1)
    found = np.zeros((2, truth.n + 1), dtype=np.int64)
    found[0, likely] = first_miss(truth.n, likely, truth.difference, n_tests)
    found[1, likely] = first_miss(truth.n, likely, -truth.difference, n_tests)
    return Bounds(*found)


def missed(truth: Truth, where: Bounds) -> float:
    """Sum the probability that one interval does not hold the true difference."""
    discordant = np.arange(truth.n + 1)
    favoured = (1.0 + truth.favour) / 2.0
    above = binom.sf(where.above - 1, discordant, favoured)
    below = binom.sf(where.below - 1, discordant, 1.0 - favoured)
    chances = binom.pmf(discordant, truth.n, truth.discordance)
    return float(chances[chances > 1e-12] @ (above + below)[chances > 1e-12])


def independent(
    truth: Truth, n_tests: int, draws: int, rng: np.random.Generator
) -> tuple[Integers, Integers]:
    """Draw only_a and only_b of tests that share nothing, shape (draws, n_tests)."""
    a, b = (truth.discordance * (1.0 + sign * truth.favour) / 2.0 for sign in (1, -1))
    counts = rng.multinomial(truth.n, [a, b, max(0.0, 1.0 - a - b)], size=(draws, n_tests))
    return counts[..., 0], counts[..., 1]


def dependent(
    truth: Truth, n_tests: int, draws: int, rng: np.random.Generator
) -> tuple[Integers, Integers]:
    """Draw one champion against many challengers on the same rows, shape (draws, n_tests)."""
    champion, challenger = truth.hit_rates
    only_a, only_b = np.empty((2, draws, n_tests), dtype=np.int64)
    for i, n_hard in enumerate(rng.binomial(truth.n, min(1.0, truth.hard), size=draws)):
        right_a = rng.random(n_hard, dtype=np.float32) < champion
        models = rng.random((-(-n_tests // COPIES), n_hard), dtype=np.float32) < challenger
        right_b = np.repeat(models, COPIES, axis=0)[:n_tests]
        anew = rng.random(right_b.shape, dtype=np.float32) >= COPIED
        right_b[anew] = rng.random(np.count_nonzero(anew), dtype=np.float32) < challenger
        only_a[i] = np.count_nonzero(right_a & ~right_b, axis=1)
        only_b[i] = np.count_nonzero(~right_a & right_b, axis=1)
    return only_a, only_b


def all_hold(where: Bounds, only_a: Integers, only_b: Integers) -> float:
    """Return the share of draws in which every interval holds the true difference."""
    discordant = only_a + only_b
    held = (only_a < where.above[discordant]) & (only_b < where.below[discordant])
    return float(np.mean(held.all(axis=1)))


def judge_family(n: int, expected: int, n_tests: int, draws: int) -> dict[str, Any]:
    """Judge one family of tests: exact bounds, and simulations with equal and unequal classifiers.

    Parameters
    ----------
    n, expected, n_tests : int
        Test rows, expected discordant pairs, tests.
    draws : int
        Simulated families for each of `FAVOURS`.

    Returns
    -------
    dict
        Of ``bound``, ``independent`` and ``dependent`` the family-wise ``error`` and the smallest
        simultaneous ``coverage`` over `FAVOURS`.
    """
    rng = np.random.default_rng([n, expected, n_tests])
    kinds = {"bound": [], "independent": [], "dependent": []}  # type: dict[str, list[float]]
    for favour in FAVOURS:
        truth = Truth(n, expected / n, favour)
        where = bounds(truth, n_tests)
        kinds["bound"].append(1.0 - n_tests * missed(truth, where))
        for name, draw in (("independent", independent), ("dependent", dependent)):
            kinds[name].append(all_hold(where, *draw(truth, n_tests, draws, rng)))
    # Without a difference an interval misses when it excludes 0, which is when the test rejects.
    found = {name: {"error": 1.0 - held[0], "coverage": min(held)} for name, held in kinds.items()}
    return {"rows": n, "discordant": expected, "tests": n_tests, **found}


def tango_interval(only_a: int, only_b: int, n: int) -> tuple[float, float]:
    """Tango's score interval at 95 % (Statistics in Medicine 17, 1998, 891-908)."""

    def score(difference: float) -> float:
        linear = -only_a - only_b + (2 * n - only_a + only_b) * difference
        root = linear**2 + 8 * n * only_b * difference * (1 - difference)
        share = (root**0.5 - linear) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        return float((only_a - only_b - n * difference) / max(variance, 1e-300) ** 0.5)

    found, z = (only_a - only_b) / n, 1.959963984540054
    low = brentq(lambda x: score(x) - z, -1 + 1e-12, found) if only_b < n else -1.0
    high = brentq(lambda x: score(x) + z, found, 1 - 1e-12) if only_a < n else 1.0
    return low, high


def bootstrap_interval(
    only_a: int, only_b: int, n: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Percentile interval of 10,000 resamplings of the rows at 95 %."""
    draws = rng.multinomial(n, np.array([only_a, only_b, n - only_a - only_b]) / n, size=10_000)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / n, [0.025, 0.975])
    return float(low), float(high)


def compare_widths(truth: Truth, draws: int) -> dict[str, Any]:
    """Compare mean widths and coverages of three intervals of one difference at 95 %."""
    rng = np.random.default_rng(0)
    only_a, only_b = independent(truth, 1, draws, rng)
    counts = [(int(a), int(b)) for a, b in zip(only_a[:, 0], only_b[:, 0], strict=True)]
    ends = {
        "propimp": difference_intervals(only_a[:, 0], only_b[:, 0], truth.n, ALPHA),
        "tango": np.array([tango_interval(a, b, truth.n) for a, b in counts]),
        "bootstrap": np.array([bootstrap_interval(a, b, truth.n, rng) for a, b in counts]),
    }
    return {
        name: {
            "width": float(np.mean(pairs[:, 1] - pairs[:, 0])),
            "coverage": float(
                np.mean((pairs[:, 0] <= truth.difference) & (truth.difference <= pairs[:, 1]))
            ),
        }
        for name, pairs in ends.items()
    }


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "paired-tests", settings.record())
    draws = settings.paired_draws
    record.remark(
        f"family-wise error (at most {HIGHEST_ERROR:.0%}) and simultaneous coverage (at least "
        f"{LEAST_COVERAGE:.0%}), in %: exact bounds, and {draws:,} simulated families of "
        "independent and of dependent tests (standard error "
        f"{100 * (HIGHEST_ERROR * (1 - HIGHEST_ERROR) / draws) ** 0.5:.2f})"
    )
    kinds = ("bound", "independent", "dependent")
    heads = [("rows", 6), ("discordant", 5), ("tests", 5)]
    heads += [(f"{what}, {kind}", 6) for what in ("error", "coverage") for kind in kinds]
    table, within = Table(heads), True
    for n in ROWS:
        for expected in DISCORDANT:
            if 2 * expected > n:  # hard rows are right for one classifier with a chance of a half
                continue
            for n_tests in TESTS:
                found = judge_family(n, expected, n_tests, draws)
                record.add(found)
                errors = [found[kind]["error"] for kind in kinds]
                covered = [found[kind]["coverage"] for kind in kinds]
                # The bounds are exact; a simulation of the limit itself is above it half the time.
                slack = [0.0, *[3.0 * (HIGHEST_ERROR * (1 - HIGHEST_ERROR) / draws) ** 0.5] * 2]
                within &= all(np.subtract(errors, slack) <= HIGHEST_ERROR)
                within &= all(np.add(covered, slack) >= LEAST_COVERAGE)
                shown = [f"{100 * share:.2f}" for share in errors + covered]
                table.row(f"{n:,}", f"{expected:,}", n_tests, *shown)
    record.remark(
        "all within the limits, simulations within three standard errors of them: "
        f"{'yes' if within else 'NO'}"
    )
    record.remark("one interval at 95 %: mean width in points (coverage in %)")
    names = ("propimp", "tango", "bootstrap")
    table = Table([("rows", 6), ("discordant", 5), ("favour", 6), *((name, 14) for name in names)])
    for n in ROWS:
        for expected in WIDTHS:
            for favour in (0.0, 0.8):
                widths = compare_widths(Truth(n, expected / n, favour), draws // 4)
                told = [
                    f"{100 * widths[name]['width']:.3f} ({100 * widths[name]['coverage']:.1f})"
                    for name in names
                ]
                table.row(f"{n:,}", expected, favour, *told)
                record.add({"rows": n, "discordant": expected, "favour": favour, **widths})
    record.finish()
    return record


if __name__ == "__main__":
    run(Settings())
