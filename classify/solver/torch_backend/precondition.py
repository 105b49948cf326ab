"""Approximate inverse Hessians on a device: `classify.solver.preconditioner.sampled`'s twin.

All columns are built and applied together, in batched products. Every column draws the same
number of rows, by systematic sampling with repetition, so that no shape depends on the data: a row
drawn twice counts twice. On a GPU it is not the arithmetic that costs but the number of iterations
in which the host's minimiser waits; hence twice as many rows as on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from classify.solver.problems import Problems
from classify.solver.torch_backend.design import TorchDesign
from classify.solver.torch_backend.problems import TorchBinaryProblems, TorchSoftmaxProblems
from classify.solver.tuning import (
    DEVICE_ATTEMPTS,
    DEVICE_CHUNK_NUMBERS,
    DEVICE_LEAF,
    DEVICE_RENEWALS,
    SOFTEST,
)

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

# Steps of a curvature's whole-number scale; the largest is one row's.
LEVELS = 2.0**31


class TorchSampledHessian:
    """One approximate inverse Hessian a column, from rows sampled for that column."""

    objective: TorchBinaryProblems | TorchSoftmaxProblems
    design: TorchDesign

    def __init__(self, sample_rows: int) -> None:
        self.sample_rows = sample_rows
        self._covered: npt.NDArray[np.bool_] | None = None  # problems that have inverses
        self._iterations = 0  # since this objective was attached
        self._made_for = np.empty(0)  # the C of each problem's inverses
        # Of every column the sample's mean, the sum of the curvature, and the inverse, in a basis
        # of the sampled rows' span where those are fewer than the features.
        self._mean = self._total = self._inverse = torch.empty(0)
        self._basis: Tensor | None = None

    def attach(self, objective: Problems) -> None:
        """Serve another objective over the same rows; what was learnt is kept."""
        assert isinstance(objective, (TorchBinaryProblems, TorchSoftmaxProblems))
        self.objective, self.design = objective, objective.design
        self._iterations = 0
        if self._covered is not None:
            return
        self._covered = np.zeros(objective.n_problems, dtype=bool)
        self._made_for = np.ones(objective.n_problems)
        d, n_columns = self.design.n_features, objective.n_problems * objective.columns
        n = min(self.sample_rows, self.design.n_rows)
        side, X = min(n, d), self.design.X
        self._mean = X.new_zeros(n_columns, d)
        self._total = X.new_ones(n_columns, dtype=torch.float64)
        self._inverse = X.new_zeros(n_columns, side, side)
        # With fewer sampled rows than features, a basis of their span: `sampling.span_and_gram`.
        self._basis = X.new_zeros(n_columns, n, d) if n < d else None

    def due(self, problems: Integers, ahead: Array) -> bool:
        """Say whether some of these problems have no inverse, or it is time to renew them."""
        covered = self._covered is not None and bool(self._covered[problems].all())
        self._iterations += 1
        return not covered or self._iterations - 1 in DEVICE_RENEWALS

    def update(self, problems: Integers, moves: Any) -> None:
        """Draw the samples anew at these points."""
        points = moves.points
        assert self._covered is not None
        self._covered[problems] = True
        objective = self.objective
        self._made_for[problems] = objective.C[problems]
        # Without weights all rows count the same in every column: one inverse serves them all.
        groups = objective.groups(problems)
        weights, intercepts = objective.split(points)
        alike = not weights.any() and np.ptp(intercepts) < 1e-6 and len(groups) == 1
        if alike and len(set(objective.C[problems])) == 1:
            curvatures = self._curvatures(problems[:1], points[:1])
            self._build(
                curvatures(slice(0, 1)), self._places(problems), self._least(problems[:1])[:1]
            )
            return
        # Scores of all rows are made for so many problems at a time, and of those so many columns
        # are weighed and their inverses made.
        columns, n = objective.columns, min(self.sample_rows, self.design.n_rows)
        step = max(1, DEVICE_CHUNK_NUMBERS // 4 // (self.design.n_rows * columns))
        few = max(1, DEVICE_CHUNK_NUMBERS // max(n * self.design.n_features, self.design.n_rows))
        for low in range(0, len(problems), step):
            some = problems[low : low + step]
            places, least = self._places(some), self._least(some)
            curvatures = self._curvatures(some, points[low : low + step])
            for part in [slice(first, first + few) for first in range(0, len(places), few)]:
                self._build(curvatures(part), places[part], least[part])

    def _curvatures(self, problems: Integers, points: Array) -> Callable[[slice], Tensor]:
        """Make what weighs every row by its curvature in some columns, in float64: (k, rows)."""
        objective, n_rows = self.objective, self.design.n_rows
        weights, intercepts = objective.split(points)
        groups = objective.groups(problems)
        scores = objective.passes.scores(groups, weights, intercepts)
        parts = [
            objective.curvatures(z, problems, group)
            for z, group in zip(scores, groups, strict=True)
        ]
        C = np.repeat(objective.C[problems], objective.columns)

        def curvatures(which: slice) -> Tensor:
            numbers = np.arange(len(C))[which]
            shape = (len(numbers), n_rows)
            found = torch.zeros(shape, dtype=torch.float64, device=self.design.device)
            for group, part in zip(groups, parts, strict=True):
                inside = np.flatnonzero(np.isin(group.columns, numbers))
                if len(inside):
                    at = self.design.send((group.columns[inside] - numbers[0]).astype(np.int64))
                    found[at, group.start : group.stop] = part(inside).T.double()
            found *= self.design.send(C[which])[:, None]
            if objective.row_weights is not None:
                found *= objective.row_weights
            return found

        return curvatures

    def _least(self, problems: Integers) -> Tensor:
        """Return the least curvature of each column's intercept."""
        objective = self.objective
        row_weight = np.zeros(len(problems) * objective.columns)
        for group in objective.groups(problems):
            row_weight[group.columns] += objective.weight_sum(group)
        C = np.repeat(objective.C[problems], objective.columns)
        return self.design.send(SOFTEST * C * row_weight)

    def _build(self, curvature: Tensor, places: Integers, least: Tensor) -> None:
        """Build the inverses of some columns (or one that serves all of `places`).

        `least` is the least curvature of each column's intercept.
        """
        design, at = self.design, self.design.send(places.astype(np.int64))
        if design.n_rows <= self.sample_rows:
            rows = design.gather(torch.arange(design.n_rows, device=design.device))
            block = rows.expand(len(curvature), *rows.shape)
            each, total = curvature, curvature.sum(dim=1)
        else:
            chosen, total = systematic_rows(curvature, self.sample_rows)
            block = design.gather(chosen.reshape(-1)).reshape(*chosen.shape, -1)
            each = (total / self.sample_rows)[:, None].expand(chosen.shape)
        total = total.clamp(min=float(np.finfo(float).tiny))
        share = (each / total[:, None]).to(block.dtype) * self.objective.intercept
        mean = torch.bmm(share[:, None], block)
        block = (block - mean) * each.sqrt().to(block.dtype)[:, :, None]
        self._mean[at], self._total[at] = mean[:, 0], torch.maximum(total, least)
        if self._basis is not None:
            basis = torch.linalg.qr(block.mT)[0].mT
            part = torch.bmm(block, basis.mT)
            self._basis[at] = basis
            self._inverse[at] = inverse_plus_identity(torch.bmm(part.mT, part))
        else:
            self._inverse[at] = inverse_plus_identity(torch.bmm(block.mT, block))

    def _places(self, problems: Integers) -> Integers:
        columns = self.objective.columns
        return (problems[:, None] * columns + np.arange(columns)).ravel()

    def apply(self, problems: Integers, gradients: Array) -> Array:
        """Apply each column's approximate inverse Hessian."""
        columns = self.objective.columns
        places = self._places(problems)
        mean, total, inverse, basis = self._mean, self._total, self._inverse, self._basis
        if len(places) < len(total) or np.any(np.diff(places) != 1):  # else a view: they are large
            at = self.design.send(places.astype(np.int64))
            mean, total, inverse = mean[at], total[at], inverse[at]
            basis = None if basis is None else basis[at]
        table = self.design.send(gradients).reshape(len(problems), columns, -1)
        g = _without_common(table).reshape(len(places), -1)
        wide = mean.double()
        v = (g[:, :-1] - wide * g[:, -1:]).to(mean.dtype)[:, :, None]
        if basis is None:
            v = torch.bmm(inverse, v)
        else:  # as `classify.solver.preconditioner.sampling.project_and_solve`
            inside = torch.bmm(basis, v)
            beside = v - torch.bmm(basis.mT, inside)
            inside = torch.bmm(inverse, inside) - torch.bmm(basis, beside)
            v = beside + torch.bmm(basis.mT, inside)
        out = torch.empty_like(g)
        out[:, :-1] = v[:, :, 0]
        out[:, -1] = g[:, -1] / total - (wide * out[:, :-1]).sum(dim=1)
        d = _without_common(out.reshape(table.shape)).reshape(gradients.shape).cpu().numpy()
        # An inverse made for another C: most of the Hessian is proportional to it.
        return d * (self._made_for[problems] / self.objective.C[problems])[:, None]


