"""The problems of `classify.solver.problems` over rows on a device.

What belongs to the minimiser (groups of columns, parameters, penalty) is theirs; what meets every
row (labels, sample weights, links and curvatures) is here, on the device.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from classify.solver.passes import Group
from classify.solver.problems import BinaryProblems, Problems, SoftmaxProblems
from classify.solver.torch_backend.arrays import DeviceArrays
from classify.solver.torch_backend.design import TorchDesign
from classify.solver.torch_backend.losses import (
    CURVATURES,
    LOSSES,
    softmax,
    softmax_curvature,
)
from classify.solver.torch_backend.passes import TorchPasses

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]


class _OnDevice(Problems):
    """What both kinds share: labels and weights on the device, and links that know them."""

    design: TorchDesign
    passes: TorchPasses

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.row_labels = self.design.send(np.asarray(self.labels, dtype=np.int64))
        self.row_weights = None if self.weight is None else self.design.send(self.weight)
        loss = self.loss.name if isinstance(self, BinaryProblems) else "logistic"
        self.arrays = DeviceArrays(self.passes, self.row_labels, self.row_weights, loss)

    def _passes(self) -> TorchPasses:
        return TorchPasses(self.design)

    @abstractmethod
    def curvatures(
        self, scores: Tensor, problems: Integers, group: Group
    ) -> Callable[[Integers], Tensor]:
        """Make what gives each row's second derivatives in some of a group's columns.

        Shapes: `scores` (rows, k) of the pass with `problems`; it takes column numbers (m,),
        ascending, and gives (rows, m).
        """

    @abstractmethod
    def bind(self, problems: Integers) -> Callable[..., tuple[Tensor, Tensor]]:
        """Make the link of a pass: what depends on the problems is sent to the device once."""

    def weighted_link(self, problems: Integers) -> Callable[..., Any]:
        """Bind the link, and multiply by the sample weights, on the device."""
        bound, weights = self.bind(problems), self.row_weights
        if weights is None:
            return bound
        weights = weights[:, None].to(self.design.X.dtype)

        def link(scores: Tensor, start: int, stop: int, group: Group) -> tuple[Tensor, Tensor]:
            loss, residual = bound(scores, start, stop, group)
            return loss * weights[start:stop], residual * weights[start:stop]

        return link


class TorchBinaryProblems(_OnDevice, BinaryProblems):
    """Binary problems on a device; see `classify.solver.problems.BinaryProblems`."""

    def positive_rows(self, problems: Integers) -> Tensor:
        """Send the positive class of each problem to the device, ``(1, k)``."""
        return self.design.send(np.asarray(self.sides.positive[problems], dtype=np.int64))[None]

    def bind(self, problems: Integers) -> Callable[..., tuple[Tensor, Tensor]]:
        """Apply the loss; without signs from the group, each row brings its own."""
        positive, value = self.positive_rows(problems), LOSSES[self.loss.name]

        def link(scores: Tensor, start: int, stop: int, group: Group) -> tuple[Tensor, Tensor]:
            if group.sign is not None:
                return value(scores)
            sign = torch.where(self.row_labels[start:stop, None] == positive, -1.0, 1.0)
            sign = sign.to(scores.dtype)
            loss, residual = value(scores * sign)
            return loss, residual * sign

        return link

    def curvatures(
        self, scores: Tensor, problems: Integers, group: Group
    ) -> Callable[[Integers], Tensor]:
        """Make what gives some of a group's columns of the losses' second derivatives."""
        curvature = CURVATURES[self.loss.name]
        if group.sign is not None or self.loss.symmetric:
            return lambda columns: curvature(_columns_of(scores, columns))
        positive = self.positive_rows(problems)
        labels = self.row_labels[group.start : group.stop, None]

        def some(columns: Integers) -> Tensor:
            sign = torch.where(labels == _columns_of(positive, columns), -1.0, 1.0)
            return curvature(_columns_of(scores, columns) * sign.to(scores.dtype))

        return some


class TorchSoftmaxProblems(_OnDevice, SoftmaxProblems):
    """Multinomial logistic problems on a device; see `Problems`."""

    def bind(self, problems: Integers) -> Callable[..., tuple[Tensor, Tensor]]:
        """Apply the softmax loss, problem by problem."""
        n_problems = len(problems)

        def link(scores: Tensor, start: int, stop: int, group: Group) -> tuple[Tensor, Tensor]:
            labels = self.row_labels[start:stop]
            if n_problems > 1:
                labels = labels.repeat_interleave(n_problems)
            loss, residual = softmax(scores.reshape(-1, self.columns), labels[:, None])
            return loss.reshape(stop - start, -1), residual.reshape(stop - start, -1)

        return link

    def curvatures(
        self, scores: Tensor, problems: Integers, group: Group
    ) -> Callable[[Integers], Tensor]:
        """Make what gives some of a group's columns of ``p_k (1 - p_k)``.

        Of a thousand classes and a million rows all at once would be ten gigabytes and more.
        """
        table = scores.reshape(len(scores), -1, self.columns)
        log_sum = scores.new_empty(table.shape[:2])
        for low, high in self.design.chunks(scores.shape[1]):
            log_sum[low:high] = torch.logsumexp(table[low:high], dim=2)

        def some(columns: Integers) -> Tensor:
            problems = _columns_of(log_sum, columns // self.columns)
            return softmax_curvature(_columns_of(scores, columns), problems)

        return some


def _columns_of(table: Tensor, columns: Integers) -> Tensor:
    """Copy consecutive or repeated columns of a table, without a list of places on the device."""
    first, last = int(columns[0]), int(columns[-1])
    if np.array_equal(columns, np.arange(first, last + 1)):
        return table[:, first : last + 1]
    return table[:, torch.from_numpy(columns.astype(np.int64)).to(table.device)]
