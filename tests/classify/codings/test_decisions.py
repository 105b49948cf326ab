"""Decisions and probabilities against scikit-learn's and LIBSVM's own definitions."""

import numpy as np
import pytest
from sklearn.utils.multiclass import _ovr_decision_function

from classify.codings.decisions import decide, decision_values, probabilities, problem_sums
from classify.solver.problems import class_pairs, n_heads


def libsvm_multiclass_probability(r):
    """A row at a time, as `multiclass_probability` in LIBSVM's svm.cpp."""
    k = len(r)
    q = np.zeros((k, k))
    p = np.full(k, 1 / k)
    for t in range(k):
        for j in range(k):
            if j != t:
                q[t, t] += r[j, t] ** 2
                q[t, j] = -r[j, t] * r[t, j]
    for _ in range(max(100, k)):
        qp = q @ p
        pqp = p @ qp
        if np.abs(qp - pqp).max() < 0.005 / k:
            break
        for t in range(k):
            diff = (-qp[t] + pqp) / q[t, t]
            p[t] += diff
            pqp = (pqp + diff * (diff * q[t, t] + 2 * qp[t])) / (1 + diff) ** 2
            for j in range(k):
                qp[j] = (qp[j] + diff * q[t, j]) / (1 + diff)
                p[j] /= 1 + diff
    return p


@pytest.mark.parametrize("n_classes", [3, 4, 10, 23])
def test_coupling_is_libsvms(n_classes):
    rng = np.random.default_rng(n_classes)
    pairs = class_pairs(n_classes)
    scores = rng.standard_normal((40, len(pairs))) * rng.choice([0.1, 1, 30], (40, 1))
    found = probabilities("ovo", scores, n_classes)
    for row, p in zip(scores, found, strict=True):
        r = np.zeros((n_classes, n_classes))
        second = np.clip(1 / (1 + np.exp(-row)), 1e-7, 1 - 1e-7)
        r[pairs[:, 1], pairs[:, 0]] = second
        r[pairs[:, 0], pairs[:, 1]] = 1 - second
        np.testing.assert_allclose(p, libsvm_multiclass_probability(r), atol=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_coupling_does_not_depend_on_which_rows_come_together():
    scores = np.random.default_rng(0).standard_normal((5000, 6))
    together = probabilities("ovo", scores, 4)
    np.testing.assert_allclose(together[4321:4323], probabilities("ovo", scores[4321:4323], 4))


def test_coupling_of_consistent_pairs_gives_back_the_probabilities():
    p = np.array([[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]])
    pairs = class_pairs(3)
    odds = np.log(p[:, pairs[:, 1]] / p[:, pairs[:, 0]])
    np.testing.assert_allclose(probabilities("ovo", odds, 3), p, atol=2e-3)


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_one_vs_one_decision_is_scikit_learns(n_classes):
    rng = np.random.default_rng(0)
    scores = np.round(rng.standard_normal((300, len(class_pairs(n_classes)))), 1)
    scores[:5] = 0.0
    expected = _ovr_decision_function((scores > 0).astype(int), scores, n_classes)
    found = decision_values("ovo", scores, n_classes)
    if n_classes == 2:
        np.testing.assert_allclose(found, expected[:, 1], rtol=1e-12)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("strategy", ["multinomial", "ovr", "ovo"])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_decision_is_argmax_even_when_all_scores_are_zero(strategy, n_classes):
    rng = np.random.default_rng(1)
    scores = np.round(rng.standard_normal((200, n_heads(strategy, n_classes))))
    scores[0] = 0.0
    values = decision_values(strategy, scores, n_classes)
    expected = (values > 0).astype(int) if n_classes == 2 else values.argmax(axis=1)
    np.testing.assert_array_equal(decide(strategy, scores, n_classes), expected)
    assert decide(strategy, scores[:1], n_classes)[0] == 0


@pytest.mark.parametrize("strategy", ["multinomial", "ovr", "ovo"])
@pytest.mark.parametrize("level", [0.0, -1e4, 1e4, -1e300])
def test_probabilities_of_extreme_scores_are_finite(strategy, level):
    scores = np.full((2, n_heads(strategy, 3)), level)
    scores[1, 0] += abs(level) * 0.5
    p = probabilities(strategy, scores, 3)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_ovr_probabilities_are_normalised_sigmoids():
    scores = np.array([[0.3, -1.2, 2.0]])
    sigmoid = 1 / (1 + np.exp(-scores))
    np.testing.assert_allclose(probabilities("ovr", scores, 3), sigmoid / sigmoid.sum(), rtol=1e-13)


def test_two_classes_are_one_sigmoid_in_every_strategy():
    scores = np.array([-3.0, 0.0, 800.0])
    for strategy in ("multinomial", "ovr", "ovo"):
        p = probabilities(strategy, scores, 2)
        np.testing.assert_allclose(p[:, 1], [1 / (1 + np.exp(3.0)), 0.5, 1.0])
        np.testing.assert_allclose(p.sum(axis=1), 1)


def test_wrong_shapes_and_names_are_named():
    with pytest.raises(ValueError, match=r"ovo with 4 classes has 6 heads"):
        decide("ovo", np.zeros((2, 4)), 4)
    with pytest.raises(ValueError, match="unknown strategy 'one-vs-all'"):
        n_heads("one-vs-all", 3)


@pytest.mark.parametrize(
    ("strategy", "n_classes"), [("ovr", 4), ("ovo", 4), ("ovr", 2), ("ovo", 2)]
)
def test_problems_are_judged_on_their_own_rows(strategy, n_classes):
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_classes, 90)
    scores = rng.normal(size=(90, n_heads(strategy, n_classes)))
    pairs = class_pairs(n_classes)
    sums = problem_sums(strategy, scores, labels, n_classes)
    for k in range(scores.shape[1]):
        if n_classes == 2:
            mine, truth = np.ones(90, dtype=bool), labels == 1
        elif strategy == "ovr":
            mine, truth = np.ones(90, dtype=bool), labels == k
        else:
            mine, truth = np.isin(labels, pairs[k]), labels == pairs[k, 1]
        truth, score = truth[mine], scores[mine, k]
        assert sums.n_rows[k] == len(truth)
        assert sums.n_right[k] == ((score > 0) == truth).sum()
        expected = log_loss(truth, 1 / (1 + np.exp(-score)), normalize=False)
        assert sums.loss[k] == pytest.approx(expected)
    first, second = (
        problem_sums(strategy, scores[part], labels[part], n_classes)
        for part in (slice(0, 40), slice(40, 90))
    )
    np.testing.assert_array_equal((first + second).n_rows, sums.n_rows)
    np.testing.assert_array_equal((first + second).n_right, sums.n_right)
    np.testing.assert_allclose((first + second).loss, sums.loss)
