"""Whether our preprocessing does what a library's own does: both are run on the same images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from extract.model.preprocess import resize_one
from extract.model.preprocessing import Preprocessing

# In grey levels of 255. A library may resize in float32, or with integer weights of another width
# than Pillow's, which moves a rounded grey level by one, and by two where both axes do.
LARGEST, MEAN = 2.1, 0.6
# Between black and white a filter overshoots, and Pillow cuts off after each axis; a library that
# does so once differs in a few pixels, by more. One that never does goes beyond the grey levels.
BEYOND = 1.1


def check_same_pixels(
    settings: Preprocessing, processed: Callable[[Any], Any], model: str, found: str
) -> None:
    """Refuse a library's preprocessing that ours does not follow.

    `processed` makes of an image of Pillow's an array (3, height, width), normalised; `found` says
    what it is made of, for the message.
    """
    from PIL import Image

    def levels_of(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        try:
            theirs = np.asarray(processed(Image.fromarray(pixels)), dtype=np.float64)
        except Exception as error:  # whatever the library's code raises
            raise _refusal(model, found, f"it raises {type(error).__name__}: {error}") from error
        if theirs.shape != (3, *settings.size):
            what = f"it gives {theirs.shape} for an image of {pixels.shape[:2]} pixels"
            raise _refusal(model, found, what)
        std, mean = (np.array(part).reshape(3, 1, 1) for part in (settings.std, settings.mean))
        return np.asarray(255.0 * (theirs * std + mean))

    for pixels in _images(settings.size):
        difference = np.abs(levels_of(pixels) - resize_one(settings, pixels).transpose(2, 0, 1))
        if difference.max() > LARGEST or difference.mean() > MEAN:
            what = (
                f"its pixels differ by up to {difference.max():.1f} of 255 grey levels from an "
                "antialiased resize, crop and normalisation with these settings"
            )
            raise _refusal(model, found, what)
    levels = levels_of(_black_and_white(settings.size))
    if levels.min() < -BEYOND or levels.max() > 255 + BEYOND:
        what = f"it gives grey levels from {levels.min():.0f} to {levels.max():.0f}"
        raise _refusal(model, found, what)


def _black_and_white(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Draw an image that makes filters overshoot."""
    generator = np.random.default_rng(0)
    return 255 * generator.integers(0, 2, (size[0] + 3, size[1] + 6, 3), dtype=np.uint8)


def _images(size: tuple[int, int]) -> list[npt.NDArray[np.uint8]]:
    """Draw noise with edges and waves: larger, smaller, tall and wide, with odd margins.

    Their low contrast keeps every filter between black and white.
    """
    height, width = size
    shapes = [
        (height + 3, width + 6), (height // 2 + 1, width // 2 + 1),
        (2 * height + 1, height + 7), (width + 9, 3 * width + 2),
    ]  # fmt: skip
    found = []
    for number, (rows, columns) in enumerate(shapes):
        noise = np.random.default_rng(number).integers(0, 256, (rows, columns, 3))
        y, x = np.mgrid[:rows, :columns]
        waves = 127 + 127 * np.sin(x / 3.0 + y / 5.0)[..., None] * np.ones(3)
        image = np.where((x > columns // 2)[..., None], noise, waves)
        found.append((64 + image / 2).astype(np.uint8))
    return found


def _refusal(model: str, found: str, what: str) -> UserError:
    return UserError(
        f"--model {model}: its preprocessing cannot be followed ({found}): {what}\n"
        "Give the network as package.module:factory with a preprocessing of your own "
        "(in the manual: guide/own-networks.md)"
    )
