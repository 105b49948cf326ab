"""The headline of a comparison: best against best, at the level of all tests of the page."""

import json
import re

import numpy as np
import pytest

from classify.analysis.evaluate import evaluate
from classify.analysis.significance import METHOD, compare_strategies
from classify.report.comparison import compare
from classify.wording import PROCEDURE, headline

NAMES = ["x", "y", "z"]


@pytest.fixture
def plant(tmp_path, make_results):
    """Write a run of which each strategy is right on the rows that are told."""

    def write(model, right, *, converged=None, data_seed=0, dataset="cifar10"):
        n = len(next(iter(right.values())))
        results, labels, _ = make_results(
            names=NAMES, n=n, data_seed=data_seed, strategies=list(right),
            model=model, dataset=dataset,
        )  # fmt: skip
        answers = {name: np.where(ok, labels, (labels + 1) % 3) for name, ok in right.items()}
        ends = {**dict.fromkeys(right, True), **(converged or {})}
        for name, answer in answers.items():
            entry = results["strategies"][name]
            entry["test"] = evaluate(labels, answer, np.eye(3)[answer] * 0.97 + 0.01, NAMES)
            entry["converged"] = ends[name]
        results["comparisons"] = compare_strategies(labels, answers, ends)
        results["verdict"] = headline(results["strategies"], results["comparisons"])
        results["store"]["key"] = f"{len(list(tmp_path.iterdir())):08d}" * 8
        folder = tmp_path / model / "run"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(json.loads(json.dumps(results))))
        np.savez(
            folder / "predictions.npz", ids=np.array([f"{i}.png" for i in range(n)]),
            labels=labels, class_names=np.array(NAMES),
            **{f"{name}_predictions": answer for name, answer in answers.items()},
        )  # fmt: skip

    return write


def right_but(n, wrong):
    ok = np.ones(n, dtype=bool)
    ok[wrong] = False
    return ok


def page_of(tmp_path):
    page, comparison, _ = compare([], tmp_path)
    return comparison, page.read_text("utf-8"), page.with_name("report.md").read_text("utf-8")


def test_the_best_stands_against_the_best_of_the_runner_up(plant, tmp_path):
    # 90.0 % (OvO) against 80.0 % (OvO) and 89.9 % (multinomial) of the other run.
    n = 1000
    plant(
        "leader", {"multinomial": right_but(n, slice(0, 200)), "ovo": right_but(n, slice(0, 100))}
    )
    plant(
        "second", {"multinomial": right_but(n, slice(10, 111)), "ovo": right_but(n, slice(0, 200))}
    )
    comparison, html, markdown = page_of(tmp_path)
    assert (
        "On cifar10 (1,000 test images) the highest accuracy is that of leader 128 px with OvO: "
        "90.00 %"
    ) in comparison["verdict"]
    assert (
        "No detectable difference between leader 128 px (OvO) and second 128 px (multinomial) "
        "(+0.10 points, 95 % interval "
    ) in comparison["verdict"]
    assert "better" not in comparison["verdict"]
    (best,) = (pair for pair in comparison["backbones"] if pair["best"])
    assert (best["a"], best["strategy_a"]) == ("leader 128 px", "ovo")
    assert (best["b"], best["strategy_b"]) == ("second 128 px", "multinomial")
    assert best["strategy"] is None
    assert (best["only_a_right"], best["only_b_right"]) == (11, 10)
    assert best["n_tests"] == comparison["n_tests"] == 6
    assert [pair["strategy"] for pair in comparison["backbones"]] == ["multinomial", "ovo", None]
    for document in (html, markdown):
        assert "OvO − multinomial (best against best)" in document
        assert document.count(PROCEDURE) == 1
        assert "Here 6 tests: every pair" in document
    assert markdown.count("\n\n| pair | strategy |") == 1


def test_a_clear_leader_is_named_against_the_best_of_the_other(plant, tmp_path):
    n = 1000
    plant("leader", {"ovr": right_but(n, slice(0, 50)), "ovo": right_but(n, slice(0, 60))})
    plant("second", {"ovr": right_but(n, slice(0, 300)), "ovo": right_but(n, slice(0, 150))})
    comparison, *_ = page_of(tmp_path)
    assert (
        "leader 128 px (OvR) is better than second 128 px (OvO) by 10.00 points (95 % interval "
    ) in comparison["verdict"]


