"""The preprocessing of images as a torch module."""

from __future__ import annotations

import torch
from torch import nn

from extract.model.preprocess import normalise, resize_batch
from extract.model.preprocessing import Preprocessing


class InputModule(nn.Module):
    """From images uint8 (n, height, width, 3) to what the network gets, float32 (n, 3, *size)."""

    def __init__(self, settings: Preprocessing) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Resize, crop and normalise images of one size."""
        return normalise(self.settings, resize_batch(self.settings, images))
