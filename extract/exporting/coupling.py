"""One-vs-one's pairs of classes in torch: votes, and the coupling of pairwise probabilities.

The same as stage two's ``classify.codings``, which says where it is from, for a block of rows at a
time. Arrays are squares of classes: ``evidence[a, b]`` is the score of class b against class a, so
that ``evidence[b, a]`` is its negative.

Numbers are float64, and so are constants: of Python's numbers an exported graph keeps float32.
Constants are made outside of loops, in which a graph cannot hold them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch

from extract.exporting.loops import repeat_while

Tensors = tuple[torch.Tensor, ...]

# As in stage two's coupling: LIBSVM's limit of a pairwise probability and its rule to stop, in
# units of one over the number of classes; from how many classes on the minimum is found by
# conjugate gradients, and how exactly.
CLIP = 1e-7
_SWEPT = 0.005
MANY_CLASSES = 64
_COUPLED = 1e-5
# Numbers of a square for all rows of a block; of squares there are some ten at a time.
_BLOCK_NUMBERS, _BLOCK_ROWS = 1_000_000, 2048


class Pairs(Protocol):
    """What scores rows by pairs of classes."""

    def constants(self) -> Tensors:
        """Return what scores are made of, in float64."""

    def evidence(self, constants: Tensors, rows: torch.Tensor) -> torch.Tensor:
        """Score rows (n, n_features): (n_classes, n_classes, n)."""


class _Rules(NamedTuple):
    """Constants of the coupling."""

    limit: torch.Tensor  # of a logit
    tolerance: torch.Tensor
    first: torch.Tensor  # (n_classes, n_classes, 1): whether the second is the pair's first
    apart: torch.Tensor  # (n_classes, n_classes, 1): 0 on the diagonal, 1 elsewhere
    classes: torch.Tensor  # (n_classes,)


def float64(value: float, like: torch.Tensor) -> torch.Tensor:
    """Make a constant that an exported graph keeps in float64, on the device of a tensor."""
    return torch.tensor(value, dtype=torch.float64).to(like.device)


def block_rows(n_classes: int) -> int:
    """Return how many rows are coupled at a time, at most."""
    return max(1, min(_BLOCK_ROWS, _BLOCK_NUMBERS // n_classes**2))


def pair_index(n_classes: int, device: torch.device) -> torch.Tensor:
    """Return the place of each two classes in the order of the pairs, (n_classes, n_classes).

    The diagonal, which is no pair, has that of some pair.
    """
    index = torch.arange(n_classes, device=device)
    first = torch.minimum(index[:, None], index)
    later = torch.maximum(index[:, None], index)
    found = first * (2 * n_classes - first - 1) // 2 + later - first - 1
    return found.clamp(min=0, max=n_classes * (n_classes - 1) // 2 - 1)


def signs(n_classes: int, device: torch.device) -> torch.Tensor:
    """Return 1 where the second class is the later one, -1 where the first is, 0 in between.

    Shapes: returns (n_classes, n_classes, 1).
    """
    index = torch.arange(n_classes, device=device)
    return torch.sign(index - index[:, None]).to(torch.float64)[:, :, None]


def answer_pairs(
    pairs: Pairs, rows: torch.Tensor, n_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Answer rows (n, n_features) by pairs of classes.

    Returns probabilities (n, n_classes) and labels (n,). Of many classes that is done in blocks of
    rows; of fewer at once, which takes about ``50 n_classes^2`` bytes a row.
    """
    constants, rules = pairs.constants(), _rules(n_classes, rows)
    if n_classes < MANY_CLASSES:
        evidence = pairs.evidence(constants, rows)
        return _couple(evidence, rules).T, _labels(evidence, rules)
    # Numbers of the graph, not of Python: an export would keep those of its example.
    count = torch.scalar_tensor(rows.shape[0], dtype=torch.int64, device=rows.device)
    size = count // (count // block_rows(n_classes) + 1) + 1
    places = torch.arange(_size(size), device=rows.device)
    # A row of zeros stands in for those that the last block lacks.
    padded = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])

    def block(start: torch.Tensor, found: torch.Tensor, labels: torch.Tensor) -> Tensors:
        index = torch.minimum(start + places, count)
        evidence = pairs.evidence(constants, padded.index_select(0, index))
        return (
            start + size,
            found.index_copy(0, index, _couple(evidence, rules).T),
            labels.index_copy(0, index, _labels(evidence, rules)),
        )

    labels = torch.zeros_like(padded[:, 0], dtype=torch.int64)
    found = torch.zeros_like(padded[:, :1]).repeat(1, n_classes)
    state = torch.zeros_like(count), found, labels
    _, found, labels = repeat_while(lambda start, *_: start < count, block, state)
    return found[:-1], labels[:-1]


def _size(number: torch.Tensor) -> Any:
    found = number.item()
    torch._check(found >= 1)
    return found


def _rules(n_classes: int, like: torch.Tensor) -> _Rules:
    tolerance = _SWEPT if n_classes < MANY_CLASSES else _COUPLED
    sign = signs(n_classes, like.device)
    return _Rules(
        limit=float64(math.log((1 - CLIP) / CLIP), like),
        tolerance=float64(tolerance / n_classes, like),
        first=sign < 0,
        apart=sign.abs(),
        classes=torch.arange(n_classes, device=like.device),
    )


