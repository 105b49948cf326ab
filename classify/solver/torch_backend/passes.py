"""Passes over rows that lie on a device: the twin of `classify.solver.passes`.

Weights go to the device once a pass, and one tensor of losses, totals and products comes back;
nothing in between waits for the device. Products with the rows are summed in float64 over blocks
of rows, as on the CPU. Nothing is added by atomic operations, so that a fit gives the same bits
each time on the same device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from classify.solver.passes import Group
from classify.solver.torch_backend.design import TorchDesign
from classify.solver.tuning import DEVICE_BLOCK_ROWS, DEVICE_CHUNK_NUMBERS

Array = npt.NDArray[np.float64]


class TorchPasses:
    """The passes over one design on a device."""

    def __init__(self, design: TorchDesign) -> None:
        self.design = design

    def fused(
        self, groups: Sequence[Group], weights: Array, intercepts: Array, link: Callable[..., Any]
    ) -> tuple[Array, Array, Array]:
        """Return summed losses and residuals, and ``residuals.T @ features``, all of every column.

        `link` maps signed scores on the device to losses and residuals there.
        """
        design, n_columns = self.design, len(weights)
        columns, signs = self.columns(groups), self.signs(groups)
        factors = self._factors(groups, columns, signs, weights, intercepts)
        # Sums, last two columns: totals of the residuals, and losses.
        table = self._zeros(n_columns, design.n_features + 2)
        for group, (w, b), cols, sign in zip(groups, factors, columns, signs, strict=True):
            part = self._zeros(len(group.columns), design.n_features + 2)
            for start, stop in self.row_pieces(group):
                block = design.X[start:stop]
                losses, residual = link(torch.addmm(b, block, w.T), start, stop, group)
                part[: losses.shape[1], -1] += losses.sum(dim=0, dtype=torch.float64)
                self._add_products(part, residual, block)
            _gather(table, part, cols, sign if group.sign is not None else None)
        table[:, :-2] = design.unfold(table[:, :-2], table[:, -2])
        found = table.cpu().numpy()
        return found[:, -1], found[:, -2], found[:, :-2]

    def scores(self, groups: Sequence[Group], weights: Array, intercepts: Array) -> list[Any]:
        """Compute every group's signed scores, on the device: the first half of a pass."""
        columns, signs = self.columns(groups), self.signs(groups)
        factors = self._factors(groups, columns, signs, weights, intercepts)
        return [
            torch.addmm(b, self.design.X[group.start : group.stop], w.T)
            for group, (w, b) in zip(groups, factors, strict=True)
        ]

    def back(
        self, groups: Sequence[Group], residuals: Sequence[Any], n_columns: int
    ) -> tuple[Array, Array]:
        """Multiply signed residuals by the features: the second half of a pass."""
        design = self.design
        table = self._zeros(n_columns, design.n_features + 2)
        parts = zip(groups, residuals, self.columns(groups), self.signs(groups), strict=True)
        for group, residual, cols, sign in parts:
            part = self._zeros(len(group.columns), design.n_features + 2)
            for start, stop in self.row_pieces(group):
                rows = residual[start - group.start : stop - group.start]
                self._add_products(part, rows, design.X[start:stop])
            _gather(table, part, cols, sign if group.sign is not None else None)
        table[:, :-2] = design.unfold(table[:, :-2], table[:, -2])
        found = table.cpu().numpy()
        return found[:, -2], found[:, :-2]

    def columns(self, groups: Sequence[Group]) -> list[Tensor]:
        """Send all groups' columns to the device at once."""
        sizes = [len(group.columns) for group in groups]
        together = np.concatenate([group.columns for group in groups]).astype(np.int64)
        return list(self.design.send(together).split(sizes))

    def signs(self, groups: Sequence[Group]) -> list[Tensor]:
        """Send all groups' signs to the device at once; 1 where a group has none."""
        signs = [
            np.ones(len(group.columns)) if group.sign is None else group.sign for group in groups
        ]
        return list(self.design.send(np.concatenate(signs)).split([len(sign) for sign in signs]))

    def row_pieces(self, group: Group) -> list[tuple[int, int]]:
        """Cut a group's rows so that temporaries stay small."""
        step = (
            max(1, DEVICE_CHUNK_NUMBERS // max(1, len(group.columns)) // DEVICE_BLOCK_ROWS)
            * DEVICE_BLOCK_ROWS
        )
        return [(low, min(low + step, group.stop)) for low in range(group.start, group.stop, step)]

    def _factors(
        self,
        groups: Sequence[Group],
        columns: list[Tensor],
        signs: list[Tensor],
        weights: Array,
        intercepts: Array,
    ) -> list[tuple[Tensor, Tensor]]:
        """Fold the weights on the device and deal them out to the groups, with their signs."""
        table = self.design.send(np.column_stack([weights, intercepts]))
        w, b = self.design.fold(table[:, :-1], table[:, -1])
        if len(groups) == 1 and groups[0].sign is None and len(groups[0].columns) == len(w):
            return [(w, b)]
        chosen, sign = torch.cat(columns), torch.cat(signs).to(w.dtype)
        w, b = w[chosen] * sign[:, None], b[chosen] * sign
        sizes = [len(cols) for cols in columns]
        return list(zip(w.split(sizes), b.split(sizes), strict=True))

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.design.device)

    def _add_products(self, part: Tensor, residual: Tensor, block: Tensor) -> None:
        """Add the residuals' sums and their products with the rows to a table, in float64."""
        part[:, -2] += residual.sum(dim=0, dtype=torch.float64)
        whole = len(block) // DEVICE_BLOCK_ROWS * DEVICE_BLOCK_ROWS
        if whole:
            # Of many columns a few blocks at a time: their products lie side by side.
            few = (
                max(1, DEVICE_CHUNK_NUMBERS // (residual.shape[1] * block.shape[1]))
                * DEVICE_BLOCK_ROWS
            )
            for low in range(0, whole, few):
                high = min(low + few, whole)
                left = residual[low:high].reshape(-1, DEVICE_BLOCK_ROWS, residual.shape[1])
                right = block[low:high].reshape(-1, DEVICE_BLOCK_ROWS, block.shape[1])
                part[:, :-2] += torch.bmm(left.transpose(1, 2), right).sum(
                    dim=0, dtype=torch.float64
                )
        if whole < len(block):
            part[:, :-2] += residual[whole:].T @ block[whole:]


def _gather(table: Tensor, part: Tensor, columns: Tensor, sign: Tensor | None) -> None:
    """Add a group's sums, freed of its signs, to those of all columns; losses have none."""
    if sign is not None:
        part[:, :-1] *= sign[:, None]
    table[columns] += part
