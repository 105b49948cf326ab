"""A start for problems of many features, from the same problems in a few directions of a sample.

A problem restricted to the leading principal directions of the features is a problem of the same
kind with a tenth of the features: with orthonormal directions ``U`` and ``w = U a`` its penalty is
``||a||^2 / 2`` and its scores are those of the rows ``x U``. It is solved roughly, on some of the
rows, for the price of a few passes, and its solution replaces the first rounds from zero. As much
is won by what it says of the curvature: the weights of the rows near the boundaries between the
classes are known before the first inverse Hessian is made, which then serves for the whole fit.

The directions come from subspace iteration (Halko, Martinsson and Tropp, "Finding structure with
randomness", *SIAM Review* 53, 2011, algorithm 4.4).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver import moves
from classify.solver.design import DesignMatrix
from classify.solver.lbfgs import minimise, rounding_of
from classify.solver.preconditioner.factors import orthonormal, square
from classify.solver.preconditioner.sampled import SampledHessian
from classify.solver.preconditioner.shared import Sketch
from classify.solver.problems import Problems
from classify.solver.solution import Certificate
from classify.solver.threads import Workers

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]

DIRECTIONS = 128
# Fewer features than this many times the directions are not worth a problem of their own.
WIDTHS = 4
# Rows of the restricted problem where the curvature of an average direction at zero is this many
# times the penalty's, and at most; more where it is larger, for the sample is then fitted closer.
ROWS = 10_000
MANY_ROWS = 50_000
CURVATURE = 25.0
GROWTH = 0.3
# Rows of a class at least, if it has so many; rows in one piece of work.
CLASS_ROWS = 200
PIECE = 1024
# Rows a feature that the directions are found with, and rounds of the iteration.
SPREAD = 2
ITERATIONS = 2
# Fewer scores than this a pass are one thread's work.
FEW_SCORES = 300_000
# How well the restricted problems are solved: better where rounds are dearer, since each column
# has an inverse of its own.
TOL, CLOSE_TOL = 0.3, 0.1
MAX_ITER = 20
# Own rows for each direction in the restricted problems' inverses, what these cost in passes, and
# how many columns may have one; and rows for each direction in one that they share.
OWN_ROWS = 2
OWN_PRICE = 4.0
COLUMNS = 300
SPREAD_SHARED = 8
# Below this curvature of an average direction, against the penalty's one, zero is near enough.
LEAST_CURVATURE = 1.0


def worthwhile(objective: Problems) -> bool:
    """Say whether a start from the restricted problems saves more than it costs.

    Parameters
    ----------
    objective : Problems
        The problems.

    Returns
    -------
    bool
        Not for few features, few rows of a class, or a penalty that keeps the weights near zero.
    """
    design, labels = objective.design, objective.labels
    if design.n_features < WIDTHS * DIRECTIONS or len(design.edges) > 2:
        return False
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if len(counts) < 2 or np.median(counts) < CLASS_ROWS or design.n_rows < SPREAD * DIRECTIONS:
        return False
    return _curvature(objective) >= LEAST_CURVATURE


def _curvature(objective: Problems) -> float:
    """Guess the curvature of a typical problem at zero in a direction of variance one."""
    rows = objective.meetings / (objective.n_problems * objective.columns)
    return float(np.median(objective.C)) * rows / 4


def start_from_directions(
    objective: Problems, points: Array, tol: float = TOL
) -> tuple[Array, Sketch]:
    """Solve the problems in a few directions, roughly.

    Parameters
    ----------
    objective : Problems
        The problems.
    points : ndarray of float64, shape (n_problems, n_parameters)
        Where they would start otherwise: weights of zero.
    tol : float
        Largest duality gap of a restricted problem relative to its objective, about.

    Returns
    -------
    points : ndarray of float64, shape (n_problems, n_parameters)
        Where to start.
    sketch : Sketch
        The rows in the directions.
    """
    design, workers = objective.design, objective.workers
    wanted = ROWS * max(1.0, _curvature(objective) / CURVATURE) ** GROWTH
    rows, stride = _some_rows(objective.labels, min(wanted, MANY_ROWS))
    axes, spread, rest = _directions(objective, rows)
    parts = workers.map(
        lambda low: design.dense(rows[low : low + PIECE]) @ axes, range(0, len(rows), PIECE)
    )
    sketch = Sketch(axes, rows, 1 / stride, np.concatenate(parts), spread, rest)
    # What little there is to do takes threads longer to share than to do.
    few = len(rows) * objective.meetings < FEW_SCORES * design.n_rows
    hands = Workers(1) if few else workers
    restricted = objective.restricted(DesignMatrix(sketch.turned), rows, stride, hands)
    begin = np.zeros((restricted.n_problems, restricted.n_parameters))
    restricted.split(begin)[1][:] = objective.split(points)[1]
    own = OWN_ROWS * DIRECTIONS if objective.n_problems * objective.columns <= COLUMNS else 0
    preconditioner = SampledHessian(own, SPREAD_SHARED * DIRECTIONS, OWN_PRICE)
    preconditioner.attach(restricted)
    found = minimise(
        functools.partial(moves.start, restricted),
        begin,
        preconditioner,
        _as_they_are,
        tol=tol,
        max_iter=MAX_ITER,
        rounding=rounding_of(design.dtype),
        workers=hands,
    ).points
    found = np.where(np.isfinite(found).all(axis=1, keepdims=True), found, begin)
    result = points.copy()
    weights, intercepts = objective.split(result)
    inside, shifts = restricted.split(found)
    weights[:] = inside @ axes.T.astype(np.float64)
    intercepts[:] = shifts
    return result, sketch


def _some_rows(labels: Integers, wanted: float) -> tuple[Integers, Array]:
    """Take one of so many rows of each class, of a small class one of fewer.

    Returns the rows, ascending, and how many rows each of them stands for.
    """
    counts = np.bincount(labels)
    stride = np.clip(round(len(labels) / wanted), 1, np.maximum(counts // CLASS_ROWS, 1))
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), dtype=np.intp)
    rank[order] = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[order]]
    rows = np.flatnonzero(rank % stride[labels] == 0)
    return rows, stride[labels[rows]].astype(np.float64)


def _as_they_are(problems: Integers, points: Array) -> Certificate:
    """Certify nothing: a start needs no bound."""
    nothing = np.zeros(len(problems))
    return Certificate(points, nothing, nothing, nothing)


def _directions(objective: Problems, rows: Integers) -> tuple[Floats, Array, float]:
    """Find leading principal directions of the features, about, and the variance beside them.

    Returns orthonormal columns, the first one leading, the variance along each, and the mean
    variance in the directions orthogonal to all of them.
    """
    design, workers = objective.design, objective.workers
    wanted = min(len(rows), SPREAD * design.n_features)
    some = rows[np.linspace(0, len(rows) - 1, wanted).astype(np.intp)]
    pieces = workers.map(
        lambda low: design.dense(some[low : low + PIECE]), range(0, len(some), PIECE)
    )
    mean = np.sum([piece.sum(axis=0, dtype=np.float64) for piece in pieces], axis=0) / len(some)
    mean *= objective.intercept  # without one, directions are about zero
    for piece in pieces:
        piece -= mean.astype(piece.dtype)
    shape = design.n_features, DIRECTIONS
    basis = np.random.default_rng(0).standard_normal(shape).astype(design.dtype)
    for _ in range(ITERATIONS):
        at = basis
        parts = workers.map(lambda piece: piece.T @ (piece @ at), pieces)  # noqa: B023
        basis = np.ascontiguousarray(orthonormal(np.sum(parts, axis=0)))
    whole = sum(float(np.vdot(piece, piece)) for piece in pieces)
    gram = np.sum(workers.map(lambda piece: square(piece @ basis), pieces), axis=0)
    spread, turn = np.linalg.eigh(gram.astype(np.float64))
    spread, turn = spread[::-1], turn[:, ::-1]
    basis = np.ascontiguousarray(basis @ turn.astype(basis.dtype))
    others = (design.n_features - DIRECTIONS) * len(some)
    rest = max(0.0, whole - float(spread.sum())) / others
    return basis, np.maximum(spread, 0.0) / len(some), rest
