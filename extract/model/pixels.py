"""``--model pixels``: no network at all, the preprocessed image as one vector.

What a backbone is worth shows beside the pixels that it was given. A row is the image at
``--image-size``, its channels one after another, each row by row, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data.common.errors import UserError

if TYPE_CHECKING:
    from torch import nn

PIXELS = "pixels"
# What a store's ``spec`` says of the weights.
NO_WEIGHTS = "none"
# In timm's terms. Images in arrays keep their own size; files are brought to this one.
CONFIG: Mapping[str, Any] = {
    "input_size": (3, 32, 32),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
}


def check_no_weights(choice: str) -> None:
    """Refuse weights for what has none; ``hub`` is what nobody has asked for."""
    if choice not in ("hub", NO_WEIGHTS):
        raise UserError(f"--weights {choice}: --model {PIXELS} has no weights; leave --weights out")


def build_pixels(arguments: Mapping[str, Any]) -> nn.Module:
    """Make the network of pixels, which has no arguments."""
    from torch import nn

    for name in arguments:
        raise UserError(f"--model-arg {name}: --model {PIXELS} has no arguments; leave it out")
    return nn.Flatten(1)