def _without_common(table: Tensor) -> Tensor:
    """Subtract the mean over a multinomial's columns; leave single columns alone."""
    return table - table.mean(dim=1, keepdim=True) if table.shape[1] > 1 else table


def systematic_rows(size: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Draw `n` rows a column with probability proportional to size, without chance.

    Equal steps along the cumulated sizes (Madow, *Ann. Math. Stat.* 20, 1949). The sizes are
    cumulated as whole numbers: a sum that a GPU makes in another order each time is then the same.
    """
    largest = size.amax(dim=1, keepdim=True).clamp(min=float(np.finfo(float).tiny))
    edges = (size / largest * LEVELS).round().to(torch.int64).cumsum(dim=1)
    mass = edges[:, -1:]
    middles = (torch.arange(n, dtype=torch.float64, device=size.device) + 0.5) / n
    targets = (mass * middles).to(torch.int64)
    rows = torch.searchsorted(edges, targets, right=True).clamp(max=size.shape[1] - 1)
    return rows, (mass * (largest / LEVELS))[:, 0]


def inverse_plus_identity(gram: Tensor) -> Tensor:
    """Invert ``I + gram`` for a batch ``(k, n, n)``, which is overwritten.

    Where rounding makes one indefinite, its diagonal grows; as ``inv(L)' inv(L)`` all are positive.
    Of one that is not finite, as where features are huge, the identity takes the place.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2)
    original = diagonal.clone()
    jitter = torch.ones_like(original[:, :1])
    for _ in range(DEVICE_ATTEMPTS):
        diagonal.copy_(original + jitter)
        failures: list[Tensor] = []
        factor = _inverse_factor(gram, failures)
        failed = torch.stack(failures).amax(dim=0) > 0
        if not bool(failed.any()):
            break
        more = torch.maximum(jitter * 100, original.amax(dim=1, keepdim=True) * 1e-7)
        jitter = torch.where(failed[:, None], more, jitter)
    inverse = torch.bmm(factor.mT, factor)
    lost = failed | ~inverse.isfinite().all(dim=2).all(dim=1)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.where(lost[:, None, None], identity, inverse)


def _inverse_factor(matrix: Tensor, failures: list[Tensor]) -> Tensor:
    """Invert the Cholesky factors of a batch of matrices, by halves: nearly all batched products.

    Appends LAPACK's status of every leaf to `failures`: zero where the factor exists.
    """
    n = matrix.shape[-1]
    if n <= DEVICE_LEAF:
        factor, status = torch.linalg.cholesky_ex(matrix)
        failures.append(status)
        identity = torch.eye(n, dtype=matrix.dtype, device=matrix.device).expand_as(factor)
        return torch.linalg.solve_triangular(factor, identity, upper=False)
    half = n // 2
    result = torch.zeros_like(matrix)
    first = _inverse_factor(matrix[:, :half, :half], failures)
    below = torch.bmm(matrix[:, half:, :half], first.mT)
    rest = matrix[:, half:, half:] - torch.bmm(below, below.mT)
    second = _inverse_factor(rest, failures)
    result[:, :half, :half], result[:, half:, half:] = first, second
    result[:, half:, :half] = -torch.bmm(torch.bmm(second, below), first)
    return result
