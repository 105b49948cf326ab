"""What one answer alone would score, classes never answered, and two classes as one problem."""

import json

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.__main__ import main
from classify.analysis.evaluate import majority, never_answered
from classify.report.comparison import compare
from classify.report.runs import read_results
from classify.wording import answer_warnings, headline


def fit(store, reports, *options):
    main(["fit", str(store), f"--reports-dir={reports}", "--jobs=1", "--no-few-shot", *options])
    (folder,) = next(reports.iterdir()).iterdir()
    return folder, read_results(folder / "results.json")


def test_the_majority_is_that_of_scikit_learns_dummy():
    rng = np.random.default_rng(0)
    for _ in range(20):
        k = int(rng.integers(2, 9))
        train, test = rng.integers(0, k, 50), rng.integers(0, k, 30)
        dummy = DummyClassifier(strategy="most_frequent").fit(np.zeros((50, 1)), train)
        found = majority(train, test, [f"c{i}" for i in range(k)])
        assert found["class"] == f"c{dummy.predict([[0]])[0]}"
        assert found["test_accuracy"] == pytest.approx(dummy.score(np.zeros((30, 1)), test))
        assert found["train_share"] == np.bincount(train).max() / 50


def test_classes_never_answered():
    names = ["a", "b", "c", "d", "e"]
    found = never_answered(np.array([0, 1, 2]), np.array([0, 3]), np.array([0, 0, 1]), names)
    assert found == ["c", "d"]  # of e there are no rows at all


def test_warnings_name_strategies_and_classes_once():
    def entry(missing, accuracy):
        per_class = {name: {"support": i} for i, name in enumerate("abcdefgh")}
        return {"never_answered": missing, "test": {"per_class": per_class, "accuracy": accuracy}}

    always = {"class": "a", "test_accuracy": 0.9}
    strategies = {"multinomial": entry([], 0.95), "ovr": entry(["b"], 0.9), "ovo": entry(["b"], 1)}
    assert answer_warnings(strategies, always, set("abcdefgh")) == [
        "OvR and OvO never answer with this class: b (1 test image).",
        "Always answering a, the most frequent class in training, scores 90.00 %; OvR is no "
        "better.",
    ]
    many = {"ovo": entry(list("bcdefgh"), 0.95)}
    assert answer_warnings(many, always, set("abcdefg")) == [
        "OvO never answers with these classes: b (1 test image), c (2 test images), d (3 test "
        "images), e (4 test images), f (5 test images) and 1 more."
    ]


def test_one_in_a_thousand(make_store, tmp_path, capsys):
    train, test = np.zeros(4004, int), np.zeros(2002, int)
    train[:4] = test[:2] = 1
    train[2000:], test[1000:] = 2, 2
    names = ("common", "rare", "other")
    store = make_store(
        tmp_path / "f" / "x" / "toy-8px-00000000.h5", names=names, d=3, seed=3,
        labels_train=train, labels_test=test,
    )  # fmt: skip
    folder, results = fit(store, tmp_path / "r", "--c=0.001")
    told = capsys.readouterr().err
    answers = np.load(folder / "predictions.npz")
    for name, entry in results["strategies"].items():
        assert not (answers[f"{name}_predictions"] == 1).any()
        assert entry["never_answered"] == ["rare"]
    share = np.mean(test == 2)
    assert results["majority"]["class"] == "other"
    assert results["majority"]["test_accuracy"] == pytest.approx(share)
    warning = "Multinomial, OvR and OvO never answer with this class: rare (2 test images)."
    assert warning in results["warnings"]
    assert warning in told
    assert f"always other                {100 * share:.2f}"[:12] in told
    for document in ("report.html", "report.md"):
        text = (folder / document).read_text("utf-8")
        assert warning in text
        assert "classes never answered" in text
        assert text.count(f"{100 * share:.2f}") >= 4
    _, comparison, board = compare([folder], tmp_path / "out")
    assert {row["never_answered"] for row in comparison["leaderboard"]} == {1}
    assert "majority %" in board
    assert f"{100 * share:.2f}" in board
    for document in ("report.html", "report.md"):
        text = (tmp_path / "out" / "comparison" / document).read_text("utf-8")
        assert "1 class never answered" in text
        assert text.count(f"{100 * share:.2f}") >= 3


