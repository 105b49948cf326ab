import numpy as np
import pytest
from scipy.stats import binom

from classify.significance import (
    PairedCounts,
    bootstrap_interval,
    compare_answers,
    compare_strategies,
    detectable_difference,
    holm,
    mcnemar_exact,
    mcnemar_power,
    pair_order,
    paired_counts,
)
from classify.wording import display_name, headline, p_text, points, verdict


def test_paired_counts():
    a = np.array([True, True, False, False, True])
    b = np.array([True, False, True, False, True])
    counts = paired_counts(a, b)
    assert counts == PairedCounts(both=2, only_a=1, only_b=1, neither=1)
    assert counts.n == 5
    assert counts.difference == 0.0
    assert counts.discordance == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (0, 5, 2 * 0.5**5),
        (1, 9, 2 * (1 + 10) * 0.5**10),
        (15, 5, 2 * sum(binom.pmf(range(6), 20, 0.5))),
    ],
)
def test_exact_mcnemar_by_hand(only_a, only_b, p):
    assert mcnemar_exact(only_a, only_b) == pytest.approx(p)
    assert mcnemar_exact(only_b, only_a) == pytest.approx(p)


def test_holm_by_hand():
    # Sorted, times 5, 4, 3, 2, 1: 0.05, 0.08, 0.09, 0.08, 0.05; then each at least its predecessor.
    assert holm([0.01, 0.04, 0.03, 0.05, 0.02]) == pytest.approx([0.05, 0.09, 0.09, 0.09, 0.08])
    # R: p.adjust(c(0.0001, 0.5, 0.9), "holm")
    assert holm([0.5, 0.0001, 0.9]) == pytest.approx([1.0, 0.0003, 1.0])
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_bootstrap_equals_resampling_of_rows():
    counts = PairedCounts(both=150, only_a=30, only_b=12, neither=8)
    outcome = np.repeat([0, 1, -1, 0], [150, 30, 12, 8])
    rng = np.random.default_rng(1)
    rows = rng.integers(0, counts.n, size=(20_000, counts.n))
    expected = np.quantile(outcome[rows].mean(axis=1), [0.025, 0.975])
    got = bootstrap_interval(counts, seed=3, resamples=20_000)
    # Both are Monte Carlo: a row weighs 0.005, and the quantiles differ by less than that.
    assert got == pytest.approx(tuple(expected), abs=0.005)
    assert got[0] < counts.difference < got[1]


def test_bootstrap_is_reproducible_and_follows_the_seed():
    counts = PairedCounts(both=8000, only_a=500, only_b=450, neither=1050)
    assert bootstrap_interval(counts, seed=1) == bootstrap_interval(counts, seed=1)
    assert bootstrap_interval(counts, seed=1) != bootstrap_interval(counts, seed=2)


def test_power_agrees_with_simulation():
    n, discordance, difference = 300, 0.12, 0.06
    rng = np.random.default_rng(0)
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    draws = rng.multinomial(n, shares, size=4000)
    p = {}
    rejected = [p.setdefault((a, b), mcnemar_exact(a, b)) <= 0.05 for a, b in draws[:, :2].tolist()]
    # Four standard errors of 4,000 draws.
    assert np.mean(rejected) == pytest.approx(mcnemar_power(n, discordance, difference), abs=0.032)


