"""Approximate inverses are inverses where they claim to be exact."""

import numpy as np
import pytest
from problems_for_tests import blobs, make

from classify.precondition import SampledHessian, _Triangle
from classify.sampling import inverse_factor_plus_identity, orthonormal, systematic_sample
from classify.shared_hessian import Sketch
from classify.trials import Trials


@pytest.mark.parametrize("kind", ["ovr", "ovo"])
@pytest.mark.parametrize("d", [6, 90])
def test_with_all_rows_the_binary_inverse_is_exact(kind, d):
    preconditioner = SampledHessian(10_000, 10_000, 1.0)
    X, labels = blobs(n=60, d=d, k=3)
    X /= np.sqrt(d)
    weight = np.random.default_rng(1).uniform(0, 2, len(X))
    objective = make(kind, X, labels, weight=weight)
    everything = np.arange(objective.n_problems)
    rng = np.random.default_rng(0)
    shape = (objective.n_problems, objective.n_parameters)
    points, gradient = rng.standard_normal(shape) * 0.1, rng.standard_normal(shape)
    preconditioner.attach(objective)
    preconditioner.update(everything, Trials(objective, everything, points, 1e-15))
    step = preconditioner.apply(everything, gradient)
    product = objective.hessian_product(everything, points, step)
    np.testing.assert_allclose(product, gradient, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        preconditioner.apply(everything[1:], gradient[1:]), step[1:], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(
    "preconditioner",
    [SampledHessian(10_000, 10_000, 1.0), SampledHessian(0, 10_000, 1.0)],
    ids=["own", "shared"],
)
def test_the_multinomials_is_symmetric_positive_and_free_of_the_common_direction(preconditioner):
    X, labels = blobs(n=80, d=4, k=3)
    objective = make("softmax", X, labels)
    one = np.arange(1)
    preconditioner.attach(objective)
    start = np.full((1, objective.n_parameters), 0.01)
    preconditioner.update(one, Trials(objective, one, start, 1e-15))
    matrix = np.stack(
        [preconditioner.apply(one, unit[None])[0] for unit in np.eye(objective.n_parameters)]
    )
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-8 * np.abs(matrix).max())
    values = np.linalg.eigvalsh(matrix)
    assert values.min() > -1e-10
    assert (values > 1e-10).sum() == objective.n_parameters - 5
    np.testing.assert_allclose(matrix.reshape(3, 5, -1).sum(axis=0), 0, atol=1e-10)


def test_systematic_sample_draws_in_proportion():
    rng = np.random.default_rng(0)
    size = rng.exponential(size=5000) ** 2
    rows, chance = systematic_sample(size, 400)
    assert abs(len(rows) - 400) <= 1 and np.all(np.diff(rows) > 0)
    assert np.all((chance > 0) & (chance <= 1))
    # Horvitz-Thompson: the weighted sample stands for the whole.
    np.testing.assert_allclose((size[rows] / chance).sum(), size.sum(), rtol=0.02)
    heavy = np.argsort(size)[-20:]
    assert np.isin(heavy, rows).all()


def test_systematic_sample_of_everything_or_of_a_few_that_matter():
    rows, chance = systematic_sample(np.ones(5), 7)
    np.testing.assert_array_equal(rows, np.arange(5))
    np.testing.assert_array_equal(chance, 1)
    size = np.zeros(100)
    size[[3, 40]] = 1.0
    rows, chance = systematic_sample(size, 10)
    np.testing.assert_array_equal(rows, [3, 40])
    np.testing.assert_array_equal(chance, 1)


@pytest.mark.parametrize("n", [1, 127, 300])
def test_inverse_plus_identity(n):
    A = np.random.default_rng(0).standard_normal((n + 5, n))
    factor = inverse_factor_plus_identity(A.T @ A)
    found = factor.T @ factor
    np.testing.assert_allclose(found @ (np.eye(n) + A.T @ A), np.eye(n), atol=1e-8)
    np.testing.assert_array_equal(factor, np.tril(factor))


def test_inverse_of_what_rounding_made_indefinite_is_still_positive():
    v = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32) * 1e6
    factor = inverse_factor_plus_identity(v @ v.T - np.float32(1e6) * np.eye(300, dtype=np.float32))
    found = factor.T @ factor
    assert np.isfinite(found).all()
    assert np.linalg.eigvalsh(found.astype(float)).min() > -1e-8


def test_one_matrix_that_rounding_spoilt_leaves_the_others_of_its_batch_alone():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((3, 90, 70)).astype(np.float32)
    grams = A.swapaxes(1, 2) @ A
    grams[1] = -3e3 * np.eye(70, dtype=np.float32)
    factors = inverse_factor_plus_identity(grams.copy())
    for place in (0, 2):
        alone = inverse_factor_plus_identity(grams[place].copy())
        np.testing.assert_allclose(factors[place], alone, rtol=1e-4, atol=1e-6)
    assert np.isfinite(factors).all()
    np.testing.assert_array_equal(factors, np.tril(factors))


