"""The next fit of a path starts where the last few heads point to."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from classify.linear_head import LinearHead
from classify.selection import PATH_TOL, select_C
from classify.warm_starts import MOST_NUMBERS, RecentHeads, weights_ahead


def head(value, size=3):
    return LinearHead(np.full((2, size), float(value)), np.full(2, -float(value)))


def course(curve, values):
    found = RecentHeads()
    for C in values:
        found.add(C, head(curve(np.log(C))))
    return found


def test_weights_carry_polynomials_on():
    places = np.array([-1.0, 0.5, 1.0])
    weights = weights_ahead(places, 2.0)
    assert weights.sum() == pytest.approx(1)
    for power in (1, 2):
        assert weights @ places**power == pytest.approx(2.0**power)


def test_even_steps_have_the_known_weights():
    np.testing.assert_allclose(weights_ahead(np.arange(3.0), 3.0), [1, -3, 3])
    np.testing.assert_allclose(weights_ahead(np.arange(2.0), 2.0), [-1, 2])


def test_three_heads_give_a_parabola_in_log_C():
    def curve(t):
        return 2 + 3 * t - t**2

    found = course(curve, [1e-9, 0.01, 0.1, 1.0]).predict(10.0)  # only the last three count
    np.testing.assert_allclose(found.coef, curve(np.log(10.0)))
    np.testing.assert_allclose(found.intercept, -curve(np.log(10.0)))


def test_fewer_heads_give_a_line_the_head_itself_or_nothing():
    def line(t):
        return 5 * t

    np.testing.assert_allclose(course(line, [0.1, 1.0]).predict(10.0).coef, 5 * np.log(10.0))
    assert course(line, [0.1]).predict(10.0).coef[0, 0] == line(np.log(0.1))
    assert RecentHeads().predict(1.0) is None


def test_uneven_steps_use_fewer_heads():
    def bent(t):
        return t**2

    # Two values close together say little of what is far from them.
    assert course(bent, [1e-6, 1.0, 1.01]).predict(100.0).coef[0, 0] == bent(np.log(1.01))
    # The last two may do where three would not.
    found = course(bent, [0.0999, 0.1, 1.0]).predict(10.0).coef[0, 0]
    assert found == pytest.approx(2 * bent(0.0) - bent(np.log(0.1)))


def test_values_whose_logarithms_are_the_same_are_not_divided_by():
    found = course(lambda t: t + 1, [1e300, np.nextafter(1e300, np.inf)])
    assert found.predict(1e301).coef[0, 0] == pytest.approx(np.log(1e300) + 1)


def test_what_overflows_is_not_used():
    found = RecentHeads()
    for C, value in ((0.1, -1e308), (1.0, 1e308)):
        found.add(C, head(value))
    assert found.predict(10.0).coef[0, 0] == 1e308


def test_large_heads_are_not_kept():
    found = RecentHeads()
    for C, value in ((0.1, 1.0), (1.0, 2.0)):
        coef = np.broadcast_to(np.float64(value), (2, MOST_NUMBERS))
        found.add(C, LinearHead(coef, np.full(2, value)))
    assert found.predict(10.0).intercept[0] == 2.0


@pytest.mark.parametrize("strategy", ["multinomial", "ovr", "ovo"])
def test_a_path_takes_fewer_iterations_to_the_same_answers(strategy, monkeypatch):
    X, y = load_digits(return_X_y=True)
    grid = np.logspace(-4, 0, 13)
    predicted = select_C(strategy, X, y, grid=grid, full_path=True).path
    monkeypatch.setattr("classify.warm_starts.POINTS", 1)  # from the last heads as they are
    last = select_C(strategy, X, y, grid=grid, full_path=True).path
    assert sum(one["n_iter"] for one in predicted) < 0.8 * sum(one["n_iter"] for one in last)
    for one, other in zip(predicted, last, strict=True):
        assert one["converged"]
        assert one["log_loss"] == pytest.approx(other["log_loss"], rel=30 * PATH_TOL)
