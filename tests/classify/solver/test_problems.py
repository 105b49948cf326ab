"""Values, gradients and Hessian products against formulas and finite differences."""

import numpy as np
import pytest
from problems_for_tests import blobs, hessian_product, make, naive

from classify.solver.design import (
    DesignMatrix,
    column_sums,
    mean_and_scale,
    thin_back,
    thin_product,
)
from classify.solver.losses import logistic, softmax
from classify.solver.threads import Workers

KINDS = ["ovr", "ovo", "softmax", "svm-ovr", "svm-ovo", "code"]


def some_points(objective, seed=0, scale=0.3):
    rng = np.random.default_rng(seed)
    shape = (objective.n_problems, objective.n_parameters)
    return rng.standard_normal(shape) * scale, rng.standard_normal(shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_the_formulas(kind, weighted):
    X, labels = blobs()
    weight = np.random.default_rng(3).uniform(0, 2, len(X)) if weighted else None
    objective = make(kind, X, labels, weight=weight)
    points, _ = some_points(objective)
    values, _ = objective.evaluate(np.arange(objective.n_problems), points)
    expected = [
        naive(kind, X, labels, point, problem, weight=weight)
        for problem, point in enumerate(points)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_finite_differences_and_their_slopes_the_hessians(kind, weighted):
    X, labels = blobs()
    weight = np.random.default_rng(3).uniform(0, 2, len(X)) if weighted else None
    objective = make(kind, X, labels, weight=weight)
    everything = np.arange(objective.n_problems)
    points, direction = some_points(objective)
    h = 1e-5
    above, gradient_above = objective.evaluate(everything, points + h * direction)
    below, gradient_below = objective.evaluate(everything, points - h * direction)
    _, gradient = objective.evaluate(everything, points)
    np.testing.assert_allclose(
        (gradient * direction).sum(axis=1), (above - below) / (2 * h), rtol=1e-6
    )
    product = hessian_product(objective, everything, points, direction)
    expected = (gradient_above - gradient_below) / (2 * h)
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-5 * np.abs(product).max())


@pytest.mark.parametrize("kind", ["ovr", "ovo"])
def test_a_subset_of_problems_evaluates_as_it_does_among_all(kind):
    X, labels = blobs()
    objective = make(kind, X, labels)
    points, _ = some_points(objective)
    values, gradients = objective.evaluate(np.arange(objective.n_problems), points)
    some = np.array([3, 1])
    few_values, few_gradients = objective.evaluate(some, points[some])
    np.testing.assert_allclose(few_values, values[some], rtol=1e-13)
    np.testing.assert_allclose(few_gradients, gradients[some], rtol=1e-11, atol=1e-12)


def test_values_of_C_ride_in_one_pass():
    X, labels = blobs()
    C = np.array([0.1, 3.0])
    objective = make("softmax", X, labels, C=C)
    points, _ = some_points(objective)
    values, gradients = objective.evaluate(np.arange(2), points)
    for i in range(2):
        alone = make("softmax", X, labels, C=C[i])
        value, gradient = alone.evaluate(np.arange(1), points[i : i + 1])
        np.testing.assert_allclose(values[i], value[0], rtol=1e-13)
        np.testing.assert_allclose(gradients[i], gradient[0], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_standardising_on_the_fly_equals_standardising_first(kind):
    X, labels = blobs()
    X = X * np.array([1, 10, 0.1, 1, 1, 1]) + np.array([5, 0, 0, -3, 0, 1])
    mean, scale = X.mean(axis=0), X.std(axis=0)
    folded = make(kind, X, labels, design=DesignMatrix(X).standardized(mean, scale))
    explicit = make(kind, (X - mean) / scale, labels)
    everything = np.arange(folded.n_problems)
    points, _ = some_points(folded)
    for a, b in zip(
        folded.evaluate(everything, points), explicit.evaluate(everything, points), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_orders_and_threads_do_not_change_the_answer(kind, monkeypatch):
    X, labels = blobs(n=500)
    reference = make(kind, X, labels)
    everything = np.arange(reference.n_problems)
    points, _ = some_points(reference)
    value, gradient = reference.evaluate(everything, points)
    monkeypatch.setattr("classify.solver.passes.PIECE_BYTES", 3000)
    monkeypatch.setattr("classify.solver.design.COPY_BYTES", 0)
    shuffle = np.random.default_rng(0).permutation(len(X))
    back = np.argsort(shuffle)
    design = DesignMatrix(X[shuffle]).take(back, Workers(1))
    assert design.order is not None
    design.block_rows = 7
    bits = []
    for n_threads in (1, 3):
        workers = Workers(n_threads)
        blocked = make(kind, X, labels, design=design, workers=workers)
        value_blocked, gradient_blocked = blocked.evaluate(everything, points)
        workers.close()
        np.testing.assert_allclose(value_blocked, value, rtol=1e-12)
        np.testing.assert_allclose(gradient_blocked, gradient, rtol=1e-9, atol=1e-10)
        bits.append((value_blocked.tobytes(), gradient_blocked.tobytes()))
    assert bits[0] == bits[1]


@pytest.mark.parametrize("kind", KINDS)
def test_sums_that_threads_share_are_the_same(kind, monkeypatch):
    X, labels = blobs(n=120, d=11)
    design = DesignMatrix(X).standardized(X.mean(axis=0), X.std(axis=0))
    found = []
    for numbers, threads in ((10**9, 1), (5, 3)):
        monkeypatch.setattr("classify.solver.passes.SHARE_NUMBERS", numbers)
        monkeypatch.setattr("classify.solver.threads.PIECE_NUMBERS", numbers)
        objective = make(kind, X, labels, design=design, workers=Workers(threads))
        points, _ = some_points(objective)
        found.append(objective.evaluate(np.arange(objective.n_problems), points))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13)


def test_losses_neither_overflow_nor_cancel():
    u = np.array([-800.0, -40.0, 0.0, 40.0, 800.0])
    loss, residual = logistic(u)
    np.testing.assert_allclose(loss, [0, np.exp(-40.0), np.log(2), 40, 800])
    np.testing.assert_allclose(residual[1:], [np.exp(-40.0), 0.5, 1, 1])
    z = np.array([[40.0, 0.0, 0.0], [-800.0, 0.0, 0.0], [900.0, 0.0, 900.0]])
    loss, residual = softmax(z, np.array([0, 0, 0]))
    np.testing.assert_allclose(loss, [2 * np.exp(-40.0), 800 + np.log(2), np.log(2)])
    np.testing.assert_allclose(residual[0], [-2 * np.exp(-40.0), np.exp(-40.0), np.exp(-40.0)])
    np.testing.assert_allclose(residual.sum(axis=1), 0, atol=1e-15)


@pytest.mark.parametrize("shape", [(1, 3), (64, 40), (130, 64), (1000, 700)])
@pytest.mark.parametrize("columns", [1, 9, 300])
def test_thin_product_is_a_product(shape, columns):
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal(shape), rng.standard_normal((shape[1], columns))
    np.testing.assert_allclose(thin_product(X, W), X @ W, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 3), (64, 40), (130, 64), (1000, 700)])