@pytest.mark.parametrize("n", [1, 3, 130])
def test_a_packed_triangle_applies_its_square(n):
    rng = np.random.default_rng(0)
    factor, v = np.tril(rng.standard_normal((n, n))), rng.standard_normal(n)
    packed = _Triangle(factor)
    np.testing.assert_allclose(packed.squared(v), factor.T @ (factor @ v), rtol=1e-10, atol=1e-10)
    assert packed.size <= n * n and (n < 100 or packed.size < 0.64 * n * n)


def test_orthonormal_columns_span_the_same():
    rng = np.random.default_rng(0)
    block = (rng.standard_normal((200, 12)) * np.geomspace(1, 1e-3, 12)).astype(np.float32)
    found = orthonormal(block)
    np.testing.assert_allclose(found.T @ found, np.eye(12), atol=1e-5)
    np.testing.assert_allclose(found @ (found.T @ block), block, atol=1e-5)


def test_orthonormal_columns_of_a_block_without_rank():
    block = np.ones((50, 4), np.float32)
    found = orthonormal(block)
    np.testing.assert_allclose(found.T @ found, np.eye(4), atol=1e-5)


@pytest.mark.parametrize("known", [False, True], ids=["drawn", "from a sketch"])
def test_the_shared_inverse_is_exact_between_the_leading_directions(monkeypatch, known):
    monkeypatch.setattr("classify.shared_hessian.NARROW", 0)
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 60)
    X = rng.standard_normal((180, 40)) * np.geomspace(3, 0.1, 40)
    objective = make("ovo", X, labels, C=0.1)
    pairs = np.arange(3)
    preconditioner = SampledHessian(0, 10_000, 1.0)
    preconditioner.attach(objective)
    if known:
        axes = np.linalg.qr(rng.standard_normal((40, 20)))[0]
        preconditioner.sketch = Sketch(
            axes, np.arange(180), np.ones(180), X @ axes, np.arange(20.0, 0, -1), 0.5
        )
    points = np.full((3, objective.n_parameters), 1e-3)
    preconditioner.update(pairs, Trials(objective, pairs, points, 1e-15))
    units = np.eye(objective.n_parameters)

    def matrix(apply):
        return np.stack([apply(np.tile(unit, (3, 1)))[1] for unit in units])

    inverse = matrix(lambda table: preconditioner.apply(pairs, table))
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-10)
    assert np.linalg.eigvalsh(inverse).min() > 0
    inside = preconditioner._shared.axes
    assert inside.shape == (40, 20) and (preconditioner._shared.tail == 0.5) == known
    # Of the weights alone: the intercept is moved along with them.
    hessian = matrix(lambda table: objective.hessian_product(pairs, points, table))
    cross = hessian[:-1, -1]
    reduced = hessian[:-1, :-1] - np.outer(cross, cross) / hessian[-1, -1]
    product = (inside.T @ inverse[:-1, :-1] @ inside) @ (inside.T @ reduced @ inside)
    np.testing.assert_allclose(product, np.eye(20), atol=1e-6)


def test_slow_problems_get_an_inverse_of_their_own_and_others_keep_theirs(monkeypatch):
    X, labels = blobs(n=200, d=30, k=4)
    X /= np.sqrt(30)
    objective = make("ovo", X, labels)
    pairs = np.arange(objective.n_problems)
    monkeypatch.setattr("classify.precondition.SLOW_ROWS", 10)
    preconditioner = SampledHessian(0, 10_000, 100.0, 5.0)
    preconditioner.attach(objective)
    shape = (objective.n_problems, objective.n_parameters)
    at = Trials(objective, pairs, np.full(shape, 0.01), 1e-15)
    ahead = np.zeros(len(pairs))
    assert preconditioner.due(pairs, ahead)
    preconditioner.update(pairs, at)
    gradient = np.random.default_rng(0).standard_normal(shape)
    before = preconditioner.apply(pairs, gradient)
    ahead[2] = 50.0
    rounds = [preconditioner.due(pairs, ahead) for _ in range(10)]
    assert rounds == [False] * 9 + [True]
    preconditioner.update(pairs, at)
    after = preconditioner.apply(pairs, gradient)
    others = pairs != 2
    np.testing.assert_array_equal(after[others], before[others])
    # With more rows asked for than there are, its own inverse is exact.
    np.testing.assert_allclose(
        objective.hessian_product(pairs, at.points, after)[2], gradient[2], rtol=1e-6, atol=1e-6
    )
    # It has just been made: not again for a while.
    assert not preconditioner.due(pairs, ahead)


def test_an_inverse_is_not_renewed_for_the_last_few_rounds():
    X, labels = blobs(n=200, d=10, k=3)
    objective = make("ovr", X, labels)
    everything = np.arange(3)
    preconditioner = SampledHessian(50, 50, 4.0)
    preconditioner.attach(objective)
    at = Trials(objective, everything, np.full((3, objective.n_parameters), 0.01), 1e-15)
    preconditioner.update(everything, at)
    # The first, away from zero, serves for 0.6 * 4 * 3 rounds.
    assert not any(preconditioner.due(everything, np.zeros(3)) for _ in range(7))
    assert not preconditioner.due(everything, np.full(3, 3.0))
    assert preconditioner.due(everything, np.array([0.0, 5.0, 0.0]))
    assert preconditioner.due(everything, np.zeros(3))  # how many are left is not known
