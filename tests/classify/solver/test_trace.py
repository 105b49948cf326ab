"""The trace of a fit, iteration by iteration, and problems that each have a C of their own."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.solver.backend import open_fitter
from classify.solver.threads import workers


@pytest.mark.parametrize("estimator", [MultinomialLogistic, OneVsRestLogistic, OneVsOneLogistic])
def test_the_hardest_problem_is_followed_from_its_start_to_its_certificate(estimator):
    X, y = load_digits(return_X_y=True)
    fitted = estimator(0.1, n_jobs=1).fit(X, y)
    certificate = fitted.certificate_
    hardest, problems = certificate["hardest"], certificate["problems"]
    k = hardest["problem"]
    assert problems["n_iter"][k] == max(problems["n_iter"])
    assert hardest["objective"] == problems["objective"][k]
    gaps = np.array(hardest["gaps"])
    assert len(gaps) > problems["n_iter"][k]
    assert (np.diff(gaps) <= 1e-9 * hardest["objective"]).all()
    assert gaps[-1] <= 2 * certificate["relative_gap"] * hardest["objective"]
    # The first value is that of the base rates.
    if estimator is OneVsRestLogistic:
        share = (y == k).mean()
        entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
        start = gaps[0] + hardest["objective"] - problems["gap_bound"][k]
        assert start == pytest.approx(0.1 * len(y) * entropy)


@pytest.mark.parametrize("device", ["cpu", "torch-cpu"])
def test_every_problem_may_have_a_c_of_its_own(device):
    X, y = load_digits(n_class=4, return_X_y=True)
    X = X / 16
    own = np.array([0.01, 1.0, 0.1, 10.0])
    with workers(1) as pool:
        head, solution = open_fitter(device, "ovr", X, y, 4, pool).solve(
            own, tol=1e-9, max_iter=500
        )
    assert solution.converged
    for k, C in enumerate(own):
        peer = LogisticRegression(C=C, tol=1e-10, max_iter=5000).fit(X, y == k)
        np.testing.assert_allclose(head.coef[k], peer.coef_[0], atol=2e-3)
    if device == "cpu":
        with workers(1) as pool:
            one, _ = open_fitter(device, "ovr", X, (y == 1).astype(int), 2, pool).solve(
                own[1:2], tol=1e-9, max_iter=500
            )
        np.testing.assert_allclose(one.coef[0], head.coef[1], atol=2e-3)
