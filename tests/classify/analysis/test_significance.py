import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from classify.analysis.significance import (
    METHOD,
    PairedCounts,
    compare_answers,
    compare_strategies,
    detectable_difference,
    difference_interval,
    least_rows,
    mcnemar_exact,
    mcnemar_power,
    pair_order,
    paired_counts,
)
from classify.report.pages import interval
from classify.report.run_report import write_report
from classify.report.runs import read_results
from classify.results.file import json_ready
from classify.wording import (
    PROCEDURE,
    display_name,
    headline,
    p_text,
    points,
    points_up,
    verdict,
)
from data.common.errors import UserError


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


def test_exact_mcnemar_equals_scipys_binomial_test():
    for d in (1, 2, 9, 30, 101, 1000):
        for a in range(0, d + 1, max(1, d // 20)):
            assert mcnemar_exact(a, d - a) == pytest.approx(binomtest(a, d, 0.5).pvalue, rel=1e-9)


def holm(p_values):
    """Holm (1979), the slow way."""
    order, found, worst = np.argsort(p_values, kind="stable"), {}, 0.0
    for step, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - step) * p_values[i]))
        found[i] = worst
    return [found[i] for i in range(len(p_values))]


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
    # Five rows can never reject: 2 * 0.5**5 > 0.05. Six can, all of them on one side.
    assert detectable_difference(5, 0.2) is None
    assert detectable_difference(6, 0.2) == pytest.approx(0.8 ** (1 / 6))
    assert detectable_difference(10_000, 0.02) < detectable_difference(1_000, 0.02)


def answers(n, n_wrong_a, n_wrong_b, overlap):
    labels = np.zeros(n, dtype=np.int64)
    a, b = labels.copy(), labels.copy()
    a[:n_wrong_a] = 1
    b[n_wrong_a - overlap : n_wrong_a - overlap + n_wrong_b] = 1
    return labels, a, b


def test_a_clear_difference_is_named():
    labels, a, b = answers(1000, 100, 40, 20)
    (comparison,) = compare_strategies(labels, {"ovr": a, "ovo": b}, {"ovr": True, "ovo": True})
    assert comparison["a"] == "ovr"
    assert comparison["b"] == "ovo"
    assert comparison["accuracy_difference"] == pytest.approx(-0.06)
    assert comparison["only_a_right"] == 20
    assert comparison["only_b_right"] == 80
    assert comparison["both_right"] + comparison["both_wrong"] == 900
    assert comparison["agreement"] == pytest.approx(0.9)
    assert comparison["verdict"].startswith("OvO is better than OvR by 6.00 points (95 % interval ")
    assert comparison["verdict"].endswith("; p < 0.0001).")
    low, high = comparison["difference_ci95"]
    assert low < -0.06 < high < 0
    assert points(-high) in comparison["verdict"]


def test_no_detectable_difference_says_what_would_have_shown():
    labels, a, b = answers(1000, 50, 52, 30)
    (comparison,) = compare_strategies(labels, {"ovo": b, "ovr": a}, {"ovr": True, "ovo": True})
    assert comparison["verdict"].startswith(
        "No detectable difference between OvR and OvO (+0.20 points, 95 % interval "
    )
    smallest = points_up(detectable_difference(1000, 0.042))
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


def test_one_step_covers_all_pairs():
    labels, a, b = answers(1000, 60, 40, 30)
    comparisons = compare_strategies(
        labels,
        {"multinomial": labels, "ovr": a, "ovo": b},
        dict.fromkeys(("multinomial", "ovr", "ovo"), True),
    )
    raw = [c["mcnemar_p"] for c in comparisons]
    assert [c["mcnemar_p_adjusted"] for c in comparisons] == [min(1, 3 * p) for p in raw]
    # The contract's name holds the same number, which is never smaller than Holm's.
    assert [c["mcnemar_p_holm"] for c in comparisons] == [min(1, 3 * p) for p in raw]
    assert all(c["mcnemar_p_holm"] >= p for c, p in zip(comparisons, holm(raw), strict=True))
    assert [c["n_tests"] for c in comparisons] == [3, 3, 3]
    assert [(c["a"], c["b"]) for c in comparisons] == [
        ("ovr", "ovo"),
        ("multinomial", "ovr"),
        ("multinomial", "ovo"),
    ]


def test_compare_answers_alone_needs_no_correction():
    labels, a, b = answers(200, 20, 10, 5)
    comparison = compare_answers(labels, a, b)
    assert comparison["mcnemar_p"] == comparison["mcnemar_p_adjusted"] == mcnemar_exact(5, 15)
    assert comparison["difference_ci95"] == list(difference_interval(PairedCounts(175, 5, 15, 5)))
    wider = compare_answers(labels, a, b, n_tests=4)
    assert wider["mcnemar_p_adjusted"] == 4 * mcnemar_exact(5, 15)
    assert wider["difference_ci95"][0] < comparison["difference_ci95"][0]
    assert comparison["detectable_difference"] < wider["detectable_difference"]


