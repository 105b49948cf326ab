"""A fit of two classes: one head by default, and what the files and the page say of it."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from classify.__main__ import main
from classify.codings.decisions import temper
from classify.fit.two_classes import parse_cost
from classify.report.run_report import write_report
from classify.results.file import read_run
from data.common.cli import run
from data.common.errors import UserError

ROOT = Path(__file__).parents[3]


def fit(store, reports, *options):
    words = ["fit", str(store), "--reports-dir", str(reports), "--c-grid", "0.001,0.01,0.1"]
    code = run(main, [*words, "--jobs", "1", "--no-few-shot", *map(str, options)])
    if code:
        return code, None
    folder = max(reports.glob("*/*"), key=lambda path: path.stat().st_mtime_ns)
    return folder, json.loads((folder / "results.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_store):
    root = tmp_path_factory.mktemp("two")
    store = make_store(root / "s.h5", names=("ant", "bee"), n=200, validation=80, scale=0.3)
    folder, results = fit(store, root / "reports", "--cost", "FP=1,FN=5")
    return SimpleNamespace(root=root, store=store, folder=folder, results=results)


def test_two_classes_are_one_head_that_is_compared_with_nothing(made, capsys):
    assert list(made.results["strategies"]) == made.results["settings"]["strategies"]
    assert made.results["settings"]["strategies"] == ["multinomial"]
    assert made.results["settings"]["cost"] == {"FP": 1, "FN": 5}
    assert made.results["comparisons"] == [] and not made.results["one_problem"]
    assert "one problem" in made.results["verdict"] and "ROC" in made.results["verdict"]
    assert [path.stem for path in (made.folder / "heads").iterdir()] == ["multinomial"]
    fit(made.store, made.root / "again")
    told = capsys.readouterr().err
    [line] = [line for line in told.splitlines() if "--head fits them" in line]
    assert "OvR and OvO would be the same" in line
    assert "ant" in told and "area under the ROC curve" in told


def test_heads_that_were_named_are_all_fitted_and_one_is_shown(made):
    folder, results = fit(made.store, made.root / "named", "--head", "ovo", "--head", "ovr")
    assert list(results["strategies"]) == ["ovo", "ovr"] and results["comparisons"] == []
    assert results["one_problem"] and results["verdict"].startswith("With two classes, OvO and OvR")
    page = (folder / "report.md").read_text("utf-8")
    assert page.count("OvO on the test images") == 1 and "OvR on the test images" not in page
    assert "then the same head, shown once" in page


def test_the_numbers_are_of_calibrated_probabilities_of_the_test_rows(made):
    binary = made.results["strategies"]["multinomial"]["binary"]
    stored = np.load(made.folder / "predictions.npz")
    chances = stored["multinomial_probabilities"].astype(np.float64)
    truth = stored["labels"] == 1
    assert binary["positive"] == 1 and made.results["class_names"] == ["ant", "bee"]
    assert binary["auc"] == pytest.approx(roc_auc_score(truth, chances[:, 1]), abs=1e-6)
    expected = average_precision_score(truth, chances[:, 1])
    assert binary["average_precision"] == pytest.approx(expected, abs=1e-6)
    temperature = made.results["strategies"]["multinomial"]["calibration"]["temperature"]
    calibrated = temper(chances, temperature)[:, 1]
    for row in binary["thresholds"]:
        assert row["true_positives"] == np.count_nonzero(calibrated[truth] > row["threshold"])
        assert row["false_positives"] == np.count_nonzero(calibrated[~truth] > row["threshold"])
    assert binary["n_validation"] == 80
    half = next(row for row in binary["thresholds"] if row["threshold"] == 0.5)
    matrix = made.results["strategies"]["multinomial"]["test"]["confusion_matrix"]
    assert [half["false_positives"], half["true_positives"]] == [row[1] for row in matrix]


def test_every_number_is_in_the_manual_and_every_row_of_the_manual_is_a_number(made):
    def leaves(value, path):
        if isinstance(value, dict):
            for key, item in value.items():
                name = "*" if path.endswith(".against") else key
                yield from leaves(item, f"{path}.{name}")
        elif isinstance(value, list) and value:
            yield from leaves(value[0], f"{path}[]")
        else:
            yield path

    text = (ROOT / "docs/reference/results.md").read_text("utf-8")
    named = set(re.findall(r"^\| `(strategies\.\*\.binary[^`]*)` \|", text, flags=re.MULTILINE))
    binary = made.results["strategies"]["multinomial"]["binary"]
    found = set(leaves(binary, "strategies.*.binary"))
    # What may be null as a whole has no brackets.
    found = {f.removesuffix("[]") if f.removesuffix("[]") in named else f for f in found}
    assert found | {"strategies.*.binary.cost"} == named


def test_the_page_shows_curves_thresholds_and_costs(made):
    page = (made.folder / "report.html").read_text("utf-8")
    markdown = (made.folder / "report.md").read_text("utf-8")
    cost = made.results["strategies"]["multinomial"]["binary"]["cost"]
    for name in ("binary-roc", "binary-precision-recall", "binary-cost"):
        assert (made.folder / "figures" / f"{name}.svg").exists() and f'"{name}-title"' in page
        assert f"figures/{name}.svg" in markdown
    for text in (page, markdown):
        assert "bee or ant?" in text and "What errors cost: FP=1, FN=5" in text
        assert f"above {cost['threshold']:.3g}, chosen on 80 validation images" in text
        assert "always bee" in text and "false positive rate at most 5 %" in text
        assert f"{cost['cost']:.3f}" in text
    [row] = csv.DictReader((made.folder / "metrics.csv").open())
    assert float(row["auc"]) == made.results["strategies"]["multinomial"]["binary"]["auc"]
    assert float(row["cost"]) == cost["cost"]


def test_runs_of_more_classes_say_nothing_of_two(make_store, tmp_path):
    folder, results = fit(make_store(tmp_path / "s.h5", n=90), tmp_path / "r", "--head", "ovr")
    assert "binary" not in results["strategies"]["ovr"]
    assert not list((folder / "figures").glob("binary*"))
    assert "flagged" not in (folder / "report.html").read_text("utf-8")
    assert "auc" not in (folder / "metrics.csv").read_text().split("\n")[0].split(",")


def test_the_second_class_that_is_named_is_the_positive_one(make_store, tmp_path):
    store = make_store(tmp_path / "s.h5", n=240, scale=0.3)
    found = {}
    for classes in ("ant,cat", "cat,ant"):
        _, results = fit(store, tmp_path / "r", "--classes", classes, "--cost", "FP=1,FN=1")
        binary = results["strategies"]["multinomial"]["binary"]
        assert results["class_names"][binary["positive"]] == classes.split(",")[1]
        half = next(row for row in binary["thresholds"] if row["threshold"] == 0.5)
        found[classes] = binary["auc"], half, binary["cost"]["against"]["half"]["cost"]
    (auc, one, cost), (other_auc, other, other_cost) = found.values()
    assert auc == pytest.approx(other_auc) and cost == pytest.approx(other_cost)
    share = one["false_positive_rate"]["share"] + other["true_positive_rate"]["share"]
    assert share == pytest.approx(1)


def test_test_rows_have_no_part_in_the_choice_of_thresholds(make_store, tmp_path, made):
    labels = np.random.default_rng(5).integers(0, 2, 100)
    other = make_store(
        tmp_path / "t.h5", names=("ant", "bee"), n=200, validation=80, scale=0.3, labels_test=labels
    )
    _, results = fit(other, tmp_path / "r", "--cost", "FP=1,FN=5")
    mine, theirs = (r["strategies"]["multinomial"]["binary"] for r in (made.results, results))
    assert mine["auc"] != theirs["auc"]
    assert mine["cost"]["threshold"] == theirs["cost"]["threshold"]
    chosen = [
        sorted((row["kind"], row["target"] or 0, row["threshold"]) for row in b["thresholds"])
        for b in (mine, theirs)
    ]
    assert chosen[0] == chosen[1]


def test_groups_and_weights_reach_every_interval(make_store, tmp_path, made):
    rng = np.random.default_rng(0)
    store = make_store(
        tmp_path / "s.h5", names=("ant", "bee"), n=200, scale=0.3,
        groups={"train": np.arange(200) // 4, "test": 100 + np.arange(100) // 4},
        weights={"train": rng.uniform(0.5, 2, 200), "test": rng.uniform(0.5, 2, 100)},
    )  # fmt: skip
    folder, results = fit(store, tmp_path / "r", "--cost", "FP=1,FN=5")
    binary, stored = (
        results["strategies"]["multinomial"]["binary"],
        np.load(folder / "predictions.npz"),
    )
    truth, chances = stored["labels"] == 1, stored["multinomial_probabilities"][:, 1]
    expected = roc_auc_score(truth, chances, sample_weight=stored["weights"])
    assert binary["auc"] == pytest.approx(expected, abs=1e-6)
    assert "Obuchowski" in (folder / "report.html").read_text("utf-8")
    assert "draws groups, whole," in (folder / "report.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("FP=1", "without FN"), ("1,5", "'1' is no cost"), ("FP=1,FN=0", "FN is '0'"),
        ("FP=1,FN=-1", "FN is '-1'"), ("FP=nan,FN=1", "FP is 'nan'"), ("FP=,FN=1", "FP is ''"),
        ("fp=1,FN=2", "'fp=1' is no cost"), ("FP=1,FP=2", "says FP twice"),
        ("FP=1,FN=2,TP=1", "'TP=1' is no cost"), ("", "'' is no cost"), ("FP=1,FN=inf", "'inf'"),
    ],
)  # fmt: skip
def test_costs_are_two_numbers_above_zero(text, why):
    with pytest.raises(UserError, match=re.escape(why)) as caught:
        parse_cost(text)
    assert "such as --cost FP=1,FN=5" in str(caught.value)


def test_costs_are_parsed():
    assert parse_cost(" FN = 5 , FP=0.5") == (0.5, 5.0)


def test_costs_of_more_classes_and_of_one_sided_tests_are_refused(make_store, tmp_path, capsys):
    store = make_store(tmp_path / "s.h5", n=60)
    assert fit(store, tmp_path / "r", "--cost", "FP=1,FN=5") == (2, None)
    assert "s.h5 has 3: name the two with --classes, such as --classes ant,bee" in (
        capsys.readouterr().err
    )
    store = make_store(
        tmp_path / "t.h5", names=("ant", "bee"), n=60, labels_test=np.zeros(30, dtype=np.int64)
    )
    assert fit(store, tmp_path / "r", "--cost", "FP=1,FN=5") == (2, None)
    assert "the test rows of" in capsys.readouterr().err
    _, results = fit(store, tmp_path / "r")
    assert "binary" not in results["strategies"]["multinomial"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda b: b["roc"]["low"].pop(), "binary.roc has columns of different lengths"),
        (lambda b: b["cost"]["against"].pop("half"), "binary.cost.against does not name half"),
        (lambda b: b["auc_ci95"].append(1), "an interval is not a pair"),
        (lambda b: b.update(positive=2), "names a class that is not in class_names"),
        (lambda b: b["thresholds"][0].pop("f1"), "f1 is missing"),
    ],
)
def test_a_damaged_file_is_refused(made, tmp_path, change, why):
    results = json.loads(json.dumps(made.results))
    change(results["strategies"]["multinomial"]["binary"])
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=re.escape(why)):
        read_run(tmp_path / "results.json")


@pytest.mark.figures
def test_several_heads_share_the_figures(made, tmp_path):
    """A page of heads that are not one problem: here the same answers under another name."""
    results = json.loads(json.dumps(made.results))
    results["strategies"]["somebody's"] = results["strategies"]["multinomial"]
    results["numerics"] = None
    (tmp_path / "results.json").write_text(json.dumps(results))
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<details><summary>") >= 2
    assert "somebody" in (tmp_path / "figures" / "binary-roc.svg").read_text("utf-8")