def test_two_classes_are_one_problem_and_scikit_learns():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 5))
    y = (X[:, 0] + rng.normal(size=80) > 0).astype(int)
    theirs = LogisticRegression(C=0.7, tol=1e-10, max_iter=10_000).fit(X, y)
    fits = [
        make(0.7, tol=1e-10).fit(X, y)
        for make in (MultinomialLogistic, OneVsRestLogistic, OneVsOneLogistic)
    ]
    for ours in fits:
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
        np.testing.assert_array_equal(ours.coef_, fits[0].coef_)
        np.testing.assert_array_equal(ours.predict_proba(X), fits[0].predict_proba(X))
    # A softmax with two penalised heads, which neither of us fits, would be the same at twice C.
    w = theirs.coef_[0]
    assert np.sum((w / 2) ** 2) + np.sum((-w / 2) ** 2) == pytest.approx(np.sum(w**2) / 2)


@pytest.mark.figures
@pytest.mark.parametrize("names", [("no", "yes"), ("no", "yes", "never trained")])
def test_two_classes_are_not_compared_with_themselves(make_store, tmp_path, names):
    rng = np.random.default_rng(1)
    store = make_store(
        tmp_path / "f" / "x" / "toy-8px-00000000.h5", names=names,
        labels_train=rng.integers(0, 2, 120), labels_test=rng.integers(0, len(names), 60),
    )  # fmt: skip
    heads = [f"--head={name}" for name in ("multinomial", "ovr", "ovo")]
    folder, results = fit(store, tmp_path / "r", "--c-grid=0.01,1,100", *heads)
    assert results["one_problem"] is True
    assert results["comparisons"] == []
    first, *others = results["strategies"].values()
    for entry in others:
        for key in ("C", "n_iter", "test", "validation", "never_answered"):
            assert entry[key] == first[key]
    said = "With two classes, multinomial, OvR and OvO are one and the same problem"
    assert results["verdict"].startswith(said)
    for document in ("report.html", "report.md"):
        text = (folder / document).read_text("utf-8")
        assert text.count("one and the same problem") == 1
        assert "Is any of it more than chance" not in text
        assert "OvR − OvO" not in text
        assert "answer alike" not in text
    assert not (folder / "figures" / "class-f1.svg").exists()


def test_one_strategy_of_two_classes_is_alone(make_store, tmp_path):
    rng = np.random.default_rng(1)
    store = make_store(
        tmp_path / "f" / "x" / "toy-8px-00000000.h5", names=("no", "yes"),
        labels_train=rng.integers(0, 2, 120), labels_test=rng.integers(0, 2, 60),
    )  # fmt: skip
    _, results = fit(store, tmp_path / "r", "--c=1", "--strategy=ovo")
    assert results["one_problem"] is False
    assert "there is one head: OvO reaches" in results["verdict"]


def test_runs_of_two_classes_are_compared_once(make_run, tmp_path):
    for i in range(2):
        run = make_run(
            tmp_path / f"r{i}", key=f"{i}" * 64, model=f"m{i}", names=["no", "yes"], seed=i
        )
        if i:  # the other one is older, and does not say so itself
            run |= {
                "one_problem": True,
                "comparisons": [],
                "verdict": headline(run["strategies"], []),
            }
            (tmp_path / f"r{i}" / "results.json").write_text(json.dumps(run))
    _, comparison, _ = compare([], tmp_path)
    assert comparison["ovr_ovo"] == []
    assert len(comparison["one_problem"]) == 2
    assert [pair["strategy"] for pair in comparison["backbones"]] == ["multinomial"]
    assert comparison["verdict"].startswith(
        "m0 128 px and m1 128 px: two classes, with which multinomial, OvR and OvO are one and the "
        "same problem, so they are not compared."
    )
