import csv
import json
import os
import re
import shutil

import numpy as np
import pytest

from classify.__main__ import main
from classify.analysis.significance import mcnemar_exact
from classify.report.comparison import compare, headline
from classify.report.figures.tradeoffs import COSTS, draw_tradeoffs, known_costs
from classify.report.runs import find_runs, read_answers
from data.common.cli import run
from data.common.errors import UserError


@pytest.fixture
def reports(tmp_path, make_run):
    """Two backbones on one test set (rows in another order), and one on another data set."""
    root = tmp_path / "reports"
    make_run(root / "c-one" / "20260101-000000", key="a" * 64, model="one", seed=1)
    order = np.random.default_rng(0).permutation(400)
    make_run(root / "c-two" / "20260101-000000", key="b" * 64, model="two", seed=2, order=order)
    make_run(
        root / "d-one" / "20260101-000000",
        key="c" * 64, model="one", dataset="digits", names=list("xyz"), n=90, source="random",
    )  # fmt: skip
    return root


@pytest.mark.figures
def test_comparison_of_all_runs(reports, capsys):
    assert run(main, ["compare", "--reports-dir", str(reports)]) == 0
    out, err = capsys.readouterr()
    folder = reports / "comparison"
    assert out.strip() == str(folder / "report.html")
    assert sorted(p.name for p in folder.iterdir()) == [
        "figures", "metrics.csv", "report.html", "report.md", "results.json",
    ]  # fmt: skip
    comparison = json.loads((folder / "results.json").read_text("utf-8"))
    assert comparison["kind"] == "comparison"
    assert len(comparison["leaderboard"]) == 9
    by_dataset = [row["dataset"] for row in comparison["leaderboard"]]
    assert by_dataset == ["cifar10"] * 6 + ["digits"] * 3
    accuracies = [row["accuracy"] for row in comparison["leaderboard"][:6]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(comparison["ovr_ovo"]) == 3
    assert err.strip().splitlines()[-1] == comparison["verdict"]
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9
    assert float(rows[0]["accuracy"]) == accuracies[0]
    html = (folder / "report.html").read_text("utf-8")
    assert 'href="../c-one/20260101-000000/report.html"' in html
    assert "random" in html
    assert [p for p in reports.iterdir() if p.name.startswith(".")] == []


@pytest.mark.figures
def test_accuracy_is_drawn_against_what_it_costs(reports):
    page, comparison, _ = compare([], reports)
    figures = page.parent / "figures"
    # digits has one backbone, which trades nothing off
    assert sorted(p.name for p in figures.glob("cost-*")) == ["cost-1.svg"]
    svg = (figures / "cost-1.svg").read_text("utf-8")
    for what in COSTS.values():
        assert f">{what}<" in svg
    best = comparison["leaderboard"][0]["label"]
    for text in (svg, page.read_text("utf-8"), page.with_name("report.md").read_text("utf-8")):
        assert re.search(rf"1( is|:) {best}", text)
    assert 'aria-labelledby="cost-1-title"' in page.read_text("utf-8")
    assert {row["extraction_seconds_per_1000"] for row in comparison["leaderboard"]} == {10.0}


@pytest.mark.figures
def test_a_store_without_a_speed_is_left_out_of_that_panel_only(make_run, tmp_path):
    for i, speed in enumerate((None, 100.0)):
        results = make_run(tmp_path / f"r{i}", key=str(i) * 64, model=f"m{i}", seed=i)
        results["store"]["provenance"]["images_per_second"] = speed
        (tmp_path / f"r{i}" / "results.json").write_text(json.dumps(results))
    _, comparison, _ = compare([], tmp_path)
    rows = comparison["leaderboard"]
    assert known_costs(rows) == COSTS
    none = [row for row in rows if row["extraction_seconds_per_1000"] is None]
    assert {row["label"] for row in none} == {"m0 128 px"}
    assert "extraction_seconds_per_1000" not in known_costs(none)
    assert ">extraction" not in draw_tradeoffs(none, "x")


def test_backbones_are_paired_by_id(reports, make_results):
    _, comparison, _ = compare([], reports)
    pairs = comparison["backbones"]
    shared = ("multinomial", "ovr", "ovo")
    assert [(p["a"], p["b"], p["strategy"]) for p in pairs[:3]] == [
        ("one 128 px", "two 128 px", s) for s in shared
    ]
    # Besides, the best of either, unless they are of one strategy.
    assert len(pairs) == 3 + (not any(pair["best"] for pair in pairs[:3]))
    assert [pair["best"] for pair in pairs].count(True) == 1
    _, labels, one = make_results(seed=1)
    _, _, two = make_results(seed=2)
    for pair in pairs[:3]:
        right = one[pair["strategy"]] == labels, two[pair["strategy"]] == labels
        assert pair["only_a_right"] == np.sum(right[0] & ~right[1])
        assert pair["only_b_right"] == np.sum(~right[0] & right[1])
        assert pair["mcnemar_p"] == mcnemar_exact(pair["only_a_right"], pair["only_b_right"])
    # All pairs of the six classifiers of one test set, and of the three of the other.
    assert comparison["n_tests"] == 15 + 3
    for entry in (*pairs, *comparison["ovr_ovo"]):
        assert entry["n_tests"] == 18
        assert entry["mcnemar_p_adjusted"] == min(1, 18 * entry["mcnemar_p"])


def test_different_test_sets_are_refused_with_a_sentence(reports):
    _, comparison, _ = compare([], reports)
    assert {tuple(group["runs"]) for group in comparison["test_sets"]} == {
        ("one 128 px", "two 128 px"),
        ("one 128 px, random weights",),
    }
    assert any("are not tested against each other" in note for note in comparison["notes"])


def test_other_labels_are_another_test_set(tmp_path, make_run):
    for i in range(2):
        make_run(tmp_path / f"r{i}", key=str(i) * 64, model=f"m{i}", data_seed=i)
    _, comparison, _ = compare([tmp_path / "r0", tmp_path / "r1"], tmp_path / "out")
    assert comparison["backbones"] == []
    assert len(comparison["test_sets"]) == 2


def test_the_newest_of_equal_runs_counts(tmp_path, make_run, capsys):
    for day in (1, 3, 2):
        started = f"2026-01-0{day}T00:00:00+00:00"
        make_run(tmp_path / "s" / f"day{day}", started=started, seed=day)
    _, comparison, _ = compare([], tmp_path)
    assert [os.path.basename(r["folder"]) for r in comparison["runs"]] == ["day3"]
    err = capsys.readouterr().err
    assert err.count("left out") == 2
    assert "newer" in err


def test_heads_of_a_store_may_come_from_several_runs(tmp_path, make_run, capsys):
    for day, names in ((1, ("multinomial", "ovr")), (2, ("ovr", "ovo")), (3, ("ovo",))):
        started = f"2026-01-0{day}T00:00:00+00:00"
        make_run(tmp_path / "s" / f"day{day}", started=started, strategies=names)
    _, comparison, _ = compare([], tmp_path)
    found = {(os.path.basename(r["folder"]), r["label"].split("(")[1]) for r in comparison["runs"]}
    assert found == {("day1", "multinomial)"), ("day2", "OvR)"), ("day3", "OvO)")}
    assert len(comparison["leaderboard"]) == 3
    err = capsys.readouterr().err
    assert f"left out of OvR: {tmp_path / 's' / 'day1'}" in err
    assert f"left out of OvO: {tmp_path / 's' / 'day2'}" in err


def test_settings_tell_runs_of_one_store_apart(tmp_path, make_run):
    make_run(tmp_path / "s" / "first")
    results = make_run(tmp_path / "s" / "second")
    results["settings"]["c"] = 0.1
    (tmp_path / "s" / "second" / "results.json").write_text(json.dumps(results))
    runs = find_runs([], tmp_path, pytest.fail)
    assert [r.label.split("(")[1] for r in runs] == ["first)", "second)"]


def test_the_memory_that_a_run_had_does_not_tell_it_apart(tmp_path, make_run):
    for day, name, memory in ((1, "first", 10**9), (2, "second", 10**8)):
        results = make_run(tmp_path / "s" / name, started=f"2026-11-0{day}T00:00:00+00:00")
        results["settings"] |= {"memory": memory, "out_of_core": name == "second"}
        (tmp_path / "s" / name / "results.json").write_text(json.dumps(results))
    assert len(find_runs([], tmp_path, lambda text: None)) == 1


def test_damaged_runs_are_skipped_when_found_and_refused_when_named(reports, capsys):
    bad = reports / "bad" / "run"
    bad.mkdir(parents=True)
    (bad / "results.json").write_text('{"schema_version": 1}')
    foreign = reports / "foreign"
    foreign.mkdir()
    (foreign / "results.json").write_text("[1, 2]")
    assert run(main, ["compare", "--reports-dir", str(reports)]) == 0
    err = capsys.readouterr().err
    assert f"skipped: {bad / 'results.json'}" in err
    assert f"skipped: {foreign / 'results.json'}" in err
    assert run(main, ["compare", str(bad), "--reports-dir", str(reports)]) == 2
    assert "kind is missing" in capsys.readouterr().err


def test_comparing_again_replaces_and_does_not_count_itself(reports):
    compare([], reports)
    _, comparison, _ = compare([], reports)
    assert len(comparison["runs"]) == 3
    assert not any("comparison" in note for note in comparison["notes"])
    with pytest.raises(UserError, match="not the results of a run"):
        compare([reports / "comparison"], reports)


def test_unfinished_runs_are_not_seen(reports):
    shutil.copytree(reports / "c-one" / "20260101-000000", reports / "c-one" / ".partial-1-ab")
    assert len(find_runs([], reports, pytest.fail)) == 3


def test_a_folder_in_the_way_is_not_touched(reports):
    (reports / "comparison").mkdir()
    (reports / "comparison" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="in the way"):
        compare([], reports)
    assert (reports / "comparison" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"PK no zip"), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "cannot be read"),
        (lambda path: np.savez(path, ids=np.array(["a"])), "cannot be read"),
        (
            lambda path: np.savez(path, **{**np.load(path), "labels": np.zeros(400, np.int64)}),
            "does not agree with",
        ),
        (
            lambda path: np.savez(path, **{**np.load(path), "ids": np.array(["x"] * 400)}),
            "same id",
        ),
        (
            lambda path: np.savez(path, **{**np.load(path), "ids": np.array([{}] * 400)}),
            "cannot be read",
        ),
    ],
)
def test_damaged_predictions_cost_the_pairing_only(reports, damage, told):
    damage(reports / "c-one" / "20260101-000000" / "predictions.npz")
    one = next(r for r in find_runs([], reports, pytest.fail) if "c-one" in str(r.folder))
    with pytest.raises(UserError, match=told):
        read_answers(one)
    _, comparison, _ = compare([], reports)
    assert len(comparison["leaderboard"]) == 9
    assert comparison["backbones"] == []
    assert any(told in note for note in comparison["notes"])