def planted(rng, n, discordance, difference):
    """Answers of two classifiers, of which the second is better by `difference` in truth."""
    outcome = rng.choice(
        3, n, p=[1 - discordance, (discordance - difference) / 2, (discordance + difference) / 2]
    )
    labels = np.zeros(n, dtype=np.int64)
    return labels, (outcome == 2).astype(np.int64), (outcome == 1).astype(np.int64)


@pytest.mark.parametrize("n_tests", [3, 9, 135, 1305])
def test_a_planted_detectable_difference_gets_a_verdict_in_four_of_five_cases(n_tests):
    n, discordance, draws = 656, 0.08, 500
    # What a page with so many tests promises, from counts with just this discordance.
    told = compare_answers(
        np.zeros(1000, int), np.arange(1000) < 40, np.arange(1000) >= 960, n_tests=n_tests
    )
    assert told["detectable_difference"] == detectable_difference(1000, 0.08, 0.05 / n_tests)
    difference = detectable_difference(n, discordance, 0.05 / n_tests)
    rng, shown = np.random.default_rng(n_tests), 0
    for _ in range(draws):
        labels, a, b = planted(rng, n, discordance, difference)
        (comparison,) = compare_strategies(
            labels, {"ovr": a, "ovo": b}, {"ovr": True, "ovo": True}, n_tests=n_tests
        )
        shown += comparison["verdict"].startswith("OvO is better")
    # Four standard errors. At the level of one test it would be 0.66 for 3 tests, 0.09 for 1,305.
    assert shown / draws == pytest.approx(0.8, abs=0.072)


@pytest.mark.parametrize("n_tests", [1, 3, 1305])
@pytest.mark.parametrize(("n", "discordance"), [(60, 0.0), (60, 0.35), (100, 0.2)])
def test_the_power_of_the_detectable_difference_by_summing_every_outcome(n, discordance, n_tests):
    difference = detectable_difference(n, discordance, 0.05 / n_tests)
    discordance = max(discordance, difference)
    shares = (discordance - difference) / 2, (discordance + difference) / 2
    power = 0.0
    for a in range(n + 1):
        b = np.arange(n + 1 - a)
        p = np.array([min(1, 2 * binom.cdf(min(a, k), a + k, 0.5)) for k in b])
        given = binom.pmf(b, n - a, min(1.0, shares[1] / (1 - shares[0])))
        power += binom.pmf(a, n, shares[0]) * given[n_tests * p < 0.05].sum()
    assert power == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize(("n_tests", "least"), [(1, 6), (3, 7), (9, 9), (135, 13), (1305, 16)])
def test_too_few_rows_can_show_nothing(n_tests, least):
    assert least_rows(0.05 / n_tests) == least
    assert n_tests * mcnemar_exact(0, least) < 0.05 <= n_tests * mcnemar_exact(0, least - 1)
    for n in (1, least - 1, least, least + 1):
        right = np.zeros(n, dtype=np.int64)
        (comparison,) = compare_strategies(
            right, {"ovr": right, "ovo": right + 1}, {"ovr": True, "ovo": True}, n_tests=n_tests
        )
        assert comparison["test_rows_needed"] == least
        if n >= least:
            assert comparison["verdict"].startswith("OvR is better than OvO by 100.00 points")
            assert 0 < comparison["detectable_difference"] < 1
            continue
        assert comparison["detectable_difference"] is None
        images = "1 test image" if n == 1 else f"{n} test images"
        tests = "one test needs" if n_tests == 1 else f"{n_tests:,} tests need"
        assert comparison["verdict"].endswith(
            f"); {images} can show none, however large: {tests} at least {least}."
        )
        assert "4 of 5" not in comparison["verdict"]
        assert json_ready(comparison)["detectable_difference"] is None


def test_a_report_of_too_few_rows_says_that_they_show_nothing(tmp_path, make_results):
    results, *_ = make_results(names=["a", "b"], n=6, strategies=["multinomial", "ovr", "ovo"])
    assert [c["detectable_difference"] for c in results["comparisons"]] == [None] * 3
    assert results["verdict"].startswith("No detectable difference between OvR and OvO (")
    assert (
        "6 test images can show none, however large: 3 tests need at least 7."
        in (results["verdict"])
    )
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = write_report(tmp_path)
    rows = page.with_name("report.md").read_text("utf-8").splitlines()
    (told,) = [row for row in rows if row.startswith("| OvR − OvO |")]
    assert told.endswith(" | – |")
    assert "100.00 points" not in page.read_text("utf-8")


