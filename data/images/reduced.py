"""JPEG decoded at a reduced scale, for ``--decode fast``.

libjpeg can leave out the high frequencies of its 8 x 8 blocks, and so decode an image at a half, a
quarter or an eighth of its sides, in a fraction of the time. Pillow offers it as ``Image.draft``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from data.images.orientation import swaps_sides, turn_box

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "MPO")  # MPO: several JPEG images in one file, as some cameras write
SCALES = (8, 4, 2)
# How many times the size wanted is decoded at least, on both sides.
MARGIN = 2

# From height and width of an upright image to height and width of what is to be made of it.
Wanted: TypeAlias = Callable[[int, int], tuple[int, int]]


class Reduction(NamedTuple):
    """What pixels stand for that were decoded at a reduced scale."""

    size: tuple[int, int]  # height and width of the image in its file, upright
    # Left, top, right and bottom of the image among the pixels. Sides that are no multiple of
    # the scale end within a pixel
    box: tuple[float, float, float, float]


def scale_for(size: tuple[int, int], wanted: tuple[int, int]) -> int:
    """Choose by how much to divide the sides of an image: 1, 2, 4 or 8."""
    for scale in SCALES:
        if all(side >= MARGIN * scale * least for side, least in zip(size, wanted, strict=True)):
            return scale
    return 1


def reduce_scale(image: Image.Image, wanted: Wanted, orientation: int) -> Reduction | None:
    """Have an opened JPEG decoded at the smallest scale that gives enough; None at full size."""
    width, height = image.size
    upright = (width, height) if swaps_sides(orientation) else (height, width)
    scale = scale_for(upright, wanted(*upright))
    if scale == 1:
        return None
    found = image.draft(None, (width // scale, height // scale))
    if found is None:  # a JPEG that Pillow reads in more than one piece
        return None
    return Reduction(upright, turn_box(found[1], image.size, orientation))
