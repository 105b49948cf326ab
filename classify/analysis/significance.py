"""Paired tests: do two classifiers differ, on the same test rows, by more than chance.

All the paired questions depend on the answers only through four counts: rows that both classifiers
got right, that only the first or only the second did, and that neither did.

Each pair gets the exact McNemar test. Several tests on one page are corrected in a single step
(Bonferroni): the adjusted p is the number of tests times p, and each interval has the level
1 - 0.05 / tests, so that all of them hold at once, with 95 %, and an interval excludes 0 exactly
when the adjusted p is below 0.05. Holm's procedure rejects a little more, but the simultaneous
intervals that go with it tell nothing beyond the sign of a difference that it has rejected
(Guilbaud 2008; Strassburger and Bretz 2008), and intervals at the levels of Holm's steps do not
hold at once.

Where test rows come in groups, or have weights, they are not so many independent observations of
one kind, and the four counts say too little. There the test changes the signs of groups, and
everything follows from the groups' differences: see `classify.analysis.resampling`.

References
----------
McNemar, Q. (1947). Note on the sampling error of the difference between correlated proportions or
    percentages. Psychometrika 12, 153-157.
Dunn, O. J. (1961). Multiple comparisons among means. Journal of the American Statistical
    Association 56, 52-64.
Guilbaud, O. (2008). Simultaneous confidence regions corresponding to Holm's step-down procedure and
    other closed-testing procedures. Biometrical Journal 50, 678-692.
Strassburger, K., Bretz, F. (2008). Compatible simultaneous lower confidence bounds for the Holm
    procedure and other Bonferroni-based closed tests. Statistics in Medicine 27, 4914-4927.
Newcombe, R. G. (2011). Propagating imprecision: combining confidence intervals from independent
    sources. Communications in Statistics - Theory and Methods 40, 3154-3180.
Duffy, S. W. (1984). Asymptotic and exact power for the McNemar test and its analogue with R
    controls per case. Biometrics 40, 1005-1015.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.analysis.paired_interval import difference_intervals
from classify.analysis.resampling import Units, difference_table, group_test, standard_error
from classify.wording import COUNTS, display_name, headline, verdict

_Floats = npt.NDArray[np.float64]

ALPHA = 0.05
POWER = 0.8
# What comparisons of earlier versions lack.
ADDED = ("mcnemar_p_adjusted", "n_tests", "test_rows_needed")
# What `results.json` calls the procedure; files with another name, or none, are judged again.
METHOD = (
    "exact McNemar tests and PropImp intervals (Newcombe 2011), Bonferroni over n_tests (Dunn 1961)"
)
GROUP_METHOD = (
    "tests by signs of groups (Canay, Romano and Shaikh 2017) and their typical-value intervals "
    "(Hartigan 1969), Bonferroni over n_tests (Dunn 1961)"
)


@dataclass(frozen=True)
class PairedCounts:
    """How two classifiers' answers fall on the same rows; the four counts add up to ``n``."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of a minus accuracy of b."""
        return (self.only_a - self.only_b) / self.n

    @property
    def discordance(self) -> float:
        """Share of rows that exactly one of the two got right."""
        return (self.only_a + self.only_b) / self.n


