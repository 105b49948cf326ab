"""Every fit behind a number carries its status, and what did not converge is marked as such."""

import json
import re
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.__main__ import main
from classify.analysis import few_shot
from classify.analysis.few_shot import _enough
from classify.analysis.run_all import _calibration, held_answers
from classify.estimators import fit_without_warning
from classify.fit.strategy import path_warnings
from classify.report.figures.style import PAPER
from classify.report.run_report import write_report
from classify.report.runs import read_results
from classify.wording import labels_sentence
from data.reading import open_features


@pytest.fixture
def features(make_store, tmp_path):
    store = tmp_path / "features" / "toys" / "toynet-8px-00000000.h5"
    return open_features(make_store(store, n=60, d=20, dataset="toys"))


def test_each_draw_says_whether_its_fit_converged(features, monkeypatch):
    X, y = features.train.features, features.train.labels
    fitted = {"ovo": OneVsOneLogistic(1.0, standardize=True).fit(X, y)}
    found = few_shot.few_shot(features, fitted, jobs=1)
    assert [point["converged"] for point in found["curves"]["ovo"]] == [[True] * 5] * 4 + [[True]]
    monkeypatch.setattr(few_shot, "MAX_ITER", 1)
    monkeypatch.setattr(few_shot, "TOL", 1e-12)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = few_shot.few_shot(features, fitted, jobs=2)
    assert told == []
    assert [point["converged"] for point in found["curves"]["ovo"][:-1]] == [[False] * 5] * 4
    assert found["enough"] == {"ovo": None}
    assert few_shot.unconverged_warnings(found) == [
        "20 of 20 few-shot fits of OvO did not converge (with 1, 2, 5, 10 images per class), so "
        "these points of its curve may still move."
    ]
    assert labels_sentence(found).endswith("OvO unknown, since fits with 10 did not converge.")


def test_threads_leave_the_filters_of_warnings_alone(features):
    filters = warnings.filters
    X, y = features.train.features, features.train.labels
    fitted = {"ovr": OneVsRestLogistic(1.0, standardize=True).fit(X, y)}
    entered = []

    class Watched(warnings.catch_warnings):
        def __enter__(self):
            entered.append(threading.current_thread().name)
            return super().__enter__()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warnings, "catch_warnings", Watched)
        few_shot.few_shot(features, fitted, jobs=2)
    assert [name for name in entered if name != "MainThread"] == []
    assert warnings.filters is filters


def test_a_fit_without_warning_returns_what_the_other_warns_of():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 8)), np.arange(60) % 3
    for make in (MultinomialLogistic, OneVsRestLogistic, OneVsOneLogistic):
        with pytest.warns(Warning, match="stopped before"):
            loud = make(10.0, max_iter=1, tol=1e-12).fit(X, y)
        quiet = make(10.0, max_iter=1, tol=1e-12)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            solution = fit_without_warning(quiet, X, y)
        assert not solution.converged
        np.testing.assert_array_equal(quiet.coef_, loud.coef_)
        assert [s.name for s in solution.status] == quiet.certificate_["problems"]["status"]


def curve(*points):
    return [
        {"per_class": 10**i, "mean": mean, "converged": [True, ended]}
        for i, (mean, ended) in enumerate(points)
    ]


@pytest.mark.parametrize(
    ("points", "enough", "told"),
    [
        ([(0.79, True), (0.8, True), (0.8, True)], 1, "OvO 1."),
        ([(0.3, True), (0.8, True), (0.8, True)], 10, "OvO 10."),
        ([(0.8, False), (0.8, True), (0.8, True)], 10,
         "OvO 10 or fewer, since fits with 1 did not converge."),
        ([(0.8, True), (0.8, False), (0.8, True)], None,
         "OvO unknown, since fits with 10 did not converge."),
        ([(0.3, True), (0.3, True), (0.8, True)], None, "OvO more than 10."),
        ([(0.8, True), (0.8, True), (0.8, False)], None,
         "OvO unknown, since the fit with all images did not converge."),
    ],
)  # fmt: skip
def test_enough_is_not_claimed_from_fits_that_did_not_converge(points, enough, told):
    made = curve(*points)
    assert _enough(made) == enough
    few = {"near": 0.01, "curves": {"ovo": made}, "enough": {"ovo": enough}}
    assert labels_sentence(few).endswith(told)


def test_the_choice_of_c_says_which_fits_it_rests_on():
    path = [{"C": c, "converged": c < 10} for c in (1.0, 10.0, 100.0)]
    assert path_warnings("ovo", 1.0, path[:1]) == []
    assert path_warnings("ovo", 10.0, path) == [
        "C for OvO was chosen from fits of which 2 of 3 did not converge (C from 10 to 100), the "
        "chosen one among them."
    ]
    assert path_warnings("ovo", 1.0, path)[0].endswith("but not of the chosen one.")


