"""`compare` where runs have groups, or weights, or not the same ones."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from classify.analysis.evaluate import evaluate
from classify.analysis.resampling import difference_table, group_test, units_of
from classify.analysis.significance import compare_strategies
from classify.report.comparison import compare
from classify.report.runs import shared_units
from classify.results.file import json_ready

N = 400


def add_columns(folder, groups=None, weights=None, order=None):
    """Give a made-up run groups and weights, with the numbers that follow from them."""
    path = folder / "predictions.npz"
    stored = dict(np.load(path))
    labels = stored["labels"]
    results = json.loads((folder / "results.json").read_text())
    names = list(results["strategies"])
    answers = {name: stored[f"{name}_predictions"] for name in names}
    units = units_of(groups, weights, len(labels))
    for name, entry in results["strategies"].items():
        chances = np.eye(len(results["class_names"]))[answers[name]] * 0.9 + 0.01
        entry["test"] = evaluate(
            labels, answers[name], chances, results["class_names"], weights, units
        )
    results["comparisons"] = compare_strategies(
        labels, answers, dict.fromkeys(names, True), units=units
    )
    results["interval_method"] = (
        "bootstrap of groups" if groups is not None else "bootstrap of rows"
    )
    (folder / "results.json").write_text(json.dumps(json_ready(results)))
    if groups is not None:
        stored["groups"] = groups
    if weights is not None:
        stored["weights"] = weights
    np.savez(path, **stored)


def one(groups, n=6):
    return SimpleNamespace(groups=groups, weights=None, labels=np.zeros(n))


def test_groups_of_several_runs_are_put_together_where_they_share_a_row():
    a = np.array([0, 0, 1, 1, 2, 2])
    assert shared_units([one(None), one(None)]) is None
    alone = shared_units([one(None), one(a)])
    assert alone.n_groups == 3 and np.array_equal(alone.of_rows, a)
    renamed = shared_units([one(a), one(np.array([7, 7, 3, 3, 5, 5]))])
    assert renamed.n_groups == 3
    joined = shared_units([one(a), one(np.array([0, 1, 1, 2, 3, 3]))])
    assert joined.n_groups == 2
    assert joined.of_rows[0] == joined.of_rows[3] != joined.of_rows[4] == joined.of_rows[5]


@pytest.fixture
def two_runs(tmp_path, make_run):
    for i, model in enumerate(("alpha", "beta")):
        make_run(tmp_path / "reports" / model / "1", key=f"{i}" * 64, seed=i, model=model, n=N)
    return tmp_path / "reports"


def test_a_run_without_groups_is_judged_by_those_of_another(two_runs):
    groups = np.arange(N) // 10
    add_columns(two_runs / "alpha" / "1", groups)
    _, found, _ = compare([], two_runs)
    assert [entry["n_groups"] for entry in found["test_sets"]] == [40]
    assert all(pair["n_groups"] == 40 for pair in found["backbones"])
    assert all(entry["n_groups"] == 40 for entry in found["ovr_ovo"])
    assert found["comparison_method"].startswith("tests by signs of groups")
    answers = {m: np.load(two_runs / m / "1" / "predictions.npz") for m in ("alpha", "beta")}
    labels = answers["alpha"]["labels"]
    (pair, *_) = [pair for pair in found["backbones"] if pair["strategy"] == "ovr"]
    right = [answers[pair[k].split()[0]]["ovr_predictions"] == labels for k in "ab"]
    test = group_test(difference_table(*right, units_of(groups, None, N)), 0.05, found["n_tests"])
    assert pair["mcnemar_p"] == test.p
    assert pair["difference_ci95"] == pytest.approx([test.low, test.high])
    for name in ("report.html", "report.md"):
        page = (two_runs / "comparison" / name).read_text("utf-8")
        assert "change the signs of whole groups" in page and "McNemar" not in page
        assert "95 % intervals that resample the groups of test images or 95 % Wilson" in page


def test_pages_of_both_kinds_name_both(two_runs, make_run):
    add_columns(two_runs / "alpha" / "1", np.arange(N) // 10)
    make_run(
        two_runs / "gamma" / "1", key="9" * 64, model="gamma", n=N, data_seed=5, dataset="other"
    )  # fmt: skip
    _, found, _ = compare([], two_runs)
    assert {entry["n_groups"] for entry in found["test_sets"]} == {40, None}
    assert "McNemar" in found["comparison_method"] and "signs" in found["comparison_method"]
    page = (two_runs / "comparison" / "report.md").read_text("utf-8")
    assert "Of test images without groups and weights: Exact McNemar tests" in page


def test_runs_whose_images_weigh_differently_are_not_tested_against_each_other(two_runs):
    weights = np.random.default_rng(0).uniform(0.5, 2, N)
    add_columns(two_runs / "alpha" / "1", None, weights)
    _, found, _ = compare([], two_runs)
    assert len(found["test_sets"]) == 2 and found["backbones"] == []
    assert any("or with different weights of them, are not tested" in n for n in found["notes"])
    add_columns(two_runs / "beta" / "1", None, weights)
    _, found, _ = compare([], two_runs)
    assert len(found["test_sets"]) == 1 and found["backbones"]
    assert all(pair["n_groups"] is None for pair in found["backbones"])
    (pair, *_) = [pair for pair in found["backbones"] if pair["strategy"] == "ovr"]
    entries = {row["label"]: row for row in found["leaderboard"] if row["strategy"] == "ovr"}
    assert pair["accuracy_difference"] == pytest.approx(
        entries[pair["a"]]["accuracy"] - entries[pair["b"]]["accuracy"]
    )


def test_a_table_of_groups_that_is_none_is_refused(two_runs):
    from classify.results.file import read_run
    from data.common.errors import UserError

    path = two_runs / "alpha" / "1" / "results.json"
    add_columns(path.parent, np.arange(N) // 10)
    read_run(path)
    whole = json.loads(path.read_text())
    for row in ([0.0, 1.0], [0.0, 0.0, 1], [0.0, 1.0, 0], [0.0, 1.0, N + 1]):
        whole["comparisons"][0]["group_differences"] = [row]
        path.write_text(json.dumps(whole))
        with pytest.raises(UserError, match="group_differences are not"):
            read_run(path)