def _labels(evidence: torch.Tensor, rules: _Rules) -> torch.Tensor:
    """Return the class with the most votes, of equal ones the one with the largest summed scores.

    Shapes: evidence (n_classes, n_classes, n_rows), returns (n_rows,).
    """
    # An undecided pair votes for its first class.
    won = (evidence > 0) | ((evidence == 0) & rules.first)
    votes, margins = won.to(torch.float64).sum(dim=0), evidence.sum(dim=0)
    return torch.argmax(votes + margins / (3 * (margins.abs() + 1)), dim=0)


def _couple(evidence: torch.Tensor, rules: _Rules) -> torch.Tensor:
    """Turn logits (n_classes, n_classes, n_rows) into probabilities (n_classes, n_rows)."""
    share = torch.sigmoid(torch.maximum(torch.minimum(evidence, rules.limit), -rules.limit))
    # share[a, b] is of b against a; Q has the shares of others against a on its diagonal.
    diagonal = (share * share * rules.apart).sum(dim=1)
    q = (1 - rules.apart) * diagonal[:, None] - share * (1 - share) * rules.apart
    many = len(rules.classes) >= MANY_CLASSES
    return _by_gradients(q, diagonal, rules) if many else _by_sweeps(q, diagonal, rules)


def _by_sweeps(q: torch.Tensor, diagonal: torch.Tensor, rules: _Rules) -> torch.Tensor:
    """Run LIBSVM's iteration until its rule ends it, row by row."""
    n_classes = len(rules.classes)

    def judged(p: torch.Tensor) -> Tensors:
        qp = (q * p).sum(dim=1)
        pqp = (p * qp).sum(dim=0)
        return qp, pqp, (qp - pqp).abs().amax(dim=0) >= rules.tolerance

    def goes_on(count: torch.Tensor, *state: torch.Tensor) -> torch.Tensor:
        return (count < max(100, n_classes)) & state[-1].any()

    def sweep(
        count: torch.Tensor, p: torch.Tensor, qp: torch.Tensor, pqp: torch.Tensor,
        busy: torch.Tensor,
    ) -> Tensors:  # fmt: skip
        # p and qp are not divided after each class, but by `total` after the last.
        state = torch.zeros_like(count), p.clone(), qp.clone(), pqp.clone(), torch.ones_like(pqp)
        _, new, _, _, total = repeat_while(lambda t, *_: t < n_classes, one_class, state)
        p = torch.where(busy, new / total, p)
        return count + 1, p, *judged(p)

    def one_class(
        t: torch.Tensor, p: torch.Tensor, qp: torch.Tensor, pqp: torch.Tensor, total: torch.Tensor
    ) -> Tensors:
        row, own, qp_t = (table.index_select(0, t.reshape(1))[0] for table in (q, diagonal, qp))
        qp_t = qp_t / total
        diff = (pqp - qp_t) / own
        pqp = (pqp + diff * (diff * own + 2 * qp_t)) / ((1 + diff) * (1 + diff))
        change = total * diff
        p = torch.where((rules.classes == t)[:, None], p + change, p)
        return t + 1, p, qp + change * row, pqp, total + change

    p = torch.ones_like(diagonal) / n_classes
    count = torch.zeros_like(rules.classes[0])
    return repeat_while(goes_on, sweep, (count, p, *judged(p)))[1]


def _by_gradients(q: torch.Tensor, diagonal: torch.Tensor, rules: _Rules) -> torch.Tensor:
    """Find the minimum by conjugate gradients that keep the sum of the probabilities."""
    n_classes = len(rules.classes)
    q, inverse = q.permute(2, 0, 1).contiguous(), 1 / diagonal.T
    total = inverse.sum(dim=1, keepdim=True)

    def product(p: torch.Tensor) -> torch.Tensor:
        return torch.matmul(q, p[:, :, None])[:, :, 0]

    def dot(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one * other).sum(dim=1, keepdim=True)

    def unequal(p: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        apart = (gradient - dot(p, gradient)).abs().amax(dim=1, keepdim=True)
        return apart >= rules.tolerance

    def goes_on(count: torch.Tensor, busy: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return (count < max(100, n_classes)) & busy.any()

    def step(
        count: torch.Tensor, busy: torch.Tensor, p: torch.Tensor, gradient: torch.Tensor,
        direction: torch.Tensor, past: torch.Tensor,
    ) -> Tensors:  # fmt: skip
        z = inverse * (gradient - dot(inverse, gradient) / total)
        new = dot(z, gradient)
        direction = (new / past) * direction - z
        along = product(direction)
        curvature = dot(direction, along)
        busy = busy & (new > 0) & (curvature > 0)  # else rounding is all that is left
        size = new / curvature
        p = torch.where(busy, p + size * direction, p)
        gradient = torch.where(busy, gradient + size * along, gradient)
        return count + 1, busy & unequal(p, gradient), p, gradient, direction, new

    p = inverse / total
    gradient = product(p)
    count = torch.zeros_like(rules.classes[0])
    state = unequal(p, gradient), p, gradient, torch.zeros_like(p), torch.ones_like(total)
    p = torch.relu(repeat_while(goes_on, step, (count, *state))[2])
    return (p / p.sum(dim=1, keepdim=True)).T
