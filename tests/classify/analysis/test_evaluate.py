import json
import warnings

import numpy as np
import pytest
from sklearn import metrics

from classify.analysis.evaluate import (
    brier_score,
    evaluate,
    expected_calibration_error,
    top_k_accuracy,
    wilson_interval,
)


def random_answers(n_samples, n_classes, seed, classes_in_test=None):
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes_in_test or n_classes, size=n_samples)
    logits = rng.normal(size=(n_samples, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return labels, probabilities.argmax(axis=1), probabilities


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # R: prop.test(x, n, correct = FALSE)$conf.int
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
    ],
)
def test_wilson_interval_known_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_agree_with_scikit_learn(n_classes, seed):
    labels, answers, probabilities = random_answers(500, n_classes, seed)
    names = [f"class {i}" for i in range(n_classes)]
    got = evaluate(labels, answers, probabilities, names)
    assert got["n"] == 500
    assert got["accuracy"] == pytest.approx(metrics.accuracy_score(labels, answers))
    assert got["balanced_accuracy"] == pytest.approx(
        metrics.balanced_accuracy_score(labels, answers)
    )
    assert got["macro_f1"] == pytest.approx(metrics.f1_score(labels, answers, average="macro"))
    assert got["log_loss"] == pytest.approx(metrics.log_loss(labels, probabilities))
    assert got["confusion_matrix"] == metrics.confusion_matrix(labels, answers).tolist()
    if n_classes > 2:
        assert got["top2_accuracy"] == pytest.approx(
            metrics.top_k_accuracy_score(labels, probabilities, k=2)
        )
    report = metrics.classification_report(
        labels, answers, target_names=names, output_dict=True, zero_division=0
    )
    for name in names:
        assert got["per_class"][name]["precision"] == pytest.approx(report[name]["precision"])
        assert got["per_class"][name]["recall"] == pytest.approx(report[name]["recall"])
        assert got["per_class"][name]["f1"] == pytest.approx(report[name]["f1-score"])
        assert got["per_class"][name]["support"] == report[name]["support"]
    low, high = got["accuracy_ci95"]
    assert low < got["accuracy"] < high


@pytest.mark.parametrize("n_classes", [2, 5])
def test_brier_score_is_scikit_learns_without_halving(n_classes):
    labels, _, probabilities = random_answers(300, n_classes, 3)
    by_hand = np.mean(
        [
            np.sum((p - np.eye(n_classes)[y]) ** 2)
            for y, p in zip(labels, probabilities, strict=True)
        ]
    )
    assert brier_score(labels, probabilities) == pytest.approx(by_hand)
    if n_classes == 2:
        # For two classes the textbook's one-sided score is half of the original.
        assert brier_score(labels, probabilities) == pytest.approx(
            2 * metrics.brier_score_loss(labels, probabilities[:, 1])
        )


def test_calibration_error_by_hand():
    # Confidences 0.9, 0.9 (bin 14), 0.6 (bin 9), 0.55 (bin 9 of 15: (8/15, 9/15]).
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.45, 0.55]])
    labels = np.array([0, 1, 1, 1])
    # First bin: accuracy 1/2 against 0.9; second: accuracy 1 against 0.575; two rows of four each.
    assert expected_calibration_error(labels, probabilities) == pytest.approx(
        0.5 * 0.4 + 0.5 * 0.425
    )


def test_calibration_error_against_a_plain_loop():
    labels, _, probabilities = random_answers(400, 4, 5)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(labels, probabilities) == pytest.approx(expected)


def test_calibration_of_certainty():
    certain = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert expected_calibration_error(np.array([0, 1]), certain) == 0.0
    assert expected_calibration_error(np.array([1, 0]), certain) == 1.0


def test_top_two_of_two_classes_is_certain():
    labels, _, probabilities = random_answers(50, 2, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert top_k_accuracy(labels, probabilities) == 1.0


def test_classes_absent_from_the_test_set_break_nothing():
    labels, answers, probabilities = random_answers(200, 5, 7, classes_in_test=[0, 2, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = evaluate(labels, answers, probabilities, list("abcde"))
    present = [np.mean(answers[labels == c] == c) for c in (0, 2, 3)]
    assert got["balanced_accuracy"] == pytest.approx(np.mean(present))
    assert got["per_class"]["b"]["support"] == 0
    assert got["per_class"]["b"]["f1"] == 0.0
    assert len(got["confusion_matrix"]) == 5
    assert got["macro_f1"] == pytest.approx(
        metrics.f1_score(labels, answers, average="macro", zero_division=0)
    )
    json.dumps(got, allow_nan=False)


def test_certain_and_wrong_gives_a_finite_log_loss():
    got = evaluate(
        np.array([0, 1]), np.array([1, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), ["a", "b"]
    )
    assert np.isfinite(got["log_loss"])
    assert got["brier"] == 1.0
    json.dumps(got, allow_nan=False)


def test_single_precision_probabilities_leak_no_warning():
    labels, answers, probabilities = random_answers(200, 10, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = evaluate(
            labels, answers, (probabilities * (1 + 1e-6)).astype(np.float32), list("abcdefghij")
        )
    assert got["log_loss"] == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-5)
