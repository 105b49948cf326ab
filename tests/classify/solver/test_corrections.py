"""Corrections give the directions of the textbook, whoever has left and in how many threads."""

import numpy as np
import pytest

from classify.solver import lbfgs
from classify.solver import threads as solver_threads
from classify.solver.lbfgs import History
from classify.solver.threads import Workers


def two_loops(steps, bends, gradient, scale):
    """Nocedal and Wright's algorithm 7.4, for one problem, oldest correction first."""
    q, alpha = gradient.copy(), []
    for s, y in zip(reversed(steps), reversed(bends), strict=True):
        alpha.append(s @ q / (s @ y))
        q = q - alpha[-1] * y
    q = scale * q
    for s, y, a in zip(steps, bends, reversed(alpha), strict=True):
        q = q + (a - y @ q / (s @ y)) * s
    return -q


def walk(k=9, p=12, rounds=6, seed=0):
    """Points and gradients of some quadratics, round by round."""
    rng = np.random.default_rng(seed)
    spectrum = rng.uniform(0.5, 4.0, (k, p))
    points = rng.standard_normal((rounds + 1, k, p))
    return points, points * spectrum


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("piece", [10, 65_536])
def test_directions_are_the_textbooks_while_problems_leave(monkeypatch, threads, piece):
    monkeypatch.setattr(solver_threads, "PIECE_NUMBERS", piece)
    points, gradients = walk()
    kept = History(4, 9, 12, np.float64, Workers(threads))
    alive = np.arange(9)
    # A few leave, then half of the rest, so that the arrays are and are not made smaller.
    leaving = {2: [4], 3: [0, 1, 8, 7], 5: [2]}
    for now in range(1, 7):
        kept.add(
            points[now, alive], points[now - 1, alive], gradients[now, alive],
            gradients[now - 1, alive],
        )  # fmt: skip
        mask = ~np.isin(alive, leaving.get(now, []))
        kept.keep(mask)
        alive = alive[mask]
        found = kept.direction(gradients[now, alive], lambda q: 0.3 * q)
        first = max(1, now - 3)
        for row, problem in enumerate(alive):
            steps = [points[i, problem] - points[i - 1, problem] for i in range(first, now + 1)]
            bends = [
                gradients[i, problem] - gradients[i - 1, problem] for i in range(first, now + 1)
            ]
            expected = two_loops(steps, bends, gradients[now, problem], 0.3)
            np.testing.assert_allclose(found[row], expected, rtol=1e-9, atol=1e-9)
    assert len(alive) == 3


def test_curvature_that_is_not_positive_is_left_out_and_forgetting_forgets():
    points, gradients = walk(k=2, rounds=1)
    gradients[1, 0] = gradients[0, 0] - (points[1, 0] - points[0, 0])
    kept = History(3, 2, 12, np.float32, Workers())
    kept.add(points[1], points[0], gradients[1], gradients[0])
    found = kept.direction(gradients[1], lambda q: q)
    np.testing.assert_allclose(found[0], -gradients[1, 0], rtol=1e-6)
    assert np.abs(found[1] + gradients[1, 1]).max() > 0.1
    kept.forget(np.array([False, True]))
    np.testing.assert_allclose(kept.direction(gradients[1], lambda q: q), -gradients[1], rtol=1e-6)


def test_arrays_of_problems_that_left_are_given_back():
    points, gradients = walk(k=8, rounds=2)
    kept = History(3, 8, 12, np.float64, Workers())
    kept.add(points[1], points[0], gradients[1], gradients[0])
    kept.keep(np.arange(8) < 5)
    assert len(kept._steps[0]) == 8
    kept.keep(np.arange(5) < 8 * lbfgs.IN_USE)
    assert len(kept._steps[0]) == len(kept._gradient_steps[0]) == 4
