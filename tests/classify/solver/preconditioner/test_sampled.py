"""Approximate inverses are inverses where they claim to be exact."""

import numpy as np
import pytest
from problems_for_tests import blobs, hessian_product, make

from classify.solver.moves import Trials
from classify.solver.preconditioner.factors import inverse_factor_plus_identity, orthonormal
from classify.solver.preconditioner.sampled import SampledHessian, _Triangle
from classify.solver.preconditioner.sampling import systematic_sample
from classify.solver.preconditioner.shared import Sketch


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
    product = hessian_product(objective, everything, points, step)
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
    monkeypatch.setattr("classify.solver.preconditioner.shared.NARROW", 0)
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
    hessian = matrix(lambda table: hessian_product(objective, pairs, points, table))
    cross = hessian[:-1, -1]
    reduced = hessian[:-1, :-1] - np.outer(cross, cross) / hessian[-1, -1]
    product = (inside.T @ inverse[:-1, :-1] @ inside) @ (inside.T @ reduced @ inside)
    np.testing.assert_allclose(product, np.eye(20), atol=1e-6)


def test_slow_problems_get_an_inverse_of_their_own_and_others_keep_theirs(monkeypatch):
    X, labels = blobs(n=200, d=30, k=4)
    X /= np.sqrt(30)
    objective = make("ovo", X, labels)
    pairs = np.arange(objective.n_problems)
    monkeypatch.setattr("classify.solver.preconditioner.sampled.SLOW_ROWS", 10)
    preconditioner = SampledHessian(0, 10_000, 100.0, 5.0)
    preconditioner.attach(objective)
    shape = (objective.n_problems, objective.n_parameters)
    at = Trials(objective, pairs, np.full(shape, 0.01), 1e-15)
    ahead = np.zeros(len(pairs))
    assert preconditioner.due(pairs, ahead)
    preconditioner.update(pairs, at)
    gradient = np.random.default_rng(0).standard_normal(shape)
    others = pairs != 2
    before = preconditioner.apply(pairs[others], gradient[others])  # to the bit: as many columns
    ahead[2] = 50.0
    rounds = [preconditioner.due(pairs, ahead) for _ in range(10)]
    assert rounds == [False] * 9 + [True]
    preconditioner.update(pairs, at)
    after = preconditioner.apply(pairs, gradient)
    np.testing.assert_array_equal(after[others], before)
    # With more rows asked for than there are, its own inverse is exact.
    np.testing.assert_allclose(
        hessian_product(objective, pairs, at.points, after)[2], gradient[2], rtol=1e-6, atol=1e-6
    )
    # It has just been made: not again for a while.
    assert not preconditioner.due(pairs, ahead)


def slow_pairs(monkeypatch, room, together):
    """Six pairs that share an inverse, with room for so many of their own."""
    X, labels = blobs(n=200, d=30, k=4)
    X /= np.sqrt(30)
    objective = make("ovo", X, labels)
    pairs = np.arange(objective.n_problems)
    monkeypatch.setattr("classify.solver.preconditioner.sampled.SLOW_ROWS", 10)
    monkeypatch.setattr("classify.solver.preconditioner.sampled.SETTLED", 2)
    monkeypatch.setattr("classify.solver.preconditioner.sampled.SLOW_TOGETHER", together)
    size = _Triangle.SHARE * 30 * 30
    monkeypatch.setattr("classify.solver.preconditioner.sampled.SLOW_NUMBERS", (room + 0.5) * size)
    preconditioner = SampledHessian(0, 10_000, 100.0, 5.0)
    preconditioner.attach(objective)
    points = np.full((objective.n_problems, objective.n_parameters), 0.01)
    assert preconditioner.due(pairs, np.zeros(len(pairs)))
    preconditioner.update(pairs, Trials(objective, pairs, points, 1e-15))

    def step(live, ahead):
        """Run a round; return which pairs have an inverse of their own after it."""
        if preconditioner.due(live, ahead):
            preconditioner.update(live, Trials(objective, live, points[live], 1e-15))
        return sorted(preconditioner._inverses)

    return preconditioner, pairs, step


