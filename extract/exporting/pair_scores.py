"""Scores of one-vs-one's pairs in torch, as squares of classes: see `extract.exporting.coupling`.

What does not depend on the rows is made once, outside of the loop over blocks of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from extract.exporting.coupling import pair_index, signs

Tensors = tuple[torch.Tensor, ...]
# Rows of large classes are added one by one, which takes so many times as long as together.
_ONE_BY_ONE = 8


class WrittenPairs:
    """Pairs whose weights are written out, as an ``nn.Linear``."""

    def __init__(self, linear: nn.Linear, n_classes: int) -> None:
        self.linear, self.n_classes = linear, n_classes

    def constants(self) -> Tensors:
        """Return what scores are made of, in float64."""
        weight, bias = self.linear.weight, self.linear.bias
        index = pair_index(self.n_classes, weight.device).flatten()
        sign = signs(self.n_classes, weight.device)
        return weight.to(torch.float64), bias.to(torch.float64), index, sign

    def evidence(self, constants: Tensors, rows: torch.Tensor) -> torch.Tensor:
        """Score rows (n, n_features): (n_classes, n_classes, n)."""
        weight, bias, index, sign = constants
        scores = torch.matmul(weight, rows.T) + bias[:, None]
        square = scores.index_select(0, index).reshape(self.n_classes, self.n_classes, -1)
        return square * sign


class PairSums(nn.Module):
    """Pairs whose weights are sums of the few rows that they were fitted to.

    Buffers are named as in the head's file: ``span`` (n_rows, n_features) has the rows, sorted by
    class; ``shift`` (n_features,) is taken off features before; ``starts`` (n_classes + 1,) says
    where classes begin; ``duals`` (n_rows, n_classes) are the rows' coefficients, and ``offset``
    (n_pairs,) the scores of a row that is ``shift``.
    """

    span: torch.Tensor
    shift: torch.Tensor
    starts: torch.Tensor
    duals: torch.Tensor
    offset: torch.Tensor
    together: torch.Tensor
    alone: torch.Tensor
    alone_class: torch.Tensor

    def __init__(self, arrays: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        for name in ("span", "shift", "starts", "duals", "offset"):
            self.register_buffer(name, arrays[name])
        self.n_classes = len(arrays["starts"]) - 1
        for name, index in _places(arrays["starts"].numpy()).items():
            self.register_buffer(name, torch.tensor(index), persistent=False)

    def constants(self) -> Tensors:
        """Return what scores are made of, in float64."""
        duals = self.duals.to(torch.float64)
        none = torch.zeros_like(duals[:1])
        index = pair_index(self.n_classes, duals.device)
        return (
            self.span.to(torch.float64),
            self.shift.to(torch.float64),
            torch.cat([duals, none])[self.together].transpose(1, 2),
            duals[self.alone][:, :, None],
            self.offset.to(torch.float64)[index][:, :, None],
            signs(self.n_classes, duals.device),
        )

    def evidence(self, constants: Tensors, rows: torch.Tensor) -> torch.Tensor:
        """Score rows (n, n_features): (n_classes, n_classes, n)."""
        span, shift, duals, alone, offset, sign = constants
        products = torch.matmul(span, (rows - shift).T)
        several = torch.cat([products, torch.zeros_like(products[:1])])[self.together]
        sums = torch.matmul(duals, several)  # of a class's rows, for each other class
        if len(self.alone):
            more = alone * products[self.alone][:, None]
            sums = sums.index_add(0, self.alone_class, more)
        square = sums + sums.transpose(0, 1) + offset
        return square * sign


def _places(starts: np.ndarray) -> dict[str, np.ndarray]:
    """Say which rows of each class are added up together, and which of large classes alone.

    ``together`` (n_classes, n_slots) has for each class its first rows, and the number of all rows
    where it has no more.
    """
    sizes, n_rows = np.diff(starts), int(starts[-1])
    over = [np.maximum(sizes - slots, 0).sum() for slots in range(sizes.max() + 1)]
    costs = len(sizes) * np.arange(len(over)) + _ONE_BY_ONE * np.array(over)
    n_slots = max(1, int(np.argmin(costs)))
    slots = starts[:-1, None] + np.arange(n_slots)
    place = np.arange(n_rows) - np.repeat(starts[:-1], sizes)
    alone = np.flatnonzero(place >= n_slots)
    return {
        "together": np.where(np.arange(n_slots) < sizes[:, None], slots, n_rows),
        "alone": alone,
        "alone_class": np.repeat(np.arange(len(sizes)), sizes)[alone],
    }