def test_a_temperature_says_whether_the_heads_it_suits_converged():
    def fit(converged):
        selection = SimpleNamespace(C=1.0, path=[{"C": 1.0, "converged": converged}])
        return SimpleNamespace(
            selection=selection, probabilities=np.full((4, 2), 0.5), held_answers=None,
            estimator=SimpleNamespace(classes_=np.arange(2)),
        )  # fmt: skip

    class Rows:
        rows = np.arange(4)
        labels = np.array([0, 1, 0, 1])
        weights = None

    from classify.analysis import run_all as analyses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            analyses, "answers",
            lambda X, head, answer, rows: answer(np.array([[1.0], [2.0], [-3.0], [-1.0]])),
        )  # fmt: skip
        Rows.X = Rows.head = None
        for converged in (True, False):
            made = fit(converged)
            held = held_answers("ovr", made, Rows)
            found = _calibration(made, np.array([0, 1, 0, 1]), held)
            assert found["converged"] is converged


def mark(results):
    """Let every fit behind a number have failed."""
    for entry in results["strategies"].values():
        entry["converged"] = False
        entry["calibration"]["converged"] = False
        for step in entry["validation"][:2]:
            step["converged"] = False
    for part in (
        results["strategies"]["ovo"]["pairs"]["hardest"],
        results["strategies"]["ovr"]["detection"]["classes"],
        results["decoding"], results["own_c"].values(),
    ):  # fmt: skip
        for entry in part:
            entry["converged"] = False
    points = [
        {"per_class": count, "n_train": 10 * (count or 40), "accuracies": [0.5] * 5,
         "converged": [True] * 3 + [False] * 2, "mean": 0.5, "ci95": [0.4, 0.6]}
        for count in (1, 2, None)
    ]  # fmt: skip
    results["few_shot"] = {
        "draws": 5, "level": 0.95, "near": 0.01, "left_out": [], "notes": [],
        "curves": dict.fromkeys(results["strategies"], points),
        "enough": dict.fromkeys(results["strategies"]),
    }  # fmt: skip


@pytest.mark.figures
def test_what_did_not_converge_is_marked_in_figures_and_tables(tmp_path, results):
    def figures():
        return {path.stem: path.read_text("utf-8") for path in tmp_path.glob("figures/*.svg")}

    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    page = write_report(tmp_path)
    before = figures()
    assert "not converged" not in page.read_text("utf-8")
    assert "not converged" not in page.with_name("report.md").read_text("utf-8")
    mark(results)
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert read_results(tmp_path / "results.json") == results
    write_report(tmp_path)
    after = figures()
    for name in ("accuracy", "decoding", "validation", "few-shot"):
        filled = re.compile(rf"fill: {PAPER}; stroke: #")
        assert len(filled.findall(after[name])) > len(filled.findall(before.get(name, ""))), name
    for name in ("confusion-ovo", "reliability-ovr", "class-f1", "course", "accuracy", "decoding"):
        assert "not converged" in after[name], name
    assert "not all fits converged" in after["few-shot"]
    for document in (page, page.with_name("report.md")):
        text = document.read_text("utf-8")
        # Heads of four tables or more, rows of pairs, classes, decodings, C's and temperatures.
        assert text.count("(not converged)") > 30
        assert text.count("(3 of 5 converged)") == 9
        assert "Hollow marks are fits that did not converge: multinomial 2 of 4 values" in text
        assert "nothing is concluded from it" in text
        assert "unknown, since the fit with all images did not converge" in text


def test_a_run_whose_fits_stop_early_says_so_everywhere(make_store, tmp_path, capsys):
    store = make_store(tmp_path / "f" / "toys" / "toynet-8px-00000000.h5", n=90, d=12, seed=2)
    main(["fit", str(store), f"--reports-dir={tmp_path / 'r'}", "--jobs=1", "--c=100",
          "--max-iter=1", "--no-few-shot"])  # fmt: skip
    (folder,) = next((tmp_path / "r").iterdir()).iterdir()
    results = json.loads((folder / "results.json").read_text("utf-8"))
    ovo, ovr = results["strategies"]["ovo"], results["strategies"]["ovr"]
    assert not ovo["converged"]
    assert not all(way["converged"] for way in results["decoding"])
    assert all(isinstance(pair["converged"], bool) for pair in ovo["pairs"]["hardest"])
    assert {entry["converged"] for entry in ovr["detection"]["classes"]} <= {True, False}
    assert isinstance(ovr["calibration"].get("converged", True), bool)
    assert "did not converge" in capsys.readouterr().err
