"""Curves, areas, rates and costs of two classes: against scikit-learn and slow obvious loops."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn import metrics

from classify.analysis.binary.bootstrap import resample
from classify.analysis.binary.costs import Costs, cheapest, mean_cost
from classify.analysis.binary.judge import binary_rows, judge_binary
from classify.analysis.binary.ranking import (
    BinaryRows,
    area,
    area_error,
    area_interval,
    average_precision,
)
from classify.analysis.evaluate import wilson_interval
from classify.analysis.resampling import Units, units_of

# Hanley and McNeil (1982): ratings of 58 normal and 51 abnormal images, 1 to 5.
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)


def made(n=300, seed=0, weights=False, groups=False, coarse=False):
    """Draw rows whose scores repeat, and as scikit-learn takes them."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.3
    scores = rng.normal(size=n) + 1.3 * truth
    scores = np.round(scores, 0 if coarse else 1)
    mass = rng.uniform(0.2, 3, n) * (rng.random(n) > 0.1) if weights else None
    codes = rng.integers(0, n // 5, n) if groups else None
    units = units_of(codes, mass, n)
    rows = binary_rows(truth, np.stack([-scores / 2, scores / 2], axis=1), None, units)
    return rows, truth, scores, mass


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("coarse", [False, True])
def test_areas_and_curves_are_scikit_learns(weights, coarse):
    rows, truth, scores, mass = made(weights=weights, coarse=coarse)
    expected = metrics.roc_auc_score(truth, scores, sample_weight=mass)
    assert area(rows) == pytest.approx(expected, abs=1e-12)
    expected = metrics.average_precision_score(truth, scores, sample_weight=mass)
    assert average_precision(rows) == pytest.approx(expected, abs=1e-12)
    found = judge_binary(rows, None)
    fpr, tpr, _ = metrics.roc_curve(truth, scores, sample_weight=mass, drop_intermediate=False)
    curve = found["roc"]
    points = zip(curve["false_positive_rate"], curve["true_positive_rate"], strict=True)
    for x, y in points:
        assert y == pytest.approx(tpr[fpr <= x + 1e-12].max())
    precision, recall, _ = metrics.precision_recall_curve(truth, scores, sample_weight=mass)
    curve = found["precision_recall"]
    for x, y in zip(curve["recall"], curve["precision"], strict=True):
        at = np.flatnonzero(recall >= x - 1e-12)[-1]  # recalls fall: the highest threshold
        assert y == pytest.approx(precision[at])
    for kind, name in (("roc", "true_positive_rate"), ("precision_recall", "precision")):
        part = found[kind]
        assert (part["low"] <= part[name] + 1e-12).all()
        assert (part[name] <= part["high"] + 1e-12).all()


def delongs_error(truth, scores):
    """The variance of DeLong et al. (1988) by its definition, pair by pair."""
    positive, negative = scores[truth], scores[~truth]
    better = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    of_positive, of_negative = better.mean(axis=1), better.mean(axis=0)
    return math.sqrt(
        of_positive.var(ddof=1) / len(positive) + of_negative.var(ddof=1) / len(negative)
    )


@pytest.mark.parametrize("coarse", [False, True])
def test_the_error_of_an_area_is_delongs(coarse):
    rows, truth, scores, _ = made(coarse=coarse)
    assert area_error(rows) == pytest.approx(delongs_error(truth, scores), rel=1e-12)


def test_the_published_example_has_its_area_and_error():
    """Stata's manual prints them of these ratings: 0.8932, DeLong's standard error 0.0307."""
    scores = np.repeat(np.tile(np.arange(5.0), 2), NORMAL + ABNORMAL)
    truth = np.repeat([False, True], [58, 51])
    rows = BinaryRows(truth, scores)
    assert area(rows) == pytest.approx(0.8932, abs=5e-5)
    assert area_error(rows) == pytest.approx(0.0307, abs=5e-5)
    low, high = area_interval(rows)
    half = 1.959964 * area_error(rows) / (area(rows) * (1 - area(rows)))
    assert (logit(low), logit(high)) == pytest.approx(
        (logit(area(rows)) - half, logit(area(rows)) + half)
    )


def obuchowskis_error(truth, scores, groups, weights):
    """Obuchowski's (1997) variance, group by group; weights count as so many rows."""
    auc = metrics.roc_auc_score(truth, scores, sample_weight=weights)
    total = {side: weights[truth == side].sum() for side in (True, False)}
    moved, there = {}, {}
    for side in (True, False):
        other = truth != side
        sums, some = [], 0
        for group in np.unique(groups):
            mine = np.flatnonzero((groups == group) & (truth == side))
            some += bool(len(mine))
            value = 0.0
            for i in mine:
                won = (scores[i] > scores[other]) if side else (scores[i] < scores[other])
                share = won + 0.5 * (scores[i] == scores[other])
                value += weights[i] * (np.average(share, weights=weights[other]) - auc)
            sums.append(value)
        moved[side], there[side] = np.array(sums), some
    n = len(np.unique(groups))
    variance = 2 * n / (n - 1) * (moved[True] @ moved[False]) / (total[True] * total[False])
    for side in (True, False):
        k = there[side]
        variance += k / (k - 1) * (moved[side] @ moved[side]) / total[side] ** 2
    return math.sqrt(variance)


def test_the_error_of_groups_is_obuchowskis():
    rng = np.random.default_rng(1)
    truth = rng.random(150) < 0.4
    groups, weights = rng.integers(0, 30, 150), rng.uniform(0.5, 2, 150)
    scores = np.round(rng.normal(size=150) + truth + rng.normal(size=30)[groups], 1)
    rows = BinaryRows(truth, scores, units_of(groups, weights, 150))
    expected = obuchowskis_error(truth, scores, groups, weights)
    assert area_error(rows) == pytest.approx(expected, rel=1e-10)


def test_groups_of_one_row_err_as_rows_do_and_copies_do_not_make_an_area_surer():
    rows, truth, scores, _ = made(200)
    alone = BinaryRows(truth, scores, units_of(np.arange(200), None, 200))
    assert area_error(alone) == pytest.approx(area_error(rows))
    tripled = BinaryRows(
        np.repeat(truth, 3), np.repeat(scores, 3), units_of(np.repeat(np.arange(200), 3), None, 600)
    )
    assert area_error(tripled) == pytest.approx(area_error(rows), rel=1e-9)
    assert area_error(BinaryRows(np.repeat(truth, 3), np.repeat(scores, 3))) < 0.6 * area_error(
        rows
    )


def test_what_cannot_be_estimated_is_not_made_up():
    one = BinaryRows(np.array([True, False, False]), np.array([2.0, 1.0, 0.0]))
    assert area_error(one) is None and area_interval(one) is None
    perfect = BinaryRows(np.repeat([True, False], 20), np.repeat([1.0, 0.0], 20))
    assert area_interval(perfect) == pytest.approx(wilson_interval(20, 20))
    units = Units(np.arange(3), np.array([0.0, 1, 1]), 3, None)
    assert binary_rows(np.array([True, False, False]), np.zeros((3, 2)), None, units) is None


def test_rates_of_a_threshold_are_counted_with_wilsons_intervals():
    rows, truth, scores, _ = made()
    found = judge_binary(rows, None)
    assert [entry["threshold"] for entry in found["thresholds"]] == [0.1, 0.25, 0.5, 0.75, 0.9]
    for entry in found["thresholds"]:
        flagged = expit(scores) > entry["threshold"]
        tn, fp, fn, tp = metrics.confusion_matrix(truth, flagged).ravel()
        assert (entry["true_positives"], entry["false_positives"]) == (tp, fp)
        for name, k, n in (
            ("true_positive_rate", tp, tp + fn), ("false_positive_rate", fp, fp + tn),
            ("precision", tp, tp + fp), ("flagged", tp + fp, len(truth)),
        ):  # fmt: skip
            assert entry[name]["share"] == pytest.approx(k / n)
            assert entry[name]["ci95"] == pytest.approx(wilson_interval(k, n))
        assert entry["f1"] == pytest.approx(metrics.f1_score(truth, flagged))
        assert entry["chosen_on"] is None


def test_rates_of_weighted_groups_are_resampled():
    rows, truth, scores, mass = made(weights=True, groups=True)
    half = judge_binary(rows, None)["thresholds"][2]
    flagged = scores > 0
    expected = metrics.recall_score(truth, flagged, sample_weight=mass)
    assert half["true_positive_rate"]["share"] == pytest.approx(expected)
    low, high = half["true_positive_rate"]["ci95"]
    assert low < expected < high


def test_copies_of_rows_do_not_make_rates_and_costs_surer_where_they_are_groups():
    rows, truth, scores, _ = made()
    copies, codes = np.repeat(np.arange(300), 5), np.repeat(np.arange(300), 5)
    grouped = BinaryRows(truth[copies], scores[copies], units_of(codes, None, 1500))
    alone = BinaryRows(truth[copies], scores[copies])
    widths = []
    for judged in (rows, grouped, alone):
        found = judge_binary(judged, None, Costs(1, 3))
        half = found["thresholds"][2]
        shares = ("true_positive_rate", "false_positive_rate", "precision")
        ends = [*(half[name]["ci95"] for name in shares), found["cost"]["cost_ci95"]]
        ends += [found["auc_ci95"], found["average_precision_ci95"]]
        widths.append([high - low for low, high in ends])
    # Groups are drawn whatever they hold, so the share of each class varies, and costs with it.
    assert widths[1] == pytest.approx(widths[0], rel=0.4)
    assert (np.array(widths[2]) < 0.65 * np.array(widths[0])).all()


def test_a_threshold_that_shall_keep_a_rate_keeps_it_on_the_validation_rows():
    held, truth, scores, _ = made(seed=1)
    rows = made(seed=2)[0]
    entries = judge_binary(rows, held)["thresholds"]
    assert entries == sorted(entries, key=lambda entry: entry["threshold"])
    chosen = [entry for entry in entries if entry["chosen_on"] == "validation"]
    assert len(chosen) == 7
    probabilities = expit(scores)
    for entry in chosen:
        flagged = probabilities > entry["threshold"]
        if entry["kind"] == "false positive rate":
            assert flagged[~truth].mean() <= entry["target"]
            lower = probabilities[probabilities <= entry["threshold"]].max()
            assert (probabilities >= lower)[~truth].mean() > entry["target"]
        elif entry["kind"] == "true positive rate":
            assert flagged[truth].mean() >= entry["target"]
            upper = probabilities[flagged].min()
            assert (probabilities > upper)[truth].mean() < entry["target"]
        else:
            best = max(metrics.f1_score(truth, probabilities >= p) for p in set(probabilities))
            assert metrics.f1_score(truth, flagged) == pytest.approx(best)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("pair", [(1, 5), (5, 1), (1, 1), (1, 1000)])
def test_the_cheapest_threshold_is_that_of_trying_all_on_the_validation_rows(pair, weights):
    held, truth, scores, mass = made(seed=3, weights=weights)
    costs, mass = Costs(*pair), np.ones(300) if mass is None else mass
    chosen = cheapest(held, costs)

    def loss(flagged):
        errors = np.where(truth, costs.false_negative * ~flagged, costs.false_positive * flagged)
        return np.average(errors, weights=mass)

    every = {t: loss(scores > t) for t in [-9.0, *scores]}
    assert chosen.chosen
    assert loss(scores > chosen.log_odds) == pytest.approx(min(every.values()))
    assert mean_cost(held, costs, chosen.log_odds) == pytest.approx(min(every.values()))
    # Of several, none is nearer to what calibrated probabilities call for.
    best = logit(costs.threshold)
    middle = (held.scores[:-1] + held.scores[1:]) / 2
    equal = [t for t in middle if np.isclose(loss(scores > t), min(every.values()))]
    assert all(abs(chosen.log_odds - best) <= abs(t - best) + 1e-9 for t in equal)


def test_costs_are_those_of_the_test_rows_beside_one_half_and_one_answer():
    rows, truth, scores, _ = made(seed=4)
    held, costs = made(seed=5)[0], Costs(1, 5)
    found = judge_binary(rows, held, costs)
    cost, probabilities = found["cost"], expit(scores)

    def loss(threshold):
        flagged = probabilities > threshold
        return np.where(truth, 5.0 * ~flagged, 1.0 * flagged).mean()

    assert cost["threshold"] == cheapest(held, costs).value and cost["chosen_on"] == "validation"
    assert cost["cost"] == pytest.approx(loss(cost["threshold"]))
    low, high = cost["cost_ci95"]
    assert low < cost["cost"] < high
    against = cost["against"]
    assert against["half"]["cost"] == pytest.approx(loss(0.5))
    assert against["probabilities"]["cost"] == pytest.approx(loss(1 / 6))
    assert against["always_negative"]["cost"] == pytest.approx(5 * truth.mean())
    assert against["always_positive"]["cost"] == pytest.approx(1 - truth.mean())
    for other in against.values():
        assert other["difference"] == pytest.approx(cost["cost"] - other["cost"])
        low, high = other["difference_ci95"]
        assert low <= other["difference"] <= high
    for name, judged in (("test", rows), ("validation", held)):
        for value, at in zip(cost["curve"]["threshold"], cost["curve"][name], strict=True):
            assert at == pytest.approx(mean_cost(judged, costs, logit(value)))
    assert all("cost" in entry for entry in found["thresholds"])
    alone = judge_binary(rows, None, costs)["cost"]
    assert alone["threshold"] == pytest.approx(1 / 6) and alone["chosen_on"] is None


def test_no_errors_have_a_cost_that_may_still_be_above_zero():
    truth = np.repeat([True, False], 30)
    rows = BinaryRows(truth, np.where(truth, 3.0, -3.0))
    cost = judge_binary(rows, rows, Costs(1, 2))["cost"]
    assert cost["cost"] == 0 == cost["cost_ci95"][0] < cost["cost_ci95"][1]


def test_resamples_of_many_scores_are_those_of_the_rows_themselves():
    """Adding up at some scores loses nothing: against drawing rows and sorting them again."""
    rng = np.random.default_rng(0)
    truth = np.repeat([True, False], [400, 800])
    scores = rng.normal(size=1200) + 1.2 * truth
    rows = BinaryRows(truth, scores)
    found = resample(rows, [300])
    assert len(found.places) < 1201 and 300 in found.places
    hits, _ = found.at(300)
    cut = rows.scores[299]
    drawn = [rng.choice(scores[truth], 400) for _ in range(2000)]
    expected = [np.count_nonzero(values >= cut) for values in drawn]
    assert hits.mean() == pytest.approx(np.mean(expected), rel=0.01)
    assert hits.std() == pytest.approx(np.std(expected), rel=0.1)
    assert (found.hits[:, -1] == 400).all() and (found.alarms[:, -1] == 800).all()


def test_thresholds_with_no_test_row_between_them_may_still_differ():
    """The interval of a difference that no test row shows is wider than nothing."""
    truth = np.repeat([True, False], 30)
    rows = BinaryRows(truth, np.where(truth, 3.0, -3.0))
    held = BinaryRows(truth, np.where(truth, 5.0, -1.0))
    half = judge_binary(rows, held, Costs(5, 1))["cost"]["against"]["half"]
    low, high = half["difference_ci95"]
    assert low < half["difference"] == 0 < high
    same = judge_binary(rows, rows, Costs(1, 1))["cost"]["against"]["half"]
    assert same["difference_ci95"] == [0, 0]
