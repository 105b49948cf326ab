"""Temperature scaling and calibration against scikit-learn's, on random predictions."""

import warnings

import numpy as np
import pytest
import sklearn
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from classify.analysis.calibration import calibration, fit_temperature, judge_calibration
from classify.codings.decisions import logarithms, temper

NEW = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8)


def random_answers(n_classes, n=3000, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) + np.eye(n_classes)[labels]
    return labels, softmax(scale * logits, axis=1)


@pytest.mark.parametrize("n_classes", [2, 3, 12])
@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_the_temperature_has_the_lowest_log_loss(n_classes, scale):
    labels, p = random_answers(n_classes, scale=scale)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_temperature(labels, np.log(p))
    best = minimize_scalar(
        lambda t: log_loss(labels, softmax(np.log(p) / np.exp(t), axis=1)), bounds=(-3, 3),
        options={"xatol": 1e-10},
    )  # fmt: skip
    assert found == pytest.approx(np.exp(best.x), rel=1e-5)


@pytest.mark.skipif(not NEW, reason="scikit-learn's temperature scaling came with 1.8")
@pytest.mark.parametrize("n_classes", [2, 4])
def test_it_is_scikit_learns_temperature_and_its_probabilities(n_classes):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    y = rng.integers(0, n_classes, 900)
    X = rng.normal(size=(900, 5)) + y[:, None] * rng.normal(size=5)
    model = LogisticRegression(C=100).fit(X[:60], y[:60])
    held, test = slice(60, 500), slice(500, 900)
    theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature", ensemble=False)
    theirs.fit(X[held], y[held])
    temperature = fit_temperature(y[held], np.log(model.predict_proba(X[held])))
    ours = temper(model.predict_proba(X[test]), temperature)
    np.testing.assert_allclose(ours, theirs.predict_proba(X[test]), atol=1e-6)


def test_classes_that_no_validation_row_has_do_no_harm():
    labels, p = random_answers(5)
    kept = (labels != 1) & (labels != 4)
    found = fit_temperature(labels[kept], np.log(p[kept]))
    best = minimize_scalar(
        lambda t: log_loss(
            labels[kept], softmax(np.log(p[kept]) / np.exp(t), axis=1), labels=np.arange(5)
        ),
        bounds=(-3, 3), options={"xatol": 1e-10},
    )  # fmt: skip
    assert found == pytest.approx(np.exp(best.x), rel=1e-5)


def test_there_is_none_where_every_row_is_right_or_wrong():
    p = np.array([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    assert fit_temperature(np.array([0, 0, 1]), np.log(p)) is None
    assert fit_temperature(np.array([1, 1, 0]), np.log(p)) is None
    assert fit_temperature(np.array([0, 1, 1]), np.log(p)) > 0
    judged = calibration(np.array([0, 0, 1]), p, None, 3)
    assert judged["after"] is None


def test_probabilities_of_zero_are_survived():
    p = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.1, 0.8, 0.1]])
    found = fit_temperature(np.array([0, 0, 1]), logarithms(p))
    assert np.isfinite(found)
    np.testing.assert_allclose(temper(p, found).sum(axis=1), 1)
    np.testing.assert_array_equal(temper(p, 1.0).argmax(axis=1), [0, 1, 1])


def test_temper_divides_logits():
    logits = np.random.default_rng(0).normal(size=(50, 6))
    expected = np.exp(log_softmax(logits / 2.5, axis=1))
    np.testing.assert_allclose(temper(softmax(logits, axis=1), 2.5), expected)


def test_bins_are_scikit_learns_calibration_curve():
    labels, p = random_answers(4)
    judged = judge_calibration(labels, p)
    right, confidence = p.argmax(axis=1) == labels, p.max(axis=1)
    share, mean = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    np.testing.assert_allclose([b["accuracy"] for b in judged["bins"]], share)
    np.testing.assert_allclose([b["confidence"] for b in judged["bins"]], mean)
    assert sum(b["n"] for b in judged["bins"]) == len(labels)
    gaps = [b["n"] * abs(b["accuracy"] - b["confidence"]) for b in judged["bins"]]
    assert judged["ece"] == pytest.approx(sum(gaps) / len(labels))
    assert judged["log_loss"] == pytest.approx(log_loss(labels, p))
