"""Linear discriminant analysis next to scikit-learn's."""

import numpy as np
import pytest
from clusters_for_tests import CONTEXT, clusters, row_set
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

from classify.heads import class_covariance as module
from classify.heads import moments
from classify.heads.class_covariance import class_covariance
from classify.heads.lda import LEDOIT_WOLF, Lda
from classify.solver.threads import workers

KIND = Lda("lda")
SHAPES = [(400, 30, 4), (60, 90, 3), (300, 20, 2)]


def theirs(X, y, shrinkage):
    shrinkage = "auto" if shrinkage == LEDOIT_WOLF else shrinkage
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, y)


def log_softmax(scores):
    if scores.ndim == 1:
        scores = np.stack([0 * scores, scores], axis=1)
    return scores - logsumexp(scores, axis=1, keepdims=True)


@pytest.fixture(
    params=[
        "blocks of many classes",
        "a class in many blocks",
        "a class in many blocks, read twice",
    ]
)
def small_blocks(request, monkeypatch):
    """Have classes that share a block, and such that have several."""
    if request.param == "a class in many blocks, read twice":
        monkeypatch.setattr(module, "KEPT_BYTES", 0)
    if request.param.startswith("a class in many blocks"):
        monkeypatch.setattr(moments, "FEWEST_ROWS", 16)
        monkeypatch.setattr(moments, "MOST_ROWS", 16)


@pytest.mark.parametrize("n, d, n_classes", SHAPES)
def test_every_shrinkage_is_scikit_learns(n, d, n_classes, small_blocks):
    X, y = clusters(n, d, n_classes)
    y[y == 0] = np.where(np.arange((y == 0).sum()) % 3, 0, 1)  # classes of different sizes
    rows = row_set(X, y)
    path = list(KIND.path(rows, rows, KIND.grid(rows), CONTEXT))
    assert path[0].setting["shrinkage"] == LEDOIT_WOLF
    for head in path:
        model = theirs(X, y, head.setting["shrinkage"])
        one = KIND.fit(rows, head.setting, CONTEXT)
        for mine in (head, one):
            answers = mine.answers(X)
            np.testing.assert_array_equal(answers.values.argmax(axis=1), model.predict(X))
            logs = log_softmax(model.decision_function(X))
            np.testing.assert_allclose(answers.log_probabilities, logs, atol=1e-6, rtol=1e-6)


def test_shrinkages_are_those_of_each_class(small_blocks):
    X, y = clusters(150, 40, 3)
    with workers(2) as pool:
        found = class_covariance(row_set(X, y), pool)
    for k in range(3):
        rows = StandardScaler().fit_transform(X[y == k])
        assert found.shrinkages[k] == pytest.approx(ledoit_wolf_shrinkage(rows), rel=1e-9)


def test_rows_that_are_alike_within_classes_are_told_apart_by_their_means():
    X = np.array([[0.0, 1.0], [0.0, 1.0], [5.0, 1.0], [5.0, 1.0], [9.0, 1.0]])
    y = np.array([0, 0, 1, 1, 2])
    rows = row_set(X, y)
    for setting in KIND.grid(rows):
        answers = KIND.fit(rows, setting, CONTEXT).answers(X)
        np.testing.assert_array_equal(answers.values.argmax(axis=1), y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies_of_one_row_a_class_leave_no_covariance(dtype):
    centres = np.random.default_rng(0).normal(size=(3, 7)).astype(dtype)
    y = np.arange(600) % 3
    rows = row_set(centres[y], y)
    answers = [KIND.fit(rows, setting, CONTEXT).answers(centres) for setting in KIND.grid(rows)]
    for found in answers:
        np.testing.assert_allclose(found.values, answers[0].values, rtol=1e-5)
        np.testing.assert_array_equal(found.values.argmax(axis=1), [0, 1, 2])


def test_the_module_cuts_groups_by_blocks(monkeypatch):
    monkeypatch.setattr(moments, "FEWEST_ROWS", 20)
    monkeypatch.setattr(moments, "MOST_ROWS", 20)
    y = np.repeat([0, 1, 2, 4], [8, 8, 30, 5])
    groups = list(module._groups(row_set(np.zeros((51, 2)), y, n_classes=6), np.dtype(float)))
    assert [sorted(set(y[rows])) for rows in groups] == [[0, 1], [2], [4]]
