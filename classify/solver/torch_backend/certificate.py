"""Duality gaps on a device: the twin of `classify.solver.certificate`, which derives them.

The scores stay on the device; each step of Newton's method on the intercepts brings a few sums to
the host. Everything but the products with the features is float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from classify.solver.certificate import BALANCED, LARGEST_STEP, NEWTON_STEPS, conclude
from classify.solver.passes import Group
from classify.solver.problems import Problems
from classify.solver.solution import Certificate
from classify.solver.torch_backend.design import CHUNK_NUMBERS
from classify.solver.torch_backend.problems import TorchBinaryProblems, TorchSoftmaxProblems

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

TINY = float(np.finfo(float).tiny)


def certify(objective: Problems, problems: Integers, points: Array) -> Certificate:
    """Optimise the intercepts and evaluate the duality gaps: `classify.solver.certificate.certify`.

    Parameters
    ----------
    objective : TorchBinaryProblems or TorchSoftmaxProblems
        The objective.
    problems : ndarray of int, shape (k,)
        Which of its problems.
    points : ndarray of float64, shape (k, n_parameters)
        Their parameters.

    Returns
    -------
    Certificate
        Costs one pass over the rows.
    """
    weights, intercepts = objective.split(points)
    groups = objective.groups(problems)
    scores: list[Any] = objective.passes.scores(groups, weights, intercepts)
    side: _Binary | _Softmax
    if isinstance(objective, TorchBinaryProblems):
        side = _Binary(objective, problems, groups, scores)
    elif isinstance(objective, TorchSoftmaxProblems):
        side = _Softmax(objective, problems, scores[0])
    else:
        raise TypeError(f"no dual is known for {type(objective).__name__}")
    return conclude(objective, problems, points, groups, side)


def _chunks(n_rows: int, width: int) -> list[slice]:
    """Cut rows so that a dozen float64 temporaries of this width stay small."""
    step = max(1, CHUNK_NUMBERS // 16 // max(1, width))
    return [slice(low, min(low + step, n_rows)) for low in range(0, n_rows, step)]


class _Binary:
    """The scores of binary problems; ``shift`` is what is added to the intercepts."""

    def __init__(
        self,
        objective: TorchBinaryProblems,
        problems: Integers,
        groups: list[Group],
        scores: list[Tensor],
    ) -> None:
        self.objective, self.n_problems = objective, len(problems)
        self.groups, self.scores = groups, scores
        self.columns = objective.passes.columns(groups)
        self.signs = objective.passes.signs(groups)
        self.positive = objective.positive_rows(problems)

    def _each(self, move: Tensor) -> Iterator[tuple[int, slice, Tensor, Tensor, Tensor]]:
        """Yield group, rows of its scores, minus margins, signs (-1: positive row), weights."""
        labels, weights = self.objective.row_labels, self.objective.row_weights
        for index, (group, scores) in enumerate(zip(self.groups, self.scores, strict=True)):
            along = move[self.columns[index]]
            for part in _chunks(len(scores), scores.shape[1]):
                z = scores[part].double()
                rows = slice(group.start + part.start, group.start + part.stop)
                if group.sign is None:
                    own = labels[rows, None] == self.positive
                    sign = torch.where(own, -1.0, 1.0).to(z.dtype)
                    u = sign * (z + along)
                else:
                    sign = self.signs[index].expand(z.shape)
                    u = z + sign * along  # the pass has signed the scores
                s = torch.ones_like(u[:, :1]) if weights is None else weights[rows, None]
                yield index, part, u, sign, s

    def _sums(self, shift: Array) -> Array:
        """Sum, per problem, the residual mass of negatives and positives, and the curvature."""
        total = torch.zeros(3, self.n_problems, dtype=torch.float64, device=self.positive.device)
        for index, _, u, sign, s in self._each(self.objective.design.send(shift)):
            p = torch.sigmoid(u)
            sp = s * p
            mine = torch.where(sign < 0, sp, 0.0)
            part = [(sp - mine).sum(dim=0), mine.sum(dim=0), (sp * torch.sigmoid(-u)).sum(dim=0)]
            total[:, self.columns[index]] += torch.stack(part)
        return total.cpu().numpy()

    def best_shift(self) -> Array:
        """Solve for the change of each intercept that balances the residuals."""
        shift = np.zeros(self.n_problems)
        if not self.objective.intercept:
            return shift
        for _ in range(NEWTON_STEPS):
            negative, positive, curvature = self._sums(shift)
            off = positive - negative
            if np.all(np.abs(off) <= BALANCED * np.maximum(positive, negative)):
                break
            shift += np.clip(off / np.maximum(curvature, TINY), -LARGEST_STEP, LARGEST_STEP)
        return shift

    def feasible(self, shift: Array) -> tuple[Array, Array, list[Tensor], Array]:
        """Scale the heavier side's residuals down until both sides weigh the same."""
        send = self.objective.design.send
        negative, positive, _ = self._sums(shift)
        if not self.objective.intercept:  # then there is nothing to balance
            negative = positive = np.zeros_like(positive)
        heavier = np.maximum(np.maximum(positive, negative), TINY)
        cut_positive = send(np.maximum(positive - negative, 0.0) / heavier)
        cut_negative = send(np.maximum(negative - positive, 0.0) / heavier)
        residuals = [torch.empty_like(scores) for scores in self.scores]
        total = torch.zeros(2, self.n_problems, dtype=torch.float64, device=self.positive.device)
        for index, rows, u, sign, s in self._each(send(shift)):
            cols = self.columns[index]
            cut = torch.where(sign < 0, cut_positive[cols], cut_negative[cols])
            q = (1 - cut) * torch.sigmoid(u)
            # (1 - q) / (1 - p) is 1 + cut p / (1 - p), and p / (1 - p) is exp(u).
            kl = (1 - q) * torch.log1p(cut * torch.exp(u.clamp(max=700.0)))
            kl += q * torch.log1p(-cut.clamp(max=1 - 1e-16))
            loss = u.clamp(min=0.0) + torch.log1p(torch.exp(-u.abs()))
            # The groups' signs are the passes' business; a row's own sign is not.
            signed = q if self.groups[index].sign is not None else q * sign
            residuals[index][rows] = (s * signed).to(residuals[index].dtype)
            total[:, cols] += torch.stack([(s * loss).sum(dim=0), (s * kl).sum(dim=0)])
        losses, divergence = total.cpu().numpy()
        return losses, divergence, residuals, np.abs(positive - negative)


