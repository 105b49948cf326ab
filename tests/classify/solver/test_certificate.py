"""The bound on the gap: never below the true gap, and tight at the optimum."""

import numpy as np
import pytest
from problems_for_tests import blobs, make
from scipy.optimize import minimize

from classify.solver.certificate import certify

KINDS = ["ovr", "ovo", "softmax", "svm-ovr", "svm-ovo", "code"]


def optimum(objective, problem):
    def value(x):
        f, g = objective.evaluate(np.array([problem]), x[None])
        return f[0], g[0]

    start = np.zeros(objective.n_parameters)
    found = minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    return found.x, found.fun


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_bound_is_above_the_true_gap_anywhere(kind, weighted):
    X, labels = blobs(n=60, d=3, k=3)
    weight = np.random.default_rng(2).uniform(0.1, 3, len(X)) if weighted else None
    objective = make(kind, X, labels, weight=weight)
    best = np.array([optimum(objective, i)[1] for i in range(objective.n_problems)])
    rng = np.random.default_rng(0)
    everything = np.arange(objective.n_problems)
    for scale in (0.0, 1e-3, 0.1, 1.0, 10.0):
        points = rng.standard_normal((objective.n_problems, objective.n_parameters)) * scale
        certificate = certify(objective, everything, points)
        values, gradients = objective.evaluate(everything, certificate.points)
        np.testing.assert_allclose(certificate.objective, values, rtol=1e-10)
        np.testing.assert_allclose(
            certificate.grad_norm, np.linalg.norm(gradients, axis=1), rtol=1e-6, atol=1e-8
        )
        assert np.all(certificate.gap_bound >= (values - best) * (1 - 1e-9) - 1e-9)
        before, _ = objective.evaluate(everything, points)
        assert np.all(values <= before * (1 + 1e-9))  # the intercept has only been improved


@pytest.mark.parametrize("kind", KINDS)
def test_bound_vanishes_at_the_optimum(kind):
    X, labels = blobs(n=60, d=3, k=3)
    objective = make(kind, X, labels)
    everything = np.arange(objective.n_problems)
    points = np.stack([optimum(objective, i)[0] for i in everything])
    certificate = certify(objective, everything, points)
    assert np.all(certificate.gap_bound <= 1e-8 * certificate.objective)


@pytest.mark.parametrize("kind", KINDS)
def test_bound_holds_with_an_intercept_that_was_not_optimised(kind, monkeypatch):
    """With no Newton steps the constraint is far from met, and mass must be moved."""
    monkeypatch.setattr("classify.solver.certificate.NEWTON_STEPS", 0)
    X, labels = blobs(n=60, d=3, k=3)
    objective = make(kind, X, labels)
    everything = np.arange(objective.n_problems)
    optima = [optimum(objective, i) for i in everything]
    best = np.array([o[1] for o in optima])
    for off in (0.01, 0.3, 2.0):
        points = np.stack([o[0] for o in optima])
        objective.split(points)[1][0] += off
        certificate = certify(objective, everything, points)
        gap = certificate.objective - best
        assert gap.max() > 1e-6
        assert np.all(certificate.gap_bound >= gap * (1 - 1e-9) - 1e-9)
        assert np.all(np.isfinite(certificate.gap_bound))