@pytest.mark.parametrize("columns", [1, 9, 300])
def test_thin_back_is_a_product(shape, columns):
    rng = np.random.default_rng(0)
    X, R = rng.standard_normal(shape), rng.standard_normal((shape[0], columns))
    np.testing.assert_allclose(thin_back(X, R), R.T @ X, rtol=1e-10, atol=1e-10)


def test_column_sums_keep_the_digits_of_float32():
    table = np.full((100_003, 3), 1e-3, np.float32)
    table[:, 1] = 1.0
    table[::2, 2] *= -1
    exact = table.astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(column_sums(table), exact, rtol=1e-12)
    assert column_sums(np.zeros((5, 0))).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_look_along_a_direction_is_a_derivative(kind, weighted):
    X, labels = blobs()
    weight = np.random.default_rng(1).integers(0, 3, len(X)).astype(float) if weighted else None
    problems = make(kind, X, labels, weight=weight)
    everything = np.arange(problems.n_problems)
    points, directions = some_points(problems)
    link = problems.weighted_link(everything)
    groups = problems.groups(everything)
    at = problems.passes.scores(groups, *problems.split(points))
    along = problems.passes.scores(groups, *problems.split(directions))

    def sums(step):
        total = np.zeros((2, problems.n_problems * problems.columns))
        for group, z, on in zip(groups, at, along, strict=True):
            on = np.ascontiguousarray(on.T)
            scores = np.ascontiguousarray(z.T) + step * on
            found = link.direction_sums(scores, group.start, group.stop, group, on)
            total[:, group.columns] += found.slope, found.curvature
        return total.reshape(2, problems.n_problems, -1).sum(axis=2)

    def losses(step):
        value, _ = problems.evaluate(everything, points + step * directions)
        weights, _ = problems.split(points + step * directions)
        squares = np.einsum("ij,ij->i", weights, weights).reshape(len(value), -1).sum(axis=1)
        return (value - 0.5 * squares) / problems.C

    h = 1e-4
    slope, bend = sums(0.3)
    np.testing.assert_allclose(
        slope, (losses(0.3 + h) - losses(0.3 - h)) / (2 * h), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        bend, (sums(0.3 + h)[0] - sums(0.3 - h)[0]) / (2 * h), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_mean_and_scale(weighted):
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((9001, 5)) * [1, 1e-3, 1e3, 1, 0] + [0, 1e3, -5, 1, 7.3]).astype(
        np.float32
    )
    weight = rng.integers(0, 3, len(X)).astype(float) if weighted else None
    mean, scale = mean_and_scale(DesignMatrix(X), Workers(), weight)
    repeated = X.astype(np.float64)
    if weighted:
        repeated = np.repeat(repeated, weight.astype(int), axis=0)
    np.testing.assert_allclose(mean, repeated.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scale[:4], repeated.std(axis=0)[:4], rtol=1e-5)
    assert scale[4] == 1.0
