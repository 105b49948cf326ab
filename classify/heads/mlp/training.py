"""The training of the dense head: the only module of heads that needs torch.

Weights, batches and dropout are drawn by generators of the fit's own, so that fits side by side do
not touch each other, and the same seed gives the same head on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from classify.heads.interface import FitContext, RowSet
from classify.heads.mlp.course import Course, Floats, Layers, Plan
from classify.solver.backend import TORCH_ON_CPU
from classify.solver.threads import thread_count

# Rows that are judged at a time.
_JUDGED = 4096


def train(
    X: Floats,
    rows: RowSet,
    X_held: Floats | None,
    held: RowSet | None,
    plan: Plan,
    context: FitContext,
    on_epoch: Callable[[], None],
) -> Course:
    """Train on rows, until held-out rows are judged worse for a while, or for all epochs.

    Shapes: X (n_rows, n_features), X_held (n_held, n_features), on the host.
    """
    at = torch.device("cpu" if context.device == TORCH_ON_CPU else context.device)
    with _threads(context.n_jobs):
        run = _Training(X, rows, plan, context.seed, at)
        n_epochs = plan.max_epochs
        if held is None:
            n_epochs = max(n_epochs, -(-plan.least_steps // run.n_batches))
        curves: dict[str, list[float]] = {"loss": [], "accuracy": []}
        best, best_loss, layers = n_epochs, np.inf, None
        for epoch in range(1, n_epochs + 1):
            _add(curves, "", run.epoch())
            on_epoch()
            if held is None or X_held is None:
                continue
            loss, accuracy = run.judge(X_held, held)
            _add(curves, "validation_", (loss, accuracy))
            if loss < best_loss:
                best, best_loss, layers = epoch, loss, run.layers()
            elif epoch - best >= plan.patience:
                break
        return Course(layers or run.layers(), best, epoch < n_epochs, run.n_batches, curves)


def _add(curves: dict[str, list[float]], kind: str, found: tuple[float, float]) -> None:
    for name, value in zip(("loss", "accuracy"), found, strict=True):
        curves.setdefault(kind + name, []).append(value)


@contextmanager
def _threads(n_jobs: int | None) -> Iterator[None]:
    """Let torch use as many threads as a fit of the solver would."""
    before = torch.get_num_threads()
    torch.set_num_threads(thread_count(n_jobs))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Training:
    """Layers and their optimiser on a device."""

    def __init__(self, X: Floats, rows: RowSet, plan: Plan, seed: int, at: torch.device) -> None:
        self.plan, self.at = plan, at
        self._random = np.random.default_rng(seed)
        self._masks = torch.Generator(at).manual_seed(seed)
        weights = np.ones(len(rows)) if rows.weights is None else rows.weights / rows.weights.mean()
        self._mean, self._scale = (self._tensor(array) for array in _moments(X, weights))
        self.weights = self._tensor(weights)
        self.labels = torch.from_numpy(np.asarray(rows.labels, dtype=np.int64)).to(at)
        self.X: Any = self._placed(X)
        self.n_rows, self.batch = len(X), plan.batch_of(len(X))
        self.n_batches = -(-self.n_rows // self.batch)
        widths = (X.shape[1], *plan.hidden, rows.n_classes)
        self.layers_: list[torch.Tensor] = []
        for low, high in pairwise(widths):
            # As torch.nn.Linear begins: uniform within 1 / sqrt(n_in).
            for shape in ((low, high), (high,)):
                drawn = self._random.uniform(-1, 1, shape) / np.sqrt(low)
                self.layers_.append(self._tensor(drawn).requires_grad_())
        self._optimiser = torch.optim.AdamW(self.layers_, lr=plan.rate, weight_decay=plan.decay)

    def _tensor(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.at)

    def _placed(self, X: Floats) -> Any:
        """Leave features on the host, unless a device has room for them."""
        if self.at.type == "cuda" and 2 * X.size * 4 < torch.cuda.mem_get_info(self.at)[0]:
            return self._tensor(X)
        return X

    def _rows(self, X: Any, some: npt.NDArray[np.intp] | slice) -> torch.Tensor:
        """Return standardised rows on the device."""
        if isinstance(X, torch.Tensor):
            picked = X[some if isinstance(some, slice) else torch.from_numpy(some).to(self.at)]
        else:
            picked = self._tensor(X[some])
        return (picked - self._mean) / self._scale

    def _forward(self, values: torch.Tensor, dropout: float) -> torch.Tensor:
        for i in range(0, len(self.layers_), 2):
            values = torch.addmm(self.layers_[i + 1], values, self.layers_[i])
            if i < len(self.layers_) - 2:
                values = values.relu()
                if dropout:
                    kept = torch.empty_like(values).bernoulli_(1 - dropout, generator=self._masks)
                    values = values * kept / (1 - dropout)
        return values

    def epoch(self) -> tuple[float, float]:
        """Go through all rows once; mean loss and accuracy of the batches as they were met."""
        order = self._random.permutation(self.n_rows)
        loss_sum = torch.zeros((), device=self.at)
        right = torch.zeros((), device=self.at)
        # Batches of equal sizes, but for one row.
        for some in np.array_split(order, self.n_batches):
            where = torch.from_numpy(some).to(self.at)
            labels, weights = self.labels[where], self.weights[where]
            scores = self._forward(self._rows(self.X, some), self.plan.dropout)
            losses = weights * functional.cross_entropy(scores, labels, reduction="none")
            self._optimiser.zero_grad()
            losses.mean().backward()
            self._optimiser.step()
            with torch.no_grad():
                loss_sum += losses.sum()
                right += (weights * (scores.argmax(dim=1) == labels)).sum()
        return float(loss_sum) / self.n_rows, float(right) / self.n_rows

    def judge(self, X: Floats, held: RowSet) -> tuple[float, float]:
        """Return the mean loss and accuracy of held-out rows."""
        total = np.zeros(3)
        with torch.no_grad():
            for low in range(0, len(X), _JUDGED):
                part = slice(low, low + _JUDGED)
                scores = self._forward(self._rows(X, part), 0.0)
                labels = torch.from_numpy(np.asarray(held.labels[part], dtype=np.int64)).to(self.at)
                weights = np.ones(len(labels)) if held.weights is None else held.weights[part]
                losses = functional.cross_entropy(scores, labels, reduction="none").cpu().numpy()
                right = (scores.argmax(dim=1) == labels).cpu().numpy()
                total += weights @ losses, weights @ right, weights.sum()
        return float(total[0] / total[2]), float(total[1] / total[2])

    def layers(self) -> Layers:
        """Copy the layers to the host."""
        host = [layer.detach().cpu().numpy().copy() for layer in self.layers_]
        mean, scale = (array.cpu().numpy() for array in (self._mean, self._scale))
        return Layers(mean, scale, host[0::2], host[1::2])


def _moments(X: Floats, weights: npt.NDArray[np.float64]) -> tuple[Any, Any]:
    """Return weighted means and standard deviations; features that do not vary keep their unit."""
    total, d = float(weights.sum()), X.shape[1]
    mean, squares = np.zeros(d), np.zeros(d)
    for low in range(0, len(X), _JUDGED):
        mean += weights[low : low + _JUDGED] @ X[low : low + _JUDGED].astype(np.float64)
    mean /= total
    for low in range(0, len(X), _JUDGED):
        squares += weights[low : low + _JUDGED] @ (X[low : low + _JUDGED] - mean) ** 2
    scale = np.sqrt(squares / total)
    return mean, np.where(scale > 1e-7 * max(scale.max(), 1e-30), scale, 1.0)
