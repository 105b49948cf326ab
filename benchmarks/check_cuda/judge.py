"""The objective of a whole strategy in float64 on a device: a witness that shares no solver's code.

`benchmarks.objective` says the same with numpy, which takes minutes for a million rows.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

# Numbers of float64 in one block of scores.
BLOCK_NUMBERS = 1 << 25


def objective(
    strategy: str,
    coef: npt.NDArray[np.float64],
    intercept: npt.NDArray[np.float64],
    C: float,
    X: torch.Tensor,
    y: npt.NDArray[np.int64],
) -> float:
    """Return the sum of the objectives of a strategy's problems, ``C sum(loss) + ||coef||^2 / 2``.

    Shapes: `coef` (n_heads, n_features), `intercept` (n_heads,), in scikit-learn's order.
    """
    import torch
    from torch.nn.functional import cross_entropy, softplus

    device = X.device
    weights = torch.as_tensor(np.asarray(coef, np.float64), device=device)
    shift = torch.as_tensor(np.asarray(intercept, np.float64), device=device)
    labels = torch.as_tensor(y, device=device)
    pairs = list(combinations(range(int(y.max()) + 1), 2))
    step = max(1, BLOCK_NUMBERS // max(len(coef), X.shape[1]))
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for low in range(0, len(X), step):
        scores = X[low : low + step].double() @ weights.T + shift
        truth = labels[low : low + step]
        if strategy == "multinomial":
            loss += cross_entropy(scores, truth, reduction="sum")
        elif strategy == "ovr":
            mine = truth[:, None] == torch.arange(len(coef), device=device)
            loss += softplus(torch.where(mine, -scores, scores), threshold=700).sum()
        else:
            for column, (negative, positive) in enumerate(pairs):
                u = scores[:, column]
                loss += softplus(-u[truth == positive], threshold=700).sum()
                loss += softplus(u[truth == negative], threshold=700).sum()
    return float(C * loss + 0.5 * (weights**2).sum())


def weights_of(fitted: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the heads of a fit on the host, be they arrays or tensors."""

    def host(values: Any) -> npt.NDArray[np.float64]:
        values = values.cpu().numpy() if hasattr(values, "cpu") else values
        return np.asarray(values, dtype=np.float64)

    parts = getattr(fitted, "estimators_", [fitted])
    coef = np.concatenate([np.atleast_2d(host(part.coef_)) for part in parts])
    return coef, np.concatenate([np.ravel(host(part.intercept_)) for part in parts])
