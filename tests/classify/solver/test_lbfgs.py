"""The minimiser on problems that have nothing to do with classes, and with each other."""

import functools

import numpy as np
import pytest
from problems_for_tests import blobs, make

from classify.solver import moves
from classify.solver.certificate import certify
from classify.solver.lbfgs import SPAN, _Watch, minimise
from classify.solver.moves import Trials
from classify.solver.preconditioner.sampled import SampledHessian
from classify.solver.solution import Certificate, Status


class Quadratics:
    """`0.5 x' H x - b' x`, one matrix a problem, counting what is evaluated."""

    def __init__(self, matrices, vectors):
        self.matrices, self.vectors = matrices, vectors
        self.n_problems, self.n_parameters = vectors.shape
        self.calls = []

    def evaluate(self, problems, points):
        self.calls.append(list(problems))
        product = np.einsum("kij,kj->ki", self.matrices[problems], points)
        b = self.vectors[problems]
        return ((0.5 * product - b) * points).sum(axis=1), product - b

    def start(self, problems, points, rounding):
        return Trials(self, problems, points, rounding)

    def certify(self, problems, points):
        values, gradients = self.evaluate(problems, points)
        return Certificate(
            points,
            values,
            np.linalg.norm(gradients, axis=1),
            0.5 * (gradients**2).sum(axis=1),
        )


class Identity:
    def due(self, problems, ahead):
        return False

    def apply(self, problems, gradients):
        return gradients.copy()

    def update(self, problems, moves):
        raise AssertionError


def quadratics(seed=0, k=3, d=8, condition=100.0):
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((k, d, d)))[0]
    spectrum = np.logspace(0, np.log10(condition), d)
    return Quadratics(np.einsum("kij,j,klj->kil", q, spectrum, q), rng.standard_normal((k, d)) * 10)


def solve(objective, start=None, **options):
    options = {"tol": 1e-12, "max_iter": 300} | options
    if start is None:
        start = np.zeros((objective.n_problems, objective.n_parameters))
    return minimise(objective.start, start, Identity(), objective.certify, **options)


def test_quadratics_are_solved():
    objective = quadratics()
    solution = solve(objective)
    assert solution.converged
    expected = np.linalg.solve(objective.matrices, objective.vectors[:, :, None])[:, :, 0]
    np.testing.assert_allclose(solution.points, expected, rtol=1e-4, atol=1e-5)
    assert np.all(solution.gap_bound <= 1e-12 * np.abs(solution.objective))


def test_each_problem_iterates_as_it_would_alone():
    together = quadratics(condition=1000)
    together.matrices[1] = np.eye(8)  # done in one step
    solution = solve(together)
    for i in range(3):
        alone = Quadratics(together.matrices[i : i + 1], together.vectors[i : i + 1])
        single = solve(alone)
        assert single.n_iter[0] == solution.n_iter[i]
        np.testing.assert_allclose(single.points[0], solution.points[i], rtol=1e-10)


def test_problems_that_are_done_leave_the_pass():
    objective = quadratics(condition=1000)
    objective.matrices[1] = np.eye(8)
    solve(objective)
    sizes = [len(call) for call in objective.calls]
    assert sizes[0] == 3 and sizes[6] == 2


def test_a_hopeless_problem_does_not_disturb_the_others():
    objective = quadratics()
    before = solve(objective)
    worse = quadratics()
    worse.matrices[1] = np.nan
    after = solve(worse, max_iter=40)
    assert after.status[1] is not Status.CONVERGED
    for i in (0, 2):
        assert after.status[i] is Status.CONVERGED
        np.testing.assert_array_equal(after.points[i], before.points[i])


class Logcosh(Quadratics):
    """`sum log cosh(scale x) + 0.5 |x - b|^2`: flat far away, so that long steps overshoot."""

    def evaluate(self, problems, points):
        self.calls.append(list(problems))
        scale, b = 50.0, self.vectors[problems]
        value = np.logaddexp(scale * points, -scale * points).sum(axis=1)
        value += 0.5 * ((points - b) ** 2).sum(axis=1)
        return value, scale * np.tanh(scale * points) + points - b


def test_line_search_recovers_from_steps_that_are_far_too_long_or_short():
    objective = Logcosh(np.zeros((2, 4, 4)), np.array([[1.0, 200, -300, 0], [60, 0, 0, -90]]))
    for start in (0.3, 1e3, -1e5):
        solution = solve(objective, np.full((2, 4), start), rounding=1e-16)
        assert solution.converged
        _, gradient = objective.evaluate(np.arange(2), solution.points)
        assert np.abs(gradient).max() < 1e-3


def test_max_iter_is_reported_with_the_bound_that_was_reached():
    solution = solve(quadratics(condition=1e4), max_iter=3)
    assert set(solution.status) == {Status.MAX_ITER}
    assert np.all(solution.n_iter == 3)
    assert np.all(solution.gap_bound > 0)
    certificate = solution.certificate()
    assert not certificate["converged"] and certificate["status"] == "MAX_ITER"
    assert certificate["problems"]["status"] == ["MAX_ITER"] * 3


def test_rounding_ends_a_solve_that_asks_for_too_much():
    X, labels = blobs(n=400, dtype=np.float32)
    objective = make("ovr", X, labels, C=10.0)
    preconditioner = SampledHessian(1000, 1000, 1.0)
    preconditioner.attach(objective)
    solution = minimise(
        functools.partial(moves.start, objective),
        np.zeros((objective.n_problems, objective.n_parameters)),
        preconditioner,
        lambda problems, points: certify(objective, problems, points),
        tol=1e-15,
        max_iter=10_000,
        rounding=1e-8,
    )
    assert Status.PRECISION in solution.status
    assert solution.n_iter.max() < 500
    assert np.all(solution.gap_bound <= 1e-6 * solution.objective)


@pytest.mark.parametrize("status", list(Status))
def test_every_status_says_what_it_means(status):
    assert len(status.value.split()) > 5


def test_rounds_ahead_are_guessed_from_the_last_few():
    k, value = 2, np.full(2, 10.0)
    watch = _Watch(np.arange(k), np.full(k, 1e-6), 1e-15, value)
    rates = np.array([1.0, 0.25])  # powers of e a round
    for round_ in range(SPAN + 3):
        half = 10.0 * np.exp(-rates * round_)
        assert watch.stopped(value, half, np.zeros(k, dtype=int), 1000) == [None, None]
        guess = watch.ahead()
        if round_ < SPAN:
            np.testing.assert_array_equal(guess, 0)
        else:
            left = np.log(1e6) - rates * round_
            np.testing.assert_allclose(guess, left / rates, rtol=1e-9)
    watch.keep(np.array([False, True]))
    np.testing.assert_allclose(watch.ahead(), guess[1:])
