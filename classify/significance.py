"""Paired tests: do two classifiers differ, on the same test rows, by more than chance.

All the paired questions depend on the answers only through four counts: rows that both classifiers
got right, that only the first or only the second did, and that neither did.

References
----------
McNemar, Q. (1947). Note on the sampling error of the difference between correlated proportions or
    percentages. Psychometrika 12, 153-157.
Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian Journal of
    Statistics 6, 65-70.
Efron, B., Tibshirani, R. J. (1993). An Introduction to the Bootstrap, chapter 13.
Duffy, S. W. (1984). Asymptotic and exact power for the McNemar test and its analogue with R
    controls per case. Biometrics 40, 1005-1015.
Connor, R. J. (1987). Sample size for testing differences in proportions for the paired-sample
    design. Biometrics 43, 207-211.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.wording import display_name, verdict

ALPHA = 0.05
POWER = 0.8
RESAMPLES = 10_000


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

    Parameters
    ----------
    right_a, right_b : ndarray of bool, shape (n_samples,)
        Whether each classifier's answer is the true label.

    Returns
    -------
    PairedCounts
        The counts.
    """
    return PairedCounts(
        both=int(np.count_nonzero(right_a & right_b)),
        only_a=int(np.count_nonzero(right_a & ~right_b)),
        only_b=int(np.count_nonzero(~right_a & right_b)),
        neither=int(np.count_nonzero(~right_a & ~right_b)),
    )