def test_runs_that_share_no_strategy_are_tested_all_the_same(plant, tmp_path):
    n = 500
    plant("a", {"ovr": right_but(n, slice(0, 20))})
    plant("b", {"ovo": right_but(n, slice(0, 120))})
    comparison, html, markdown = page_of(tmp_path)
    assert comparison["verdict"].startswith(
        "No run has both OvR and OvO, so they are not compared."
    )
    assert "a 128 px (OvR) is better than b 128 px (OvO) by 20.00 points" in comparison["verdict"]
    assert comparison["n_tests"] == len(comparison["backbones"]) == 1
    for document in (html, markdown):
        assert "OvR − OvO (best against best)" in document
        assert document.count(PROCEDURE) == 1


def test_equal_accuracies_are_shared(plant, tmp_path):
    n = 400
    plant("a", {"ovr": right_but(n, slice(0, 40)), "ovo": right_but(n, slice(0, 60))})
    plant("b", {"ovr": right_but(n, slice(0, 50)), "ovo": right_but(n, slice(20, 60))})
    comparison, *_ = page_of(tmp_path)
    assert (
        "the highest accuracy, 90.00 % (86.67–92.57), is shared by a 128 px with OvR and b 128 px "
        "with OvO. No detectable difference between a 128 px (OvR) and b 128 px (OvO) (0.00 points"
    ) in comparison["verdict"]


def test_many_that_share_the_highest_accuracy_are_counted(plant, tmp_path):
    for model in "abc":
        plant(model, dict.fromkeys(("multinomial", "ovr"), right_but(90, slice(0, 9))))
    comparison, *_ = page_of(tmp_path)
    assert (
        "is shared by a 128 px with multinomial, a 128 px with OvR, b 128 px with multinomial and "
        "3 others. No detectable difference between a 128 px (multinomial) and b 128 px "
        "(multinomial) (they are right and wrong on the same images)"
    ) in comparison["verdict"]


def test_the_leader_is_held_against_every_other_run(plant, tmp_path):
    n = 1000
    plant("leader", {"ovr": right_but(n, slice(0, 50)), "ovo": right_but(n, slice(0, 60))})
    plant("second", {"ovr": right_but(n, slice(10, 70)), "ovo": right_but(n, slice(10, 65))})
    plant("third", {"ovr": right_but(n, slice(0, 300)), "ovo": right_but(n, slice(0, 320))})
    plant("fourth", {"ovr": right_but(n, slice(20, 80)), "ovo": right_but(n, slice(20, 90))})
    plant("other", {"ovr": right_but(n, slice(0, 70))}, converged={"ovr": False})
    comparison, _, markdown = page_of(tmp_path)
    told = (
        "leader 128 px against the rest, both with OvR: no detectable difference from "
        "fourth 128 px; no verdict, since a fit did not converge, on other 128 px; better than "
        "third 128 px."
    )
    assert comparison["verdict"].endswith(told)
    assert "between leader 128 px (OvR) and second 128 px (OvO)" in comparison["verdict"]
    assert told in markdown


def test_a_fit_that_did_not_converge_gets_no_verdict(plant, tmp_path):
    n = 1000
    plant("a", {"ovr": right_but(n, slice(0, 50))}, converged={"ovr": False})
    plant("b", {"ovo": right_but(n, slice(0, 300))})
    comparison, *_ = page_of(tmp_path)
    assert (
        "No verdict on a 128 px (OvR) against b 128 px (OvO): a fit did not converge"
        in (comparison["verdict"])
    )
    assert "better" not in comparison["verdict"]


def test_of_equal_accuracies_a_fit_that_converged_is_tested(plant, tmp_path):
    n, ok = 1000, right_but(1000, slice(0, 50))
    plant("a", {"ovr": ok, "ovo": ok}, converged={"ovr": False})
    plant("b", {"ovr": right_but(n, slice(0, 300))})
    comparison, *_ = page_of(tmp_path)
    assert "a 128 px (OvO) is better than b 128 px (OvR) by 25.00 points" in comparison["verdict"]


def test_one_run_alone(plant, tmp_path):
    ovr, ovo = right_but(656, slice(0, 58)), right_but(656, slice(8, 59))  # 1 and 8 discordant
    plant("a", {"multinomial": ovr, "ovr": ovr, "ovo": ovo})
    comparison, html, _ = page_of(tmp_path)
    assert comparison["verdict"].startswith(
        "a 128 px: No detectable difference between OvR and OvO (−1.07 points, 95 % interval −2.65 "
        "to 0.17, p = 0.12, both adjusted for 3 tests)"
    )
    assert comparison["verdict"].endswith(
        "No other run answered these images, so there is none to test it with."
    )
    assert comparison["n_tests"] == 3
    assert PROCEDURE in html


