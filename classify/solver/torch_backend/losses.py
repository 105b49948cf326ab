"""The losses of `classify.solver.losses` and their curvatures on tensors.

Not over one array namespace: a device does best with fused operations and `gather`, the CPU with
temporaries that are overwritten and one class after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor


def logistic(u: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate the logistic loss ``log(1 + exp(u))`` of minus the margins, and its derivative."""
    return torch.logaddexp(u, torch.zeros((), dtype=u.dtype, device=u.device)), torch.sigmoid(u)


def squared_hinge(u: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate the loss ``max(0, 1 + u)^2`` of minus the margins, and its derivative."""
    over = torch.relu(u + 1)
    return over * over, 2 * over


def squared_hinge_curvature(u: Tensor) -> Tensor:
    """Return the second derivative: 2 where a row has lost its margin, or 0."""
    return torch.where(u > -1, 2.0, 0.0).to(u.dtype)


LOSSES = {"logistic": logistic, "squared_hinge": squared_hinge}


def softmax(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate the multinomial loss ``log(sum_k exp(z_k)) - z_label``, and its derivative.

    Shapes: `z` (n_rows, n_classes), overwritten; `labels` (n_rows, 1).
    """
    # Relative to the label's score, as in `classify.solver.losses.softmax`.
    z -= z.gather(1, labels)
    top = z.amax(dim=1, keepdim=True)
    z -= top
    z.exp_()
    own = z.gather(1, labels)
    z.scatter_(1, labels, 0.0)
    others = z.sum(dim=1, keepdim=True)
    total = own + others
    loss = top + torch.where(top > 0, total.log(), others.log1p())
    z /= total
    z.scatter_(1, labels, -others / total)
    return loss[:, 0], z


def logistic_curvature(scores: Tensor) -> Tensor:
    """Return ``p (1 - p)``, which knows no sign."""
    return torch.sigmoid(scores) * torch.sigmoid(-scores)


CURVATURES = {"logistic": logistic_curvature, "squared_hinge": squared_hinge_curvature}


def softmax_curvature(z: Tensor, log_sum: Tensor) -> Tensor:
    """Return ``p (1 - p)`` of scores, given the logarithm of each row's sum of exponentials."""
    p = (z - log_sum).exp_().clamp_(max=1.0)
    return p * (1 - p)