@pytest.mark.parametrize(("n", "discordance"), [(400, 0.1), (2000, 0.03)])
def test_detectable_difference_is_shown_in_four_of_five_simulated_test_sets(n, discordance):
    difference = detectable_difference(n, discordance)
    rng = np.random.default_rng(5)
    shares = [(discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance]
    draws = rng.multinomial(n, shares, size=4000)[:, :2]
    rejected = [mcnemar_exact(a, b) <= 0.05 for a, b in draws.tolist()]
    assert np.mean(rejected) == pytest.approx(0.8, abs=0.026)


@pytest.mark.parametrize(("n", "discordance"), [(2_000, 0.2), (10_000, 0.05), (10_000, 0.2)])
def test_detectable_difference_approaches_connors_formula(n, discordance):
    difference = detectable_difference(n, discordance)
    z_alpha, z_beta = 1.959964, 0.841621
    needed = (
        (z_alpha * discordance**0.5 + z_beta * (discordance - difference**2) ** 0.5) / difference
    ) ** 2
    assert needed == pytest.approx(n, rel=0.05)


def test_detectable_difference_at_the_ends():
    # Identical answers: it takes about eight rows on one side.
    assert detectable_difference(1000, 0.0) == pytest.approx(0.0079, abs=3e-4)
    # Five rows can never reject: 2 * 0.5**5 > 0.05.
    assert detectable_difference(5, 0.2) == 1.0
    assert detectable_difference(10_000, 0.02) < detectable_difference(1_000, 0.02)


def answers(n, n_wrong_a, n_wrong_b, overlap):
    labels = np.zeros(n, dtype=np.int64)
    a, b = labels.copy(), labels.copy()
    a[:n_wrong_a] = 1
    b[n_wrong_a - overlap : n_wrong_a - overlap + n_wrong_b] = 1
    return labels, a, b


def test_a_clear_difference_is_named():
    labels, a, b = answers(1000, 100, 40, 20)
    (comparison,) = compare_strategies(
        labels, {"ovr": a, "ovo": b}, {"ovr": True, "ovo": True}, seed=0
    )
    assert comparison["a"] == "ovr"
    assert comparison["b"] == "ovo"
    assert comparison["accuracy_difference"] == pytest.approx(-0.06)
    assert comparison["only_a_right"] == 20
    assert comparison["only_b_right"] == 80
    assert comparison["both_right"] + comparison["both_wrong"] == 900
    assert comparison["agreement"] == pytest.approx(0.9)
    assert comparison["verdict"].startswith("OvO is better than OvR by 6.00 points (95 % interval ")
    assert comparison["verdict"].endswith("after Holm).")
    low, high = comparison["difference_ci95"]
    assert low < -0.06 < high < 0
    assert points(-high) in comparison["verdict"]


def test_no_detectable_difference_says_what_would_have_shown():
    labels, a, b = answers(1000, 50, 52, 30)
    (comparison,) = compare_strategies(labels, {"ovo": b, "ovr": a}, {"ovr": True, "ovo": True})
    assert comparison["verdict"].startswith(
        "No detectable difference between OvR and OvO (+0.20 points, 95 % interval "
    )
    smallest = points(detectable_difference(1000, 0.042))
    assert (
        f"would have shown one of {smallest} points or more in 4 of 5 cases"
        in comparison["verdict"]
    )


def test_identical_answers():
    labels, a, _ = answers(100, 5, 5, 5)
    (comparison,) = compare_strategies(labels, {"ovr": a, "ovo": a}, {"ovr": True, "ovo": True})
    assert comparison["mcnemar_p_holm"] == 1.0
    assert comparison["agreement"] == 1.0
    assert "right and wrong on the same images" in comparison["verdict"]


def test_an_unconverged_fit_gets_no_verdict():
    labels, a, b = answers(1000, 100, 40, 20)
    comparisons = compare_strategies(
        labels,
        {"multinomial": a, "ovr": a, "ovo": b},
        {"multinomial": True, "ovr": True, "ovo": False},
    )
    first, second, third = comparisons
    assert (first["a"], first["b"]) == ("ovr", "ovo")
    assert not first["converged"]
    assert first["verdict"].startswith("No verdict on OvR against OvO")
    assert second["converged"]
    assert not third["converged"]
    assert headline({}, comparisons).startswith("No verdict on OvR against OvO")


def test_holm_covers_all_pairs():
    labels, a, b = answers(1000, 60, 40, 30)
    comparisons = compare_strategies(
        labels,
        {"multinomial": labels, "ovr": a, "ovo": b},
        dict.fromkeys(("multinomial", "ovr", "ovo"), True),
    )
    raw = [c["mcnemar_p"] for c in comparisons]
    assert [c["mcnemar_p_holm"] for c in comparisons] == holm(raw)
    assert [(c["a"], c["b"]) for c in comparisons] == [
        ("ovr", "ovo"),
        ("multinomial", "ovr"),
        ("multinomial", "ovo"),
    ]


def test_compare_answers_needs_no_correction():
    labels, a, b = answers(200, 20, 10, 5)
    comparison = compare_answers(labels, a, b, seed=4)
    assert comparison["mcnemar_p"] == mcnemar_exact(5, 15)
    assert comparison["difference_ci95"] == list(
        bootstrap_interval(PairedCounts(175, 5, 15, 5), seed=4)
    )


def test_pair_order_puts_the_question_first():
    assert pair_order(["ovo", "multinomial", "ovr"]) == [
        ("ovr", "ovo"),
        ("ovo", "multinomial"),
        ("multinomial", "ovr"),
    ]
    assert pair_order(["ovr"]) == []


def test_headline_of_a_single_strategy():
    entry = {"test": {"accuracy": 0.9, "accuracy_ci95": [0.88, 0.92]}}
    text = headline({"ovr": entry}, [])
    assert text.startswith("OvR reaches 90.00 % (95 % interval 88.00 to 92.00)")


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.5, "p = 0.50"),
        (0.0312, "p = 0.031"),
        (0.00034, "p = 0.00034"),
        (0.00001, "p < 0.0001"),
        (1.0, "p = 1"),
        (0.048, "p = 0.048"),
    ],
)
def test_p_values_as_text(p, text):
    assert p_text(p) == text


def test_points():
    assert points(0.0042) == "0.42"
    assert points(-0.0042) == "−0.42"
    assert points(-0.00001) == "0.00"


def test_display_names():
    assert [display_name(s) for s in ("multinomial", "ovr", "ovo", "knn")] == [
        "multinomial",
        "OvR",
        "OvO",
        "knn",
    ]


def test_verdict_agrees_with_significance_after_correction():
    comparison = {
        "converged": True,
        "accuracy_difference": 0.01,
        "difference_ci95": [0.001, 0.02],
        "mcnemar_p_holm": 0.06,
        "significant": False,
        "only_a_right": 30,
        "only_b_right": 15,
        "detectable_difference": 0.012,
    }
    assert verdict("A", "B", comparison).startswith("No detectable difference")
    assert verdict("A", "B", comparison, detectable=False).endswith("p = 0.060 after Holm).")
