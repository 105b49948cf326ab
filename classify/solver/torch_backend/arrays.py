"""Tensors for the certificate's formulas: what `classify.solver.arrays` asks for, on a device.

Scores stay on the device; each step of Newton's method on the intercepts brings a few sums to the
host. Everything but the products with the features is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from classify.solver.arrays import ScoreBlock
from classify.solver.passes import Group
from classify.solver.torch_backend.losses import CURVATURES, LOSSES
from classify.solver.torch_backend.passes import TorchPasses
from classify.solver.tuning import DEVICE_CHUNK_NUMBERS

Array = npt.NDArray[np.float64]


class DeviceArrays:
    """Tensors on the device of some passes; labels and weights of their rows are there already."""

    xp: Any = torch

    def __init__(
        self, passes: TorchPasses, labels: Tensor, weight: Tensor | None, loss: str = "logistic"
    ) -> None:
        self._passes, self._labels, self._weight = passes, labels, weight
        self._loss, self._curvature = LOSSES[loss], CURVATURES[loss]

    def send(self, values: npt.NDArray[Any]) -> Tensor:
        """Copy a small array to the device."""
        return self._passes.design.send(values)

    def host(self, values: Tensor) -> Array:
        """Copy a small tensor to the host, which waits for it."""
        found: Array = values.cpu().numpy()
        return found

    def zeros(self, *shape: int) -> Tensor:
        """Make a tensor of float64."""
        return torch.zeros(shape, dtype=torch.float64, device=self._labels.device)

    def double(self, block: Tensor) -> Tensor:
        """Copy a block to float64, one that is float64 already too."""
        return block.to(torch.float64, copy=True)

    def at_least(self, values: Tensor, low: float) -> Tensor:
        """Replace values that are smaller."""
        return values.clamp(min=low)

    def at_most(self, values: Tensor, high: float) -> Tensor:
        """Replace values that are larger."""
        return values.clamp(max=high)

    def loss(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of binary problems and its derivative, of minus the margins."""
        return self._loss(u)

    def slopes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first two derivatives of that loss."""
        return self._loss(u)[1], self._curvature(u)

    def softmax(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the softmax over the last axis, and its logarithm."""
        log_p = torch.log_softmax(z, dim=-1)
        return log_p.exp(), log_p

    def outer(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum ``a[i, p, k] b[i, p, l]`` over the rows ``i``."""
        return torch.bmm(a.permute(1, 2, 0), b.permute(1, 0, 2))

    def groups(self, groups: Sequence[Group]) -> list[Group]:
        """Return groups with their columns and signs on the device, sent there at once."""
        columns: list[Any] = self._passes.columns(groups)
        signs: list[Any] = self._passes.signs(groups)
        return [
            Group(group.start, group.stop, which, None if group.sign is None else sign)
            for group, which, sign in zip(groups, columns, signs, strict=True)
        ]

    def weight(self, rows: slice, ndim: int) -> Any:
        """Return rows' weights to multiply a table of so many axes by; 1 where all have that."""
        if self._weight is None:
            return 1.0
        return self._weight[rows].reshape(-1, *[1] * (ndim - 1))

    def positive_entries(self, group: Group, rows: slice, positive: Tensor) -> _PositiveEntries:
        """Find some rows' positive entries."""
        columns: Any = group.columns
        sign: Any = group.sign
        if sign is not None:
            return _PositiveEntries(columns, sign, signed=True)
        sign = torch.where(self._labels[rows, None] == positive, -1.0, 1.0).double()
        return _PositiveEntries(columns, sign, signed=False)

    def label_entries(self, rows: slice, n_problems: int) -> _LabelEntries:
        """Find some rows' entries in their own class."""
        return _LabelEntries(self._labels[rows, None, None].expand(-1, n_problems, 1))

    def block_rows(self, columns: int) -> int:
        """Say how many rows of so many columns keep a dozen float64 temporaries small."""
        return max(1, DEVICE_CHUNK_NUMBERS // 16 // max(1, columns))

    def map(
        self, visit: Callable[[ScoreBlock], Any], blocks: list[ScoreBlock]
    ) -> Iterable[tuple[ScoreBlock, Any]]:
        """Visit one block after the other; the device works through them."""
        return ((block, visit(block)) for block in blocks)


class _PositiveEntries:
    """The entries as a table of signs, -1 where positive: finding their places waits for them."""

    def __init__(self, columns: Tensor, sign: Tensor, signed: bool) -> None:
        self.columns, self.sign, self.signed = columns, sign, signed

    def flip(self, table: Tensor) -> None:
        if not self.signed:
            table *= self.sign

    def add(self, u: Tensor, shift: Tensor) -> None:
        u += self.sign * shift[self.columns]

    def sums(self, table: Tensor) -> tuple[Tensor, Tensor]:
        mine = torch.where(self.sign < 0, table, 0.0)
        return (table - mine).sum(dim=0), mine.sum(dim=0)

    def choose(self, positive: Tensor, negative: Tensor, n_rows: int) -> Tensor:
        return torch.where(self.sign < 0, positive[self.columns], negative[self.columns])


class _LabelEntries:
    def __init__(self, labels: Tensor) -> None:
        self._labels = labels

    def of(self, table: Tensor) -> Tensor:
        return table.gather(2, self._labels)[:, :, 0]

    def put(self, table: Tensor, values: Any) -> None:
        is_scalar = not isinstance(values, Tensor)
        table.scatter_(2, self._labels, values if is_scalar else values[:, :, None])
