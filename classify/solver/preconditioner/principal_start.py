"""A start for problems of many features, from the same problems in a few directions of a sample.

A problem restricted to the leading principal directions of the features is a problem of the same
kind with a tenth of the features: with orthonormal directions ``U`` and ``w = U a`` its penalty is
``||a||^2 / 2`` and its scores are those of the rows ``x U``. It is solved roughly, on some of the
rows, for the price of a few passes, and its solution replaces the first iterations from zero. As
much is won by what it says of the curvature: the weights of the rows near the boundaries between
the classes are known before the first inverse Hessian is made, which then serves for the whole fit.

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
from classify.solver.problems import BinaryProblems, Problems
from classify.solver.solution import Certificate
from classify.solver.threads import Workers
from classify.solver.tuning import (
    START_CLASS_ROWS,
    START_COLUMNS,
    START_CURVATURE,
    START_DIRECTIONS,
    START_FEW_SCORES,
    START_GROWTH,
    START_ITERATIONS,
    START_LEAST_CURVATURE,
    START_MAX_ITER,
    START_MOST_ROWS,
    START_OWN_PRICE,
    START_OWN_ROWS,
    START_PIECE,
    START_ROWS,
    START_SHARED_ROWS,
    START_SPREAD,
    START_TOL,
    START_WIDTHS,
)

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.intp]


def worthwhile(objective: Problems) -> bool:
    """Say whether a start from the restricted problems saves more than it costs."""
    # Not for few features, few rows of a class, rows on the disk, or a penalty that keeps the
    # weights near zero.
    design, labels = objective.design, objective.labels
    if design.n_features < START_WIDTHS * START_DIRECTIONS or len(design.edges) > 2:
        return False
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if (
        len(counts) < 2
        or np.median(counts) < START_CLASS_ROWS
        or design.n_rows < START_SPREAD * START_DIRECTIONS
    ):
        return False
    return _curvature(objective) >= START_LEAST_CURVATURE


def _curvature(objective: Problems) -> float:
    """Guess the curvature of a typical problem at zero in a direction of variance one."""
    rows = objective.meetings / (objective.n_problems * objective.columns)
    at_zero = objective.loss.at_zero if isinstance(objective, BinaryProblems) else 0.25
    return float(np.median(objective.C)) * rows * at_zero


def start_from_directions(
    objective: Problems, points: Array, tol: float = START_TOL
) -> tuple[Array, Sketch]:
    """Solve the problems in a few directions, to `tol`, from `points`, and return where to start.

    `points` are ``(n_problems, n_parameters)``, weights of zero; the sketch holds the rows used.
    """
    design, workers = objective.design, objective.workers
    wanted = START_ROWS * max(1.0, _curvature(objective) / START_CURVATURE) ** START_GROWTH
    rows, stride = _some_rows(objective.labels, min(wanted, START_MOST_ROWS))
    axes, spread, rest = _directions(objective, rows)
    parts = workers.map(
        lambda low: design.dense(rows[low : low + START_PIECE]) @ axes,
        range(0, len(rows), START_PIECE),
    )
    sketch = Sketch(axes, rows, 1 / stride, np.concatenate(parts), spread, rest)
    # What little there is to do takes threads longer to share than to do.
    few = len(rows) * objective.meetings < START_FEW_SCORES * design.n_rows
    pool = Workers(1) if few else workers
    restricted = objective.restricted(DesignMatrix(sketch.turned), rows, stride, pool)
    begin = np.zeros((restricted.n_problems, restricted.n_parameters))
    restricted.split(begin)[1][:] = objective.split(points)[1]
    few_columns = objective.n_problems * objective.columns <= START_COLUMNS
    per_column = START_OWN_ROWS * START_DIRECTIONS if few_columns else 0
    preconditioner = SampledHessian(
        per_column, START_SHARED_ROWS * START_DIRECTIONS, START_OWN_PRICE
    )
    preconditioner.attach(restricted)
    found = minimise(
        functools.partial(moves.start, restricted),
        begin,
        preconditioner,
        _as_they_are,
        tol=tol,
        max_iter=START_MAX_ITER,
        rounding=rounding_of(design.dtype),
        workers=pool,
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
    stride = np.clip(round(len(labels) / wanted), 1, np.maximum(counts // START_CLASS_ROWS, 1))
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
    wanted = min(len(rows), START_SPREAD * design.n_features)
    some = rows[np.linspace(0, len(rows) - 1, wanted).astype(np.intp)]
    pieces = workers.map(
        lambda low: design.dense(some[low : low + START_PIECE]), range(0, len(some), START_PIECE)
    )
    mean = np.sum([piece.sum(axis=0, dtype=np.float64) for piece in pieces], axis=0) / len(some)
    mean *= objective.intercept  # without one, directions are about zero
    for piece in pieces:
        piece -= mean.astype(piece.dtype)
    shape = design.n_features, START_DIRECTIONS
    basis = np.random.default_rng(0).standard_normal(shape).astype(design.dtype)
    for _ in range(START_ITERATIONS):
        at = basis
        parts = workers.map(lambda piece: piece.T @ (piece @ at), pieces)  # noqa: B023
        basis = np.ascontiguousarray(orthonormal(np.sum(parts, axis=0)))
    whole = sum(float(np.vdot(piece, piece)) for piece in pieces)
    gram = np.sum(workers.map(lambda piece: square(piece @ basis), pieces), axis=0)
    spread, turn = np.linalg.eigh(gram.astype(np.float64))
    spread, turn = spread[::-1], turn[:, ::-1]
    basis = np.ascontiguousarray(basis @ turn.astype(basis.dtype))
    others = (design.n_features - START_DIRECTIONS) * len(some)
    rest = max(0.0, whole - float(spread.sum())) / others
    return basis, np.maximum(spread, 0.0) / len(some), rest
