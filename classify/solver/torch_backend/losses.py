"""The two losses of `classify.solver.losses` and their curvatures on tensors, in the same forms."""

from __future__ import annotations

import torch
from torch import Tensor


def logistic(u: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate the logistic loss ``log(1 + exp(u))``; ``u`` is minus the margin.

    Parameters
    ----------
    u : torch.Tensor
        Minus the margins.

    Returns
    -------
    loss, residual : torch.Tensor
        The loss, and ``1 / (1 + exp(-u))``: neither overflows nor cancels.
    """
    return torch.logaddexp(u, torch.zeros((), dtype=u.dtype, device=u.device)), torch.sigmoid(u)


def softmax(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate the multinomial loss ``log(sum_k exp(z_k)) - z_label``.

    Parameters
    ----------
    z : torch.Tensor, shape (n_rows, n_classes)
        Scores; overwritten.
    labels : torch.Tensor of int64, shape (n_rows, 1)
        The class of each row.

    Returns
    -------
    loss : torch.Tensor, shape (n_rows,)
        The loss of each row.
    residual : torch.Tensor, shape (n_rows, n_classes)
        Softmax minus the indicator of the label.
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
    """Return ``p (1 - p)``, which knows no sign.

    Parameters
    ----------
    scores : torch.Tensor
        Scores, signed or not.

    Returns
    -------
    torch.Tensor
        Same shape.
    """
    return torch.sigmoid(scores) * torch.sigmoid(-scores)


def softmax_curvature(z: Tensor) -> Tensor:
    """Return ``p_k (1 - p_k)`` of scores, ``(n_rows, n_classes)``."""
    p = torch.softmax(z, dim=1)
    return p * (1 - p)