def test_one_run_of_one_strategy(plant, tmp_path):
    plant("a", {"ovr": right_but(90, slice(0, 9))})
    comparison, html, _ = page_of(tmp_path)
    assert "highest accuracy is that of a 128 px with OvR" in comparison["verdict"]
    assert "none to test it with" in comparison["verdict"]
    assert comparison["n_tests"] == 0
    assert PROCEDURE not in html


def test_runs_on_different_test_images(plant, tmp_path):
    for seed, model in enumerate("ab"):
        plant(model, {"ovr": right_but(90, slice(0, 9))}, data_seed=seed)
    comparison, *_ = page_of(tmp_path)
    assert comparison["n_tests"] == 0
    assert comparison["verdict"].count("No other run answered these images") == 2
    assert comparison["verdict"].endswith(
        "Runs on different test images are not tested against each other."
    )


def test_a_run_without_predictions_is_named(plant, tmp_path):
    for model in "ab":
        plant(model, {"ovr": right_but(90, slice(0, 9)), "ovo": right_but(90, slice(0, 8))})
    (tmp_path / "b" / "run" / "predictions.npz").unlink()
    comparison, *_ = page_of(tmp_path)
    assert comparison["verdict"].endswith(
        "Without readable predictions, and so not tested against others: b 128 px."
    )
    # Its own test stands on the page, and counts.
    assert comparison["n_tests"] == 2
    assert [entry["n_tests"] for entry in comparison["ovr_ovo"]] == [2, 2]


def test_thirty_planted_nulls_are_no_finding(plant, tmp_path):
    rng, n = np.random.default_rng(16), 500
    for i in range(30):
        easy = rng.random(n) < 0.8
        right = {name: easy | (rng.random(n) < 0.5) for name in ("ovr", "ovo")}
        plant(f"m{i:02d}", right)
    comparison, *_ = page_of(tmp_path)
    # One of thirty would be significant, had each run its own level; of all 1,770 tests none is.
    assert min(entry["mcnemar_p"] for entry in comparison["ovr_ovo"]) < 0.05
    assert comparison["n_tests"] == 60 * 59 // 2
    assert comparison["verdict"].startswith(
        "OvR or OvO: no detectable difference on 30 of 30 runs. On cifar10 (500 test images) the "
        "highest accuracy is that of "
    )
    two = r"No detectable difference between m\d+ 128 px \(Ov.\) and m\d+ 128 px \(Ov.\)"
    assert re.search(two, comparison["verdict"])
    assert "better" not in comparison["verdict"]


def test_too_few_test_images_for_so_many_tests(plant, tmp_path):
    for model in "abc":
        plant(model, {"ovr": right_but(9, [0, 1]), "ovo": right_but(9, [2])})
    comparison, *_ = page_of(tmp_path)
    assert comparison["n_tests"] == 15
    assert comparison["verdict"].startswith(
        "OvR or OvO: too few test images to show any difference on 3 of 3 runs."
    )
    assert (
        "9 test images can show none, however large: 15 tests need at least 10."
        in (comparison["verdict"])
    )


def test_runs_of_an_earlier_procedure_are_judged_again(plant, tmp_path):
    n = 656
    plant("a", {"ovr": right_but(n, slice(0, 58)), "ovo": right_but(n, slice(8, 59))})
    plant("b", {"ovr": right_but(n, slice(0, 58)), "ovo": right_but(n, slice(8, 59))})
    path = tmp_path / "a" / "run" / "results.json"
    results = json.loads(path.read_text())
    del results["comparison_method"]
    (entry,) = results["comparisons"]
    for name in ("mcnemar_p_adjusted", "n_tests", "test_rows_needed"):
        del entry[name]
    entry |= {"difference_ci95": [0.1, 0.2], "verdict": "p = 0.01 after Holm"}
    path.write_text(json.dumps(results))
    comparison, *documents = page_of(tmp_path)
    old, new = comparison["ovr_ovo"]
    assert {**old, "label": new["label"]} == new
    assert comparison["comparison_method"] == METHOD
    assert not any("Holm" in document for document in documents)
