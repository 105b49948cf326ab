"""The table of every row against the best: in the comparison's JSON, pages and on the terminal."""

import json

import numpy as np
import pytest

from classify.analysis.best_of_many import against_best
from classify.report.best_rows import rows_against_best, terminal_best
from classify.report.comparison import compare
from classify.report.runs import find_runs, read_answers


@pytest.fixture
def reports(tmp_path, make_run):
    """Two runs of one test set (rows in another order), and one of another with one strategy."""
    root = tmp_path / "reports"
    make_run(root / "one" / "run", key="a" * 64, model="one", seed=1)
    order = np.random.default_rng(0).permutation(400)
    make_run(root / "two" / "run", key="b" * 64, model="two", seed=2, order=order)
    make_run(root / "three" / "run", key="c" * 64, model="three", data_seed=5, strategies=["ovr"])
    return root


def change(folder, edit):
    path = folder / "results.json"
    results = json.loads(path.read_text("utf-8"))
    edit(results)
    path.write_text(json.dumps(results), encoding="utf-8")


def test_rows_are_those_of_all_runs_of_a_test_set(reports, make_results):
    change(reports / "one" / "run", lambda r: r["strategies"]["ovr"].update(predict_seconds=0.25))
    _, comparison, _ = compare([], reports)
    (group,) = comparison["against_best"]  # one row alone is compared with none
    assert group["runs"] == ["one 128 px", "two 128 px"] and group["n"] == 400
    assert len(group["rows"]) == 6
    found = {(row["label"], row["strategy"]): row for row in group["rows"]}
    names, rights = [], []
    for seed, label in ((1, "one 128 px"), (2, "two 128 px")):
        _, labels, answers = make_results(seed=seed)
        for name, answer in answers.items():
            names.append((label, name))
            rights.append(answer == labels)
    for i, (name, entry) in enumerate(zip(names, against_best(np.array(rights)), strict=True)):
        row = found[name]
        assert row["accuracy"] == pytest.approx(rights[i].mean())
        assert row["accuracy_difference"] == pytest.approx(entry.difference)
        assert row["difference_ci95"] == pytest.approx([entry.low, entry.high])
        assert row["p_adjusted"] == pytest.approx(entry.p_adjusted) and row["n_tests"] == 5
        assert row["may_be_best"] == (entry.beaten_by is None)
        assert row["fit_seconds"] > 0
    assert found["one 128 px", "ovr"]["predict_seconds"] == 0.25
    assert found["two 128 px", "ovr"]["predict_seconds"] is None
    accuracies = [row["accuracy"] for row in group["rows"]]
    assert accuracies == sorted(accuracies, reverse=True)


def worse(folder, strategy):
    """Make a strategy's answers wrong for 100 of the rows that it answered rightly."""
    with np.load(folder / "predictions.npz") as stored:
        arrays = dict(stored)
    answers, labels = arrays[f"{strategy}_predictions"], arrays["labels"]
    rows = np.flatnonzero(answers == labels)[:100]
    answers[rows] = (labels[rows] + 1) % 10
    np.savez(folder / "predictions.npz", **arrays)
    share = float((answers == labels).mean())
    change(folder, lambda r: r["strategies"][strategy]["test"].update(accuracy=share))


def test_a_row_that_is_beaten_says_by_which(reports):
    worse(reports / "two" / "run", "ovo")
    page, comparison, _ = compare([], reports)
    (group,) = comparison["against_best"]
    *others, last = group["rows"]
    assert (last["label"], last["strategy"]) == ("two 128 px", "ovo")
    assert last["may_be_best"] is False and last["difference_ci95"][1] < 0
    assert last["p_adjusted"] < 0.05 and last["beaten_by"]["strategy"] in (
        "ovr",
        "multinomial",
        "ovo",
    )
    assert all(row["may_be_best"] and row["beaten_by"] is None for row in others)
    assert group["sentence"].startswith(
        "On cifar10 (400 test images) 5 of 6 rows may be the best: "
    )
    told = terminal_best(comparison)
    assert told.count("  yes") == 5 and told.count("  no\n") == 1
    text = page.read_text("utf-8")
    assert "Every row against the best" in text and '<td class="text">no</td>' in text
    markdown = page.with_suffix(".md").read_text("utf-8")
    assert markdown.count("| yes |") == 5 and markdown.count("| no |") == 1


def test_fits_that_did_not_converge_carry_no_verdict(reports):
    def late(results):
        results["strategies"]["ovr"]["converged"] = False

    for name in ("one", "two"):
        change(reports / name / "run", late)
    page, comparison, _ = compare([], reports)
    (group,) = comparison["against_best"]
    for row in group["rows"]:
        assert (row["may_be_best"] is None) == (row["strategy"] == "ovr")
        assert row["n_tests"] == (None if row["strategy"] == "ovr" else 3)
        assert (row["accuracy_difference"] is None) == (row["strategy"] == "ovr")
    assert terminal_best(comparison).count("no verdict") == 2
    assert page.read_text("utf-8").count("no verdict</td>") == 2

    def all_late(results):
        for entry in results["strategies"].values():
            entry["converged"] = False

    for name in ("one", "two"):
        change(reports / name / "run", all_late)
    _, comparison, _ = compare([], reports)
    assert "fewer than two fits converged" in comparison["against_best"][0]["sentence"]


def test_one_row_that_beats_all_is_named(reports):
    for name, strategies in (
        ("one", ["multinomial", "ovr"]),
        ("two", ["multinomial", "ovr", "ovo"]),
    ):
        for strategy in strategies:
            worse(reports / name / "run", strategy)
    runs = find_runs([], reports, pytest.fail)
    answers = {run.label: read_answers(run) for run in runs}
    _, comparison, _ = compare([], reports)
    found = rows_against_best(runs, answers, comparison["test_sets"], comparison["leaderboard"])
    (group,) = found
    assert [row["may_be_best"] for row in group["rows"]] == [True, *[False] * 5]
    assert group["rows"][0]["difference_ci95"][0] > 0
    assert group["sentence"] == (
        "On cifar10 (400 test images) one 128 px with OvO is better than each of the other 5 rows."
    )
