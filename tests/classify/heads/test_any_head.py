"""Any head of the registry: chosen, fitted, judged, saved and used, as the solver's are."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from classify.__main__ import main
from classify.heads import registry
from classify.heads.interface import RowSet
from classify.heads.linear import LinearTrained
from classify.report.figures import style
from classify.saved.reading import load_head
from data.common.cli import run
from data.reading import open_features

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Add the heads of these tests to the registry."""
    kinds = {"means": "ShrunkMeans", "memory": "Memory"}
    for name, kind in kinds.items():
        entry = registry.Entry(name, f"heads_for_tests:{kind}")
        monkeypatch.setitem(registry.HEADS, name, entry)
        monkeypatch.setitem(style.COLOURS, name, style.PALETTE[0])


def fit(store, reports, *options):
    words = ["fit", str(store), f"--reports-dir={reports}", "--no-few-shot", *options]
    assert run(main, words) == 0
    (path,) = Path(reports).rglob("results.json")
    return path.parent, json.loads(path.read_text())


def test_a_linear_head_is_chosen_judged_and_saved(tmp_path, make_store, capsys):
    store = make_store(tmp_path / "a.h5", names=("ant", "bee", "cat", "dog"))
    folder, results = fit(store, tmp_path / "r", "--head=means", "--head=ovr", "--c=0.1")
    features, entry = open_features(store), results["strategies"]["means"]
    assert entry["C"] is None
    assert entry["certificate"] is None
    assert [step["setting"]["shrink"] for step in entry["validation"]] == [0.0, 0.5, 0.9]
    best = max(entry["validation"], key=lambda step: (step["accuracy"], -step["log_loss"]))
    assert entry["setting"] == best["setting"]
    assert entry["calibration"]["n_validation"] == results["n_validation"] > 0
    head = load_head(folder / entry["saved"]["file"])
    assert (head.strategy, head.coded, head.setting) == ("means", "multinomial", best["setting"])
    assert entry["saved"]["linear"]
    answers = head.predict(features.test.features)
    assert accuracy_score(features.test.labels, answers) == entry["test"]["accuracy"]
    with np.load(folder / "predictions.npz") as stored:
        assert np.array_equal(stored["means_predictions"], answers)
    (comparison,) = results["comparisons"]
    assert {comparison["a"], comparison["b"]} == {"means", "ovr"}
    page = (folder / "report.html").read_text()
    assert "Settings that were tried" in page
    assert "shrink = " in capsys.readouterr().err


def test_few_shot_curves_are_of_any_head(tmp_path, make_store):
    store = make_store(tmp_path / "a.h5", n=300)
    words = ["fit", str(store), f"--reports-dir={tmp_path / 'r'}", "--head=means", "--few-shot"]
    assert run(main, words) == 0
    (path,) = (tmp_path / "r").rglob("results.json")
    results = json.loads(path.read_text())
    curve = results["few_shot"]["curves"]["means"]
    assert curve[-1]["mean"] == results["strategies"]["means"]["test"]["accuracy"]
    assert len(curve) > 2
    assert all(len(point["accuracies"]) == 5 for point in curve[:-1])


def test_a_head_that_keeps_all_rows_says_what_memory_it_needs(tmp_path, make_store, capsys):
    store = make_store(tmp_path / "a.h5", n=3000, d=400)
    words = ["fit", str(store), f"--reports-dir={tmp_path / 'r'}", "--no-few-shot"]
    assert run(main, [*words, "--head=memory", "--memory=3MB"]) == 2
    assert "--memory is 3 MB, and fitting memory on" in capsys.readouterr().err
    assert not list((tmp_path / "r").rglob("results.json"))


def test_two_classes_compare_other_heads_and_not_one_problem_with_itself(tmp_path, make_store):
    store = make_store(tmp_path / "a.h5", names=("ant", "bee"))
    options = ["--c=1", *(f"--head={name}" for name in ("multinomial", "ovr", "ovo", "means"))]
    folder, results = fit(store, tmp_path / "r", *options)
    assert [(c["a"], c["b"]) for c in results["comparisons"]] == [("multinomial", "means")]
    head = load_head(folder / "heads" / "means.safetensors")
    assert head.coef.shape == (1, 6)
    features = open_features(store)
    answers = head.predict(features.test.features)
    assert (
        np.mean(answers == features.test.labels)
        == (results["strategies"]["means"]["test"]["accuracy"])
    )


def test_unknown_heads_name_the_nearest(tmp_path, make_store, capsys):
    store = make_store(tmp_path / "a.h5")
    assert run(main, ["fit", str(store), "--head=meanss"]) == 2
    told = capsys.readouterr().err
    assert "--head meanss is unknown; did you mean means?" in told
    assert "multinomial, ovr, ovo" in told


def test_no_row_to_hold_out_is_said(tmp_path, make_store, capsys):
    store = make_store(tmp_path / "a.h5", n=3)
    code = run(main, ["fit", str(store), "--head=means", f"--reports-dir={tmp_path / 'r'}"])
    told = capsys.readouterr().err
    assert code == 2
    assert "--head means on" in told
    assert "no row can be held out; use more images" in told


@pytest.mark.parametrize("n_classes", [2, 5])
def test_linear_heads_answer_alike_when_made_again(n_classes):
    rng = np.random.default_rng(0)
    head = LinearTrained(rng.normal(size=(n_classes, 7)), rng.normal(size=n_classes), {"k": 1})
    again = LinearTrained.from_state(head.state())
    block = rng.normal(size=(20, 7)).astype(np.float32)
    for one, other in zip(head.answers(block), again.answers(block), strict=True):
        assert np.allclose(one, other, atol=1e-12)
    assert np.allclose(np.exp(head.answers(block).log_probabilities).sum(axis=1), 1)


def test_blocks_are_the_rows_in_order():
    X = np.arange(40, dtype=np.float32).reshape(20, 2)
    rows = np.array([1, 2, 5, 6, 7, 19])
    row_set = RowSet(X, rows, np.zeros(6, np.intp), 1)
    parts = list(row_set.blocks(2))
    assert np.array_equal(np.concatenate([block for _, block in parts]), X[rows])
    assert [where.start for where, _ in parts] == [0, 2, 4]
    assert np.array_equal(row_set.take(np.array([0, 5])).matrix("x"), X[[1, 19]])