def bootstrap_interval(
    counts: PairedCounts, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the accuracy difference under the paired bootstrap.

    Drawing n rows with replacement and counting how many fall into each of the four outcomes *is* a
    multinomial draw with the observed shares, and the difference depends on nothing else. So the
    counts are drawn directly: the same distribution as resampling rows, without touching a row.

    Parameters
    ----------
    counts : PairedCounts
        The observed counts.
    seed : int
        Of the generator; the same seed gives the same interval.
    resamples : int
        Number of bootstrap samples.
    level : float
        Confidence level.

    Returns
    -------
    tuple of float
        Lower and upper end of accuracy(a) - accuracy(b).
    """
    shares = np.array([counts.both, counts.only_a, counts.only_b, counts.neither]) / counts.n
    draws = np.random.default_rng(seed).multinomial(counts.n, shares, size=resamples)
    differences = (draws[:, 1] - draws[:, 2]) / counts.n
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(differences, [tail, 1.0 - tail])
    return float(low), float(high)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar test: does a discordant row favour either side equally often.

    Parameters
    ----------
    only_a, only_b : int
        Rows that only one of the two classifiers got right.

    Returns
    -------
    float
        The p-value; 1.0 when no row is discordant.
    """
    from scipy.stats import binomtest

    discordant = only_a + only_b
    return float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple testing by Holm's step-down procedure.

    Parameters
    ----------
    p_values : sequence of float
        The raw p-values of one family of tests.

    Returns
    -------
    list of float
        Adjusted p-values in the same order; never smaller than the raw ones, at most 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return [float(value) for value in result]


def mcnemar_power(n: int, discordance: float, difference: float, alpha: float = ALPHA) -> float:
    """Exact unconditional power of the two-sided exact McNemar test (Duffy 1984).

    The number of discordant rows is binomial(n, discordance); given it, those in favour of one side
    are binomial with probability (1 + difference / discordance) / 2.

    Parameters
    ----------
    n : int
        Test rows.
    discordance : float
        Probability that exactly one of the two classifiers is right; positive.
    difference : float
        True accuracy difference, within [0, discordance].
    alpha : float
        Level of the test.

    Returns
    -------
    float
        Probability that the test rejects.
    """
    from scipy.stats import binom

    low, high = binom.ppf([1e-9, 1.0 - 1e-9], n, discordance)
    discordant = np.arange(int(low), int(high) + 1)
    # The largest count of the losing side that still rejects: 2 * P(B <= c) <= alpha.
    critical = binom.ppf(alpha / 2.0, discordant, 0.5)
    critical -= 2.0 * binom.cdf(critical, discordant, 0.5) > alpha
    favoured = min(1.0, (1.0 + difference / discordance) / 2.0)
    rejected = binom.cdf(critical, discordant, 1.0 - favoured)
    rejected += binom.cdf(critical, discordant, favoured)
    return float(
        np.sum(binom.pmf(discordant, n, discordance) * np.where(critical >= 0, rejected, 0))
    )


def detectable_difference(
    n: int, discordance: float, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Smallest accuracy difference that a test set of this size shows with the given power.

    The exact power of the test in use is solved for the difference, so that "4 of 5 cases" holds
    for this very test; Connor's (1987) sample-size formula is its large-sample approximation. A
    difference cannot exceed the discordance, so where the observed discordance is too small for any
    difference to show, it grows with the difference that is tried.

    Parameters
    ----------
    n : int
        Test rows.
    discordance : float
        Share of rows that exactly one of the two classifiers gets right, as observed.
    alpha : float
        Two-sided level, before any correction for several tests.
    power : float
        Probability with which the difference is to be found.

    Returns
    -------
    float
        The difference, within (0, 1]; 1.0 when even that would not show (fewer than six rows).
    """
    from scipy.optimize import brentq

    def shortfall(difference: float) -> float:
        return mcnemar_power(n, max(discordance, difference), difference, alpha) - power

    if shortfall(1.0) < 0.0:
        return 1.0
    return float(brentq(shortfall, 1e-12, 1.0, xtol=1e-7))


def compare_answers(
    labels: npt.NDArray[np.int64],
    predictions_a: npt.NDArray[np.int64],
    predictions_b: npt.NDArray[np.int64],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Every number of one paired comparison, before the correction for several tests.

    Parameters
    ----------
    labels, predictions_a, predictions_b : ndarray of int64, shape (n_samples,)
        Truth and answers, on the same rows in the same order.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        ``accuracy_difference`` (a minus b), ``difference_ci95``, ``mcnemar_p``, ``both_right``,
        ``only_a_right``, ``only_b_right``, ``both_wrong``, ``agreement`` (share of rows with the
        same answer, right or wrong) and ``detectable_difference``.
    """
    counts = paired_counts(predictions_a == labels, predictions_b == labels)
    return {
        "accuracy_difference": counts.difference,
        "difference_ci95": list(bootstrap_interval(counts, seed=seed)),
        "mcnemar_p": mcnemar_exact(counts.only_a, counts.only_b),
        "both_right": counts.both,
        "only_a_right": counts.only_a,
        "only_b_right": counts.only_b,
        "both_wrong": counts.neither,
        "agreement": float(np.mean(predictions_a == predictions_b)),
        "detectable_difference": detectable_difference(counts.n, counts.discordance),
    }


def pair_order(strategies: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs of strategies, OvR against OvO first, since that is the question.

    Parameters
    ----------
    strategies : sequence of str
        Their names.

    Returns
    -------
    list of tuple of str
        Pairs in the order in which they are reported.
    """
    pairs = list(combinations(strategies, 2))
    pairs = [("ovr", "ovo") if set(pair) == {"ovr", "ovo"} else pair for pair in pairs]
    return sorted(pairs, key=lambda pair: pair != ("ovr", "ovo"))


def compare_strategies(
    labels: npt.NDArray[np.int64],
    predictions: Mapping[str, npt.NDArray[np.int64]],
    converged: Mapping[str, bool],
    *,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compare every pair of strategies on one test set, with Holm's correction over all pairs.

    Parameters
    ----------
    labels : ndarray of int64, shape (n_samples,)
        True class indices.
    predictions : mapping of str to ndarray of int64, shape (n_samples,)
        Answers of each strategy.
    converged : mapping of str to bool
        Whether each strategy's fit reached its optimum.
    seed : int
        Of the bootstrap.

    Returns
    -------
    list of dict
        What `compare_answers` returns, with ``a``, ``b``, ``converged``, ``mcnemar_p_holm``,
        ``significant`` (at 5 % after Holm) and ``verdict``.
    """
    comparisons: list[dict[str, Any]] = []
    for a, b in pair_order(list(predictions)):
        comparison = compare_answers(labels, predictions[a], predictions[b], seed=seed)
        both_converged = bool(converged[a] and converged[b])
        comparisons.append({"a": a, "b": b, **comparison, "converged": both_converged})
    for comparison, p in zip(comparisons, holm([c["mcnemar_p"] for c in comparisons]), strict=True):
        comparison["mcnemar_p_holm"] = p
        comparison["significant"] = p < ALPHA
        comparison["verdict"] = verdict(
            display_name(comparison["a"]), display_name(comparison["b"]), comparison
        )
    return comparisons
