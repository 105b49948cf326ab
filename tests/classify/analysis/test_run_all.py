"""What a report shows beyond the metrics, against scikit-learn, scipy and slow counting."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score, roc_curve

from classify import OneVsOneLogistic
from classify.__main__ import main
from classify.analysis.decoding import WAYS, compare_ways, values_of
from classify.analysis.own_c import judge, refit
from classify.analysis.pairwise import EXAMPLES, HARDEST, judge_classes, judge_pairs
from classify.analysis.views import class_order, two_views
from classify.codings.decisions import pair_answers
from classify.linear_head import LinearHead
from classify.scoring import HeldOut
from classify.solver.problems import class_pairs


def blobs(n_classes=5, n=400, d=6, seed=0, spread=0.8):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    centres = np.random.default_rng(99).normal(size=(n_classes, d))
    return spread * centres[y] + rng.normal(size=(n, d)), y


@pytest.fixture(scope="module")
def pairs():
    """One-vs-one heads of classes 0, 2, 3 and 4, none of class 1."""
    X, y = blobs()
    X, y = X[y != 1], y[y != 1]
    model = OneVsOneLogistic(C=0.1, n_jobs=1).fit(X, y)
    return model, LinearHead(model.coef_, model.intercept_)


def slow_values(way, row, n_classes):
    votes, margins = np.zeros(n_classes), np.zeros(n_classes)
    for score, (a, b) in zip(row, class_pairs(n_classes), strict=True):
        votes[b if score > 0 else a] += 1
        margins[a] -= score
        margins[b] += score
    if way == "votes":
        return votes
    if way == "summed margins":
        return margins
    return votes + margins / (3 * (np.abs(margins) + 1))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "coupling"])
def test_values_are_those_of_slow_counting(way):
    scores = np.random.default_rng(0).normal(size=(40, 10))
    scores[0] = 0.0
    expected = [slow_values(way, row, 5) for row in scores]
    found = values_of(pair_answers(scores, 5))[WAYS.index(way)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_ways_are_judged_by_accuracy_and_log_loss(pairs):
    model, head = pairs
    known = model.classes_
    X, y = blobs(seed=1)
    X_held, y_held = blobs(seed=2)
    rows = np.flatnonzero(y_held != 1)
    held_out = HeldOut(X_held, rows, np.searchsorted(known, y_held[rows]), head)
    answers = pair_answers(head.scores(X), 4)
    found = {way["way"]: way for way in compare_ways(answers, y, known, held_out, 5)}
    assert list(found) == list(WAYS)
    usual = found["votes and confidence"]
    assert usual["accuracy"] == np.mean(model.predict(X) == y)
    coupled = model.predict_proba(X)
    assert found["coupling"]["accuracy"] == np.mean(known[coupled.argmax(axis=1)] == y)
    for way, entry in found.items():
        values = values_of(answers)[WAYS.index(way)]
        logs = log_softmax(values / entry["temperature"], axis=1)
        chances = np.zeros((len(y), 5))
        chances[:, known] = np.exp(logs)
        assert entry["log_loss"] == pytest.approx(log_loss(y, chances, labels=range(5)))
        low, high = entry["accuracy_ci95"]
        assert low < entry["accuracy"] < high
    without = compare_ways(answers, y, known, None, 5)
    assert all(way["temperature"] is None for way in without)


def test_pairs_are_judged_on_the_test_rows_of_their_classes(pairs):
    model, head = pairs
    known = model.classes_
    X, y = blobs(seed=1)
    ids = [f"image {i}" for i in range(len(y))]
    found = judge_pairs(X, y, ids, head, known)
    assert found["classes"] == [0, 2, 3, 4]
    assert [len(row) for row in found["accuracy"]] == [3, 2, 1]
    flat, slow = np.concatenate(found["accuracy"]), []
    for k, (a, b) in enumerate(class_pairs(4)):
        mine = np.isin(y, known[[a, b]])
        positive = X[mine] @ model.coef_[k] + model.intercept_[k] > 0
        slow.append(np.mean(known[np.where(positive, b, a)] == y[mine]))
    np.testing.assert_allclose(flat, slow)
    hardest = found["hardest"]
    assert len(hardest) <= HARDEST
    assert [pair["accuracy"] for pair in hardest] == sorted(flat[flat < 1])[: len(hardest)]
    for pair in hardest:
        assert pair["errors"] == pair["a_as_b"] + pair["b_as_a"]
        assert pair["accuracy"] == pytest.approx(1 - pair["errors"] / pair["n"])
        k = [tuple(known[list(p)]) for p in class_pairs(4)].index((pair["a"], pair["b"]))
        margins = [example["margin"] for example in pair["examples"]]
        assert len(margins) == min(EXAMPLES, pair["errors"])
        assert margins == sorted(margins, reverse=True)
        for example in pair["examples"]:
            assert example["id"] == f"image {example['row']}"
            assert y[example["row"]] == example["truth"] != example["answer"]
            score = X[example["row"]] @ model.coef_[k] + model.intercept_[k]
            assert example["answer"] == (pair["b"] if score > 0 else pair["a"])
            assert example["margin"] == pytest.approx(abs(score))


def test_detection_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 500)
    labels[labels == 2] = 3  # a class without a test row
    scores = rng.normal(size=(500, 4)) + 1.5 * np.eye(4)[labels]
    found = judge_classes(labels, scores, np.arange(4))
    assert sorted(entry["class"] for entry in found["classes"]) == [0, 1, 3]
    precisions = [entry["average_precision"] for entry in found["classes"]]
    assert precisions == sorted(precisions)
    for entry, curve in zip(found["classes"], found["curves"], strict=True):
        truth, score = labels == entry["class"], scores[:, entry["class"]]
        assert entry["auc"] == pytest.approx(roc_auc_score(truth, score))
        assert entry["average_precision"] == pytest.approx(average_precision_score(truth, score))
        false, hits, _ = roc_curve(truth, score, drop_intermediate=False)
        for alarm, hit in zip(found["false_alarms"], curve, strict=True):
            assert hit == hits[false <= alarm].max()


@pytest.mark.parametrize("strategy", ["ovr", "ovo"])
def test_refit_at_one_c_for_all_is_the_shared_fit(strategy):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    X, y = blobs(n_classes=4)
    n_heads = 6 if strategy == "ovo" else 4
    own = np.logspace(-2, 1, n_heads)
    start = LinearHead(np.zeros((n_heads, 6)), np.zeros(n_heads))
    head, solution = refit(strategy, X, y, own, start, n_jobs=1, memory=None, device="cpu")
    assert solution.converged
    scores = []
    for k, C in enumerate(own):
        a, b = class_pairs(4)[k] if strategy == "ovo" else (None, k)
        mine = np.isin(y, (a, b)) if strategy == "ovo" else np.ones(len(y), dtype=bool)
        # All rows are standardised together.
        Z = StandardScaler().fit(X).transform(X)
        model = LogisticRegression(C=C, tol=1e-8).fit(Z[mine], y[mine] == b)
        scores.append(model.decision_function(Z))
    np.testing.assert_allclose(head.scores(X), np.transpose(scores), atol=0.2)
    entry = judge(strategy, X, y, head, np.arange(4))
    assert 0.5 < entry["accuracy"] <= 1


def test_neighbours_are_those_that_are_taken_for_each_other():
    counts = 50 * np.eye(6, dtype=np.int64)
    for a, b in ((0, 3), (1, 5), (2, 4)):
        counts[a, b], counts[b, a] = 30, 10
    order = class_order([counts, counts])
    assert sorted(order) == list(range(6))
    assert {frozenset(order[i : i + 2]) for i in (0, 2, 4)} == {
        frozenset(pair) for pair in ((0, 3), (1, 5), (2, 4))
    }
    assert class_order([np.eye(2)]) == [0, 1]
    assert sorted(class_order([np.zeros((5, 5), dtype=int)])) == list(range(5))


def test_views_are_scikit_learns_projections():
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.preprocessing import StandardScaler

    X, y = blobs(d=8)
    X_test, y_test = blobs(d=8, seed=1, n=60)
    found = two_views(X, y, X_test, y_test, 0)
    assert found["rows"] == list(range(60))
    assert found["labels"] == y_test.tolist()
    scaler = StandardScaler().fit(X)
    Z, Z_test = scaler.transform(X), scaler.transform(X_test)
    # All eight components are kept, so LDA is that of the features themselves.
    for kind, peer in (("pca", PCA(2)), ("lda", LinearDiscriminantAnalysis(n_components=2))):
        expected = (peer.fit(Z, y) if kind == "lda" else peer.fit(Z)).transform(Z_test)
        points = np.array(found[kind]["points"])
        for axis in range(2):
            assert abs(np.corrcoef(points[:, axis], expected[:, axis])[0, 1]) > 0.9999
        np.testing.assert_allclose(
            found[kind]["explained"], peer.explained_variance_ratio_[:2], rtol=1e-6
        )


def test_views_of_two_classes_of_many_rows_and_of_too_little():
    X, y = blobs(n_classes=2, n=7000)
    found = two_views(X, y, X, y, seed=2**40)
    assert found["n_fitted"] == 5000
    assert len(found["rows"]) == len(found["lda"]["points"]) == 2000
    assert len(found["lda"]["explained"]) == 1
    assert found == two_views(X, y, X, y, seed=2**40)
    assert two_views(X[:, :1], y, X[:, :1], y, seed=0) is None
    assert two_views(X[:3], np.array([0, 1, 1]), X, y, seed=0) is None


def test_the_same_seed_gives_the_same_results_but_for_timings(tmp_path, make_store):
    store = make_store(tmp_path / "features" / "toys" / "toynet-8px-00000000.h5", dataset="toys")

    def results():
        folder = tmp_path / "reports"
        main(["fit", str(store), "--reports-dir", str(folder), "--jobs", "1", "--seed", "3",
              "--c-grid", "0.01,0.1,1"])  # fmt: skip
        (run,) = folder.glob("*/*/results.json")
        found = json.loads(run.read_text())
        run.parent.rename(tmp_path / run.parent.name)
        assert found.pop("timings")
        for entry in found["strategies"].values():
            assert entry.pop("fit_seconds") > 0
            assert entry.pop("predict_seconds") > 0
        return found

    first = results()
    assert first["decoding"] and first["own_c"] and first["views"]
    hardest, *_ = first["strategies"]["ovo"]["pairs"]["hardest"]
    assert hardest["examples"][0]["id"].startswith("test:")
    assert first == results()