class _Softmax:
    """The scores of multinomial problems, rows x problems x classes."""

    def __init__(self, objective: TorchSoftmaxProblems, problems: Integers, scores: Tensor) -> None:
        self.objective = objective
        self.scores = scores.reshape(len(scores), len(problems), -1)
        self.n_problems, self.n_classes = self.scores.shape[1:]
        # Weight of the rows of each class: what the probabilities must sum to.
        self.mass = np.bincount(objective.labels, objective.weight, minlength=self.n_classes)

    def _each(self, shift: Array) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Yield rows, scores, labels for gather and scatter, and weights (rows, 1)."""
        move, weights = self.objective.design.send(shift), self.objective.row_weights
        for rows in _chunks(len(self.scores), self.scores[0].numel()):
            z = self.scores[rows].double() + move
            labels = self.objective.row_labels[rows, None, None].expand(-1, self.n_problems, 1)
            s = torch.ones_like(z[:, :1, 0]) if weights is None else weights[rows, None]
            yield rows, z, labels, s

    def best_shift(self) -> Array:
        """Solve for the change of the intercepts that balances every class's residuals."""
        k = self.n_classes
        shift = np.zeros((self.n_problems, k))
        if not self.objective.intercept:
            return shift
        for _ in range(NEWTON_STEPS):
            table = self._zeros(self.n_problems, k + 1, k)
            for _, z, _, s in self._each(shift):
                p = torch.softmax(z, dim=2)
                sp = s[:, :, None] * p
                table[:, :k] += torch.bmm(sp.permute(1, 2, 0), p.permute(1, 0, 2))
                table[:, k] += sp.sum(dim=0)
            found = table.cpu().numpy()
            outer, mass = found[:, :k], found[:, k]
            off = mass - self.mass
            if np.all(np.abs(off) <= BALANCED * mass.sum(axis=1, keepdims=True)):
                break
            # The curvature does not see a common shift of all classes; fill that direction in.
            hessian = -outer + mass.mean(axis=1)[:, None, None] / k
            index = np.arange(k)
            hessian[:, index, index] += mass * (1 + 1e-14)
            step = np.linalg.solve(hessian, off[:, :, None])[:, :, 0]
            step -= step.mean(axis=1, keepdims=True)
            shift -= np.clip(step, -LARGEST_STEP, LARGEST_STEP)
        return shift

    def feasible(self, shift: Array) -> tuple[Array, Array, list[Tensor], Array]:
        """Move mass from the classes that have too much to those that have too little."""
        sums = self._zeros(2, self.n_problems, self.n_classes)
        for _, z, labels, s in self._each(shift):
            sr = s[:, :, None] * _residuals(z, labels)[0]
            sums += torch.stack([sr.sum(dim=0), sr.clamp(min=0.0).sum(dim=0)])
        off, foreign = sums.cpu().numpy()  # foreign: mass that rows of other classes give a class
        off = off * self.objective.intercept
        cut = np.minimum(np.maximum(off, 0.0) / np.maximum(foreign, TINY), 1.0)
        lack = np.maximum(-off, 0.0)
        share = lack / np.maximum(lack.sum(axis=1, keepdims=True), TINY)
        send = self.objective.design.send
        cut_of, share_of = send(cut), send(share)
        residuals = torch.empty_like(self.scores)
        total = self._zeros(2, self.n_problems)
        for rows, z, labels, s in self._each(shift):
            r, log_p = _residuals(z, labels)
            p = r.clamp(min=0.0)  # what the row gives to classes that are not its own
            freed = cut_of * p
            q = p - freed + freed.sum(dim=2, keepdim=True) * share_of
            own = log_p.gather(2, labels)
            q.scatter_(2, labels, q.gather(2, labels) + own.exp())
            kl = torch.where(q > 0, q * (q.clamp(min=TINY).log() - log_p), 0.0).sum(dim=2)
            q.scatter_(2, labels, 0.0)
            q.scatter_(2, labels, -q.sum(dim=2, keepdim=True))
            residuals[rows] = (s[:, :, None] * q).to(residuals.dtype)
            total += torch.stack([(-s * own[:, :, 0]).sum(dim=0), (s * kl).sum(dim=0)])
        losses, divergence = total.cpu().numpy()
        flat = residuals.reshape(len(residuals), -1)
        return losses, divergence, [flat], np.linalg.norm(off, axis=1)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.scores.device)


def _residuals(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax minus indicator and log p, without cancellation in the label's own entry."""
    log_p = torch.log_softmax(z, dim=2)
    p = log_p.exp()
    p.scatter_(2, labels, 0.0)
    own = -p.sum(dim=2, keepdim=True)
    p.scatter_(2, labels, own)
    # log(1 - others) keeps the small losses of well-classified rows.
    sure = own > -0.5
    exact = torch.where(sure, torch.log1p(torch.where(sure, own, 0.0)), log_p.gather(2, labels))
    log_p.scatter_(2, labels, exact)
    return p, log_p