def test_no_runs(tmp_path, capsys):
    for arguments in ([], [str(tmp_path)], [str(tmp_path / "none")]):
        assert run(main, ["compare", *arguments, "--reports-dir", str(tmp_path)]) == 2
        err = capsys.readouterr().err
        assert "icebox classify" in err
        assert len(err.splitlines()) <= 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.figures
def test_names_cannot_inject(tmp_path, make_run):
    make_run(tmp_path / "r", model="<script>alert(1)</script>", dataset="a|b")
    page, _, _ = compare([tmp_path / "r"], tmp_path)
    assert "<script" not in page.read_text("utf-8")
    assert "<script" not in page.with_name("report.md").read_text("utf-8")


@pytest.mark.figures
def test_real_runs_compare(fitted_run, tmp_path):
    folder, _ = fitted_run
    _, comparison, board = compare([folder.parent], tmp_path)
    assert len(comparison["leaderboard"]) == 3
    assert "toys" in board


def test_headline_counts_how_the_question_ended():
    def entry(converged, significant, difference):
        return {
            "a": "ovr", "b": "ovo", "converged": converged, "significant": significant,
            "accuracy_difference": difference,
        }  # fmt: skip

    question = [entry(True, True, 0.1), entry(True, True, -0.1), entry(True, False, 0.1)]
    assert headline([], [*question, entry(False, True, 0.1)], [], []) == (
        "OvR or OvO: OvR is better on 1, OvO is better on 1, no detectable difference on 1, "
        "no verdict, since a fit did not converge, on 1 of 4 runs."
    )