def paired_counts(right_a: npt.NDArray[np.bool_], right_b: npt.NDArray[np.bool_]) -> PairedCounts:
    """Count the four outcomes of two classifiers on the same rows.

    Shapes: right_a, right_b (n_samples,).
    """
    return PairedCounts(
        both=int(np.count_nonzero(right_a & right_b)),
        only_a=int(np.count_nonzero(right_a & ~right_b)),
        only_b=int(np.count_nonzero(~right_a & right_b)),
        neither=int(np.count_nonzero(~right_a & ~right_b)),
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the p-value of the two-sided exact McNemar test."""
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def adjusted_p(p: float, n_tests: int) -> float:
    """Multiply a p-value by the number of tests (Bonferroni); at most 1."""
    return min(1.0, n_tests * p)


def difference_interval(counts: PairedCounts, n_tests: int = 1) -> tuple[float, float]:
    """Find one of `n_tests` simultaneous 95 % intervals of accuracy(a) - accuracy(b)."""
    low, high = map(
        float, difference_intervals(counts.only_a, counts.only_b, counts.n, ALPHA / n_tests)
    )
    # The limits and p are computed in two ways, so they may differ in the last bit; p decides.
    if adjusted_p(mcnemar_exact(counts.only_a, counts.only_b), n_tests) >= ALPHA:
        return min(low, 0.0), max(high, 0.0)
    if counts.only_a > counts.only_b:
        return max(low, math.ulp(0.0)), high
    return low, min(high, -math.ulp(0.0))


def mcnemar_power(n: int, discordance: float, difference: float, alpha: float = ALPHA) -> float:
    """Exact unconditional power of the two-sided exact McNemar test (Duffy 1984).

    The number of discordant rows is binomial(n, discordance); given it, those in favour of one side
    are binomial with probability (1 + difference / discordance) / 2.
    """
    return _rejections(*_critical_counts(n, discordance, alpha), difference / discordance)


def _critical_counts(n: int, discordance: float, alpha: float) -> tuple[_Floats, _Floats, _Floats]:
    """Likely numbers of discordant rows that can reject, their chances and critical counts.

    The critical count is the largest of the losing side with which the test rejects.
    """
    from scipy.special import bdtr
    from scipy.stats import binom

    low, high = binom.ppf([1e-9, 1.0 - 1e-9], n, discordance)
    discordant = np.arange(int(low), int(high) + 1)
    critical = binom.ppf(alpha / 2.0, discordant, 0.5)
    critical -= 2.0 * bdtr(np.maximum(critical, 0.0), discordant, 0.5) >= alpha
    able = critical >= 0
    discordant, critical = discordant[able], critical[able]
    return discordant, binom.pmf(discordant, n, discordance), critical


def _rejections(discordant: _Floats, chances: _Floats, critical: _Floats, theta: float) -> float:
    """Probability of rejecting where discordant rows favour one side by `theta`."""
    from scipy.special import bdtr

    favoured = min(1.0, (1.0 + theta) / 2.0)
    rejected = bdtr(critical, discordant, 1.0 - favoured) + bdtr(critical, discordant, favoured)
    return float(chances @ rejected)


def least_rows(alpha: float = ALPHA) -> int:
    """Count the discordant rows, all in favour of one side, that the test rejects with."""
    return math.floor(math.log2(2.0 / alpha)) + 1


@lru_cache(maxsize=10_000)
def detectable_difference(
    n: int, discordance: float, alpha: float = ALPHA, power: float = POWER
) -> float | None:
    """Smallest accuracy difference that a test set of this size shows with the given power.

    The exact power of the test in use, at the level in use, is solved for the difference, so that
    "4 of 5 cases" holds for this very verdict. A difference cannot exceed the discordance, so where
    the observed discordance is too small for any difference to show, it grows with the difference
    that is tried.
    """
    from scipy.optimize import brentq
    from scipy.special import betaincinv

    least = least_rows(alpha)
    if n < least:
        return None
    if discordance > 0.0:
        counts = _critical_counts(n, discordance, alpha)
        if _rejections(*counts, 1.0) >= power:
            theta = brentq(lambda theta: _rejections(*counts, theta) - power, 0.0, 1.0, xtol=1e-6)
            return float(discordance * theta)
    # All discordant rows on one side: the share with which `least` of them or more have the power.
    return float(betaincinv(least, n - least + 1, power))


def judge(counts: PairedCounts, n_tests: int) -> dict[str, Any]:
    """Draw from four counts every number that depends on nothing but them and the tests' number."""
    p = mcnemar_exact(counts.only_a, counts.only_b)
    adjusted = adjusted_p(p, n_tests)
    return {
        "accuracy_difference": counts.difference,
        "difference_ci95": list(difference_interval(counts, n_tests)),
        "mcnemar_p": p,
        "mcnemar_p_adjusted": adjusted,
        # Older readers know the adjusted p by this name; Holm's would never be larger.
        "mcnemar_p_holm": adjusted,
        "n_tests": n_tests,
        "significant": adjusted < ALPHA,
        **dict(zip(COUNTS, astuple(counts), strict=True)),
        "detectable_difference": detectable_difference(
            counts.n, counts.discordance, ALPHA / n_tests
        ),
        "test_rows_needed": least_rows(ALPHA / n_tests),
    }


def judge_groups(
    counts: PairedCounts,
    table: Sequence[Sequence[float]],
    n_groups: int | None,
    n_tests: int,
) -> dict[str, Any]:
    """Judge as `judge` does, by the differences of groups: see `resampling.difference_table`."""
    alpha = ALPHA / n_tests
    p, low, high = group_test(table, ALPHA, n_tests)
    adjusted = adjusted_p(p, n_tests)
    if adjusted >= ALPHA:  # p decides, where the last bit would
        low, high = min(low, 0.0), max(high, 0.0)
    difference = sum(d * n for d, _, n in table) / sum(w * n for _, w, n in table)
    return {
        **judge(counts, n_tests),
        "accuracy_difference": difference,
        "difference_ci95": [low, high],
        "mcnemar_p": p,
        "mcnemar_p_adjusted": adjusted,
        "mcnemar_p_holm": adjusted,
        "significant": adjusted < ALPHA,
        "detectable_difference": _detectable_in_groups(counts, table, alpha),
        "n_groups": n_groups,
        "group_differences": [list(row) for row in table],
    }


def _detectable_in_groups(
    counts: PairedCounts, table: Sequence[Sequence[float]], alpha: float
) -> float | None:
    """Estimate the smallest difference that these groups show in 4 of 5 cases."""
    from scipy.special import ndtri

    d, w, n_units = np.asarray(table, dtype=np.float64).T
    n, apart = int(n_units.sum()), int(n_units[d != 0].sum())
    normal = float(ndtri(1 - alpha / 2) + ndtri(POWER)) * standard_error(table)
    least = least_rows(alpha)
    if apart >= least or n < least:
        return min(1.0, normal) if n >= least else None
    # So few groups can differ in one direction only: how many it takes, of the usual difference.
    total = float(w @ n_units)
    usual = float(np.abs(d) @ n_units) / apart if apart else total / counts.n
    share = detectable_difference(n, 0.0, alpha) or 1.0
    return min(1.0, max(normal, share * n * usual / total))


def judge_again(comparison: Mapping[str, Any], n_tests: int) -> dict[str, Any]:
    """Judge a comparison of two strategies from its counts, as one of so many tests."""
    counts = PairedCounts(*(comparison[name] for name in COUNTS))
    if table := comparison.get("group_differences"):
        found = judge_groups(counts, table, comparison.get("n_groups"), n_tests)
    else:
        found = judge(counts, n_tests)
    judged = {**comparison, **found}
    told = verdict(display_name(judged["a"]), display_name(judged["b"]), judged)
    return {**judged, "verdict": told}


def method_of(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Name the procedure of a page's comparisons, as `results.json` does."""
    kinds = {bool(entry.get("group_differences")) for entry in comparisons}
    names = [
        name for name, there in ((METHOD, kinds != {True}), (GROUP_METHOD, True in kinds)) if there
    ]
    return "; ".join(names)


def with_current_method(results: dict[str, Any]) -> dict[str, Any]:
    """Judge the comparisons of a run again if another procedure did, so that no page mixes two."""
    known = all(entry.get(name) is not None for entry in results["comparisons"] for name in ADDED)
    if known and results.get("comparison_method") == method_of(results["comparisons"]):
        return results
    n_tests = len(results["comparisons"])
    comparisons = [judge_again(entry, n_tests) for entry in results["comparisons"]]
    told = headline(results["strategies"], comparisons) if comparisons else results["verdict"]
    return {
        **results,
        "comparison_method": method_of(comparisons),
        "comparisons": comparisons,
        "verdict": told,
    }


def compare_answers(
    labels: npt.NDArray[np.int64],
    predictions_a: npt.NDArray[np.int64],
    predictions_b: npt.NDArray[np.int64],
    *,
    n_tests: int = 1,
    units: Units | None = None,
) -> dict[str, Any]:
    """Every number of one paired comparison; `units` where rows have groups or weights.

    Shapes: labels, predictions_a, predictions_b (n_samples,).
    """
    right_a, right_b = predictions_a == labels, predictions_b == labels
    counts = paired_counts(right_a, right_b)
    if units is None:
        agreement = float(np.mean(predictions_a == predictions_b))
        return {**judge(counts, n_tests), "agreement": agreement}
    table = difference_table(right_a, right_b, units)
    agreement = float(np.average(predictions_a == predictions_b, weights=units.weights))
    return {**judge_groups(counts, table, units.n_groups, n_tests), "agreement": agreement}


def pair_order(strategies: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs of strategies, OvR against OvO first, since that is the question."""
    pairs = list(combinations(strategies, 2))
    pairs = [("ovr", "ovo") if set(pair) == {"ovr", "ovo"} else pair for pair in pairs]
    return sorted(pairs, key=lambda pair: pair != ("ovr", "ovo"))


def compare_strategies(
    labels: npt.NDArray[np.int64],
    predictions: Mapping[str, npt.NDArray[np.int64]],
    converged: Mapping[str, bool],
    *,
    n_tests: int | None = None,
    units: Units | None = None,
) -> list[dict[str, Any]]:
    """Compare every pair of strategies on one test set, corrected for the number of tests.

    Shapes: labels, predictions (n_samples,).
    """
    pairs = pair_order(list(predictions))
    comparisons = []
    for a, b in pairs:
        comparison = compare_answers(
            labels, predictions[a], predictions[b], n_tests=n_tests or len(pairs), units=units
        )
        comparison = {
            "a": a,
            "b": b,
            **comparison,
            "converged": bool(converged[a] and converged[b]),
        }
        told = verdict(display_name(a), display_name(b), comparison)
        comparisons.append({**comparison, "verdict": told})
    return comparisons
