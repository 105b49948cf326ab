"""The corrections of a batched limited-memory BFGS, and the directions that they give.

Many problems' corrections are more than a core's cache holds: directions are computed for some
problems at a time, in threads. Those of a problem that has converged stay where they are until half
of all have; copying the others together each time would take longer than the products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.solver.rowwise import each_piece, some_rows
from classify.solver.threads import Workers
from classify.solver.tuning import IN_USE

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]


class History:
    """The unfinished problems' corrections."""

    def __init__(
        self, memory: int, n_problems: int, n_parameters: int, dtype: Any, workers: Workers
    ) -> None:
        self.workers, self._memory, self._dtype = workers, memory, np.dtype(dtype)
        self._stored = n_problems
        # Which of the stored rows the unfinished problems have; None for all.
        self._rows: npt.NDArray[np.intp] | None = None
        self._steps: list[Floats] = []  # differences of points, each (n_stored, n_parameters)
        self._bends: list[Floats] = []  # differences of gradients
        self._rho = np.zeros((memory, n_problems))  # 1 / (step . bend), 0 for an empty place
        self._newest = -1  # the place that was filled last

    def keep(self, mask: Bools) -> None:
        """Drop the problems that are not in `mask`."""
        rows = np.flatnonzero(mask) if self._rows is None else self._rows[mask]
        self._rho = self._rho[:, mask]
        self._rows = rows
        if len(rows) <= IN_USE * self._stored:
            for kept in (self._steps, self._bends):
                for place, table in enumerate(kept):
                    kept[place] = some_rows(self.workers, table, rows)
            self._stored, self._rows = len(rows), None

    def forget(self, mask: Bools) -> None:
        """Empty all places of the problems in `mask`."""
        self._rho[:, mask] = 0.0

    def add(self, points: Array, before: Array, gradients: Array, gradients_before: Array) -> None:
        """Fill a place; it stays empty for problems whose curvature rounding has hidden.

        Shapes: `points, before` (k, n_parameters), `gradients, gradients_before` (k, n_parameters).
        """
        self._newest = place = (self._newest + 1) % self._memory
        if place == len(self._steps):
            shape = self._stored, points.shape[1]
            self._steps.append(np.empty(shape, self._dtype))
            self._bends.append(np.empty(shape, self._dtype))

        def fill(part: slice) -> None:
            s, y = points[part] - before[part], gradients[part] - gradients_before[part]
            sy = np.einsum("ij,ij->i", s, y)
            size = np.sqrt(np.einsum("ij,ij->i", s, s) * np.einsum("ij,ij->i", y, y))
            use = (sy > 0) & (sy > 1e-14 * size)
            rows = part if self._rows is None else self._rows[part]
            self._steps[place][rows], self._bends[place][rows] = s, y
            self._rho[place, part] = np.where(use, 1 / np.where(use, sy, 1.0), 0.0)

        each_piece(self.workers, points, fill)

    def direction(self, gradients: Array, precondition: Callable[[Floats], Floats]) -> Array:
        """Compute approximate Newton steps.

        Shapes: `gradients` (k, n_parameters), returns (k, n_parameters).
        """
        places = [(self._newest - i) % self._memory for i in range(self._memory)]
        used = [place for place in places if self._rho[place].any()]
        alpha = np.zeros_like(self._rho)
        q: Floats = np.empty(gradients.shape, self._dtype)

        def down(part: slice) -> None:
            block = q[part]
            block[...] = gradients[part]
            for place in used:
                a = self._rho[place, part] * np.einsum(
                    "ij,ij->i", self._of(self._steps, place, part), block
                )
                block -= a.astype(block.dtype)[:, None] * self._of(self._bends, place, part)
                alpha[place, part] = a

        def up(part: slice) -> None:
            block = q[part]
            for place in reversed(used):
                b = self._rho[place, part] * np.einsum(
                    "ij,ij->i", self._of(self._bends, place, part), block
                )
                left = (alpha[place, part] - b).astype(block.dtype)
                block += left[:, None] * self._of(self._steps, place, part)
            np.negative(block, out=result[part])

        each_piece(self.workers, q, down)
        q = precondition(q).astype(self._dtype, copy=False)
        result = np.empty(q.shape)
        each_piece(self.workers, q, up)
        return result

    def _of(self, kept: list[Floats], place: int, part: slice) -> Floats:
        """Return some problems' rows of a place."""
        return kept[place][part if self._rows is None else self._rows[part]]
