"""The two losses of `classify.solver.losses` and their curvatures on tensors, in the same forms."""

from __future__ import annotations

import torch
from torch import Tensor


def logistic(u: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate the logistic loss ``log(1 + exp(u))``; ``u`` is minus the margin."""
    return torch.logaddexp(u, torch.zeros((), dtype=u.dtype, device=u.device)), torch.sigmoid(u)


def softmax(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate the multinomial loss ``log(sum_k exp(z_k)) - z_label``."""
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


def softmax_curvature(z: Tensor) -> Tensor:
    """Return ``p_k (1 - p_k)`` of scores, ``(n_rows, n_classes)``."""
    p = torch.softmax(z, dim=1)
    return p * (1 - p)