def test_interval_and_verdict_of_656_images_agree():
    labels, a, b = answers(656, 58, 51, 50)
    (comparison, *_) = compare_strategies(
        labels,
        {"multinomial": a, "ovr": a, "ovo": b},
        dict.fromkeys(("multinomial", "ovr", "ovo"), True),
    )
    assert (comparison["only_a_right"], comparison["only_b_right"]) == (1, 8)
    assert comparison["verdict"].startswith(
        "No detectable difference between OvR and OvO (−1.07 points, 95 % interval −2.65 to 0.17, "
        "p = 0.12, both adjusted for 3 tests); this test set would have shown one of "
    )


def test_what_is_printed_agrees_too():
    """Rounding to two digits does not move a limit, or a p, across what it is compared with."""
    for a, b, n, n_tests in (
        (30_000, 29_314, 10_000_000, 9), (41, 20, 3_000_000, 1), (9, 1, 50_000, 2),
    ):  # fmt: skip
        for only_a, only_b in ((a, b), (b, a)):
            counts = PairedCounts(n, only_a, only_b, 0)
            low, high = difference_interval(counts, n_tests)
            p = min(1.0, n_tests * mcnemar_exact(only_a, only_b))
            told = interval([low, high]).replace("−", "-").split(" to ")
            assert (float(told[0]) > 0 or float(told[1]) < 0) == (p < 0.05)
            value = p_text(p).removeprefix("p = ").removeprefix("p < ")
            assert (float(value) < 0.05) == (p < 0.05)


def as_of_before(results):
    """The results of a run as the first versions wrote them: the bootstrap, and Holm."""
    adjusted = holm([c["mcnemar_p"] for c in results["comparisons"]])
    for comparison, p in zip(results["comparisons"], adjusted, strict=True):
        for name in ("mcnemar_p_adjusted", "n_tests", "test_rows_needed"):
            del comparison[name]
        comparison |= {
            "mcnemar_p_holm": p, "significant": p < 0.05, "difference_ci95": [-0.5, -0.4],
            "verdict": "of before, p = 0.12 after Holm", "detectable_difference": 1.0,
        }  # fmt: skip
    results["verdict"] = "of before, p = 0.12 after Holm"
    del results["comparison_method"]
    return results


def test_results_of_an_earlier_procedure_are_judged_again(tmp_path, make_results):
    results, *_ = make_results(names=["a", "b", "c"], n=60)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(as_of_before(copy.deepcopy(results))))
    found = read_results(path)
    assert found == results
    assert found["comparison_method"] == METHOD
    page = write_report(tmp_path)
    for document in (page, page.with_name("report.md")):
        text = document.read_text("utf-8")
        assert "Holm" not in text and "ootstrap" not in text
        assert text.count(PROCEDURE) == 1


def test_a_frozen_file_of_the_first_version_is_judged_again(tmp_path):
    frozen = Path(__file__).parents[2] / "archives" / "results-1.json"
    before = json.loads(frozen.read_text("utf-8"))
    shutil.copy(frozen, tmp_path / "results.json")
    found = read_results(tmp_path / "results.json")
    for old, new in zip(before["comparisons"], found["comparisons"], strict=True):
        counts = PairedCounts(
            *(old[name] for name in ("both_right", "only_a_right", "only_b_right", "both_wrong"))
        )
        assert new["difference_ci95"] == list(difference_interval(counts, 3))
        assert new["mcnemar_p"] == pytest.approx(old["mcnemar_p"], rel=1e-12)
        assert new["detectable_difference"] > old["detectable_difference"]
        assert "both adjusted for 3 tests" in new["verdict"]
    assert "Holm" in before["verdict"] and "Holm" not in found["verdict"]
    assert "Holm" not in write_report(tmp_path).read_text("utf-8")


@pytest.mark.parametrize("change", [{"both_right": -1}, {"both_wrong": 10**6}])
def test_counts_that_are_not_those_of_the_test_images_are_refused(tmp_path, make_results, change):
    results, *_ = make_results()
    results["comparisons"][1] |= change
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"comparisons\[1\] does not count the n_test test images"):
        read_results(path)


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
        (0.0497, "p = 0.0497"),
        (0.05003, "p = 0.050"),
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
        "k-NN",
    ]


def test_verdict_agrees_with_significance_after_correction():
    comparison = {
        "converged": True,
        "accuracy_difference": 0.01,
        "difference_ci95": [0.001, 0.02],
        "mcnemar_p_adjusted": 0.06,
        "n_tests": 3,
        "significant": False,
        "only_a_right": 30,
        "only_b_right": 15,
        "detectable_difference": 0.012,
    }
    assert verdict("A", "B", comparison).startswith("No detectable difference")
    assert verdict("A", "B", comparison, detectable=False).endswith(
        "p = 0.060, both adjusted for 3 tests)."
    )