def test_slow_problems_wait_for_room_which_those_that_have_ended_make(monkeypatch):
    _, pairs, step = slow_pairs(monkeypatch, room=3, together=2)
    ahead = np.array([30.0, 60.0, 20.0, 50.0, 10.0, 40.0])
    assert step(pairs, ahead) == []
    assert step(pairs, ahead) == [1, 3, 5]  # the slowest, as many as there is room for
    assert step(pairs, ahead) == [1, 3, 5]
    live = np.array([0, 1, 2, 3, 4])
    assert step(live, ahead[live]) == [1, 3, 5]  # room for one: not worth a turn yet
    live = np.array([0, 1, 2, 4])
    assert step(live, ahead[live]) == [0, 1, 2]


def test_the_last_that_waits_need_not_wait_for_more(monkeypatch):
    _, pairs, step = slow_pairs(monkeypatch, room=1, together=4)
    ahead = np.array([0.0, 60.0, 0.0, 50.0, 0.0, 0.0])
    step(pairs, ahead)
    assert step(pairs, ahead) == []  # two want one, and there is room for one
    ahead[1] = 0.0
    assert step(pairs, ahead) == [3]


def test_who_gives_its_inverse_up_goes_on_with_what_is_shared(monkeypatch):
    preconditioner, pairs, step = slow_pairs(monkeypatch, room=1, together=1)
    gradient = np.random.default_rng(0).standard_normal((6, 31))
    shared = preconditioner.apply(pairs, gradient)
    ahead = np.array([0.0, 60.0, 0.0, 50.0, 0.0, 0.0])
    step(pairs, ahead)
    assert step(pairs, ahead) == [1]
    assert np.abs(preconditioner.apply(pairs, gradient)[1] - shared[1]).max() > 1e-3
    preconditioner.objective.C[1] *= 2  # of the next fit along a path
    live = np.array([0, 2, 3, 4, 5])
    assert step(live, ahead[live]) == [3]
    after = preconditioner.apply(pairs, gradient)
    np.testing.assert_allclose(after[1, :-1], shared[1, :-1] / 2, rtol=1e-6, atol=1e-9)


def test_only_what_is_shared_grows_old_with_those_that_it_serves(monkeypatch):
    preconditioner, pairs, step = slow_pairs(monkeypatch, room=6, together=1)
    step(pairs, np.full(6, 50.0))
    assert step(pairs, np.full(6, 50.0)) == [0, 1, 2, 3, 4, 5]
    before = preconditioner._age
    for _ in range(5):
        step(pairs, np.ones(6))
    assert preconditioner._age == before


def test_what_is_known_of_the_rows_is_not_kept_where_it_has_served(monkeypatch):
    monkeypatch.setattr("classify.solver.preconditioner.shared.NARROW", 0)
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 60)
    X = rng.standard_normal((180, 40))
    axes = np.linalg.qr(rng.standard_normal((40, 20)))[0]
    for C, light in ((0.01, True), (10.0, False)):
        objective = make("ovo", X, labels, C=C)
        preconditioner = SampledHessian(0, 10_000, 1.0)
        preconditioner.attach(objective)
        preconditioner.sketch = Sketch(
            axes, np.arange(180), np.ones(180), X @ axes, np.arange(20.0, 0, -1), 0.5
        )
        points = np.full((3, objective.n_parameters), 1e-3)
        for _ in range(2):  # a sketch without rows serves for its directions
            preconditioner.update(np.arange(3), Trials(objective, np.arange(3), points, 1e-15))
            assert (preconditioner._shared.tail is not None) == light
            turned = preconditioner.sketch.turned
            assert (len(turned), turned.base is None) == ((180, True) if light else (0, True))


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
