"""A trained head as a torch module."""

from __future__ import annotations

import torch
from torch import nn

from data.format.programs import HeadProgram


class HeadModule(nn.Module):
    """From raw embeddings float32 (n, n_features) to probabilities (n, n_classes) and labels (n,).

    Probabilities are float32 and calibrated, labels int64.
    """

    def __init__(self, head: HeadProgram) -> None:
        super().__init__()
        coef, intercept = torch.tensor(head.arrays["coef"]), torch.tensor(head.arrays["intercept"])
        self.linear = nn.Linear(coef.shape[1], coef.shape[0])
        self.linear.load_state_dict({"weight": coef, "bias": intercept})
        self.temperature = head.temperature or 1.0

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer embeddings."""
        scores = self.linear(features)
        return torch.softmax(scores / self.temperature, dim=1), scores.argmax(dim=1)
