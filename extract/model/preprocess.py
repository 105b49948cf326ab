"""Images to network input: the evaluation transform that a model's configuration asks for.

The semantics are those of ``timm.data.create_transform(is_training=False)``: a Pillow
resize (horizontally, then vertically, grey levels rounded after each), a centre crop, and
normalisation. `prepared` decides who does it: Pillow, bit for bit as timm does, or for small
square images, in batches, the device.
A separable resize is a fixed linear map, so it is two matrix products, each followed by the
rounding to whole grey levels that Pillow does (`extract.model.resampling`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from data.format.spec import EXACT
from data.images.reduced import Reduction, Wanted
from extract.model.preprocessing import Preprocessing
from extract.model.resampling import Axis, axes_of, device_matrix, pillow_matrix, rows_first

if TYPE_CHECKING:
    import torch
    from PIL import Image

# An axis that is resized to more than so many times the network input is cropped on the way.
_LONGEST = 16


@dataclass(frozen=True)
class NetworkInput:
    """An image that is resized and cropped already; raw images are plain arrays."""

    pixels: npt.NDArray[np.uint8]  # (height, width, 3), before normalisation

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pixels."""
        return self.pixels.shape


# What is handed to the device's side: raw pixels are resized there, network inputs are not.
Prepared: TypeAlias = "npt.NDArray[np.uint8] | NetworkInput"
# RGB, upright: an array, or as Pillow has decoded it.
Picture: TypeAlias = "npt.NDArray[np.uint8] | Image.Image"


@lru_cache(maxsize=128)
def _device_weights(axis: Axis, interpolation: str, device: torch.device) -> torch.Tensor:
    import torch

    return torch.from_numpy(device_matrix(axis, interpolation)).to(device)


def _grey_levels(values: torch.Tensor) -> torch.Tensor:
    """Round half up to whole grey levels and clip to 0..255, in place, as Pillow does."""
    return values.add_(0.5).floor_().clamp_(0.0, 255.0)


def resize_batch(settings: Preprocessing, images: torch.Tensor) -> torch.Tensor:
    """Resize and crop a batch of equally large images on the device they are on.

    Shapes: `images` uint8 (n, height, width, 3); returns float32 (n, 3, *settings.size).
    """
    import torch

    count, height, width = images.shape[:3]
    down, across = axes_of(settings, height, width)
    levels = images.permute(0, 3, 1, 2).to(torch.float32).contiguous()
    # Horizontal first, then vertical: the order matters, as grey levels are rounded between.
    if across.resized != width:
        matrix = _device_weights(across, settings.interpolation, images.device)
        levels = _grey_levels(torch.matmul(levels.reshape(-1, width), matrix.T))
        levels = levels.reshape(count, 3, height, -1)
    else:
        levels = levels[..., across.start : across.stop]
    if down.resized != height:
        matrix = _device_weights(down, settings.interpolation, images.device)
        levels = _grey_levels(torch.matmul(matrix, levels))
    else:
        levels = levels[:, :, down.start : down.stop]
    if levels.shape[-2:] == settings.size:
        return levels
    canvas = _device_fill(settings, images.device).repeat(count, 1, *settings.size)
    rows, columns = levels.shape[-2:]
    canvas[..., down.before : down.before + rows, across.before : across.before + columns] = levels
    return canvas


def wanted_of(settings: Preprocessing) -> Wanted | None:
    """Give what decoding has to know to be fast: how large an image is to be. None: be exact."""
    return None if settings.decode == EXACT else partial(_resized_size, settings)


def _resized_size(settings: Preprocessing, height: int, width: int) -> tuple[int, int]:
    down, across = axes_of(settings, height, width)
    return down.resized, across.resized


def prepared(
    settings: Preprocessing, image: Picture, reduction: Reduction | None = None
) -> Prepared:
    """Make of an image what is handed to the device's side: the only way there for all images.

    Shapes: `image` uint8 (height, width, 3).
    """
    if reduction is None and is_small(settings, *_sides(image)):
        return np.array(image, dtype=np.uint8)
    return NetworkInput(resize_one(settings, image, reduction))


def prepared_array(
    settings: Preprocessing, images: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8] | list[NetworkInput]:
    """Make of equally large images in memory what is handed to the device's side.

    Shapes: `images` uint8 (n, height, width, 3).
    """
    if keeps_shape(settings, *images.shape[1:3]):
        return images
    return [NetworkInput(resize_one(settings, image)) for image in images]


def _sides(image: Picture) -> tuple[int, int]:
    """Give height and width."""
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    return image.height, image.width


def resize_one(
    settings: Preprocessing, image: Picture, reduction: Reduction | None = None
) -> npt.NDArray[np.uint8]:
    """Resize and crop one image with Pillow, bit for bit as timm does.

    One that was decoded at a reduced scale is resized to what becomes of the image in the file.

    Shapes: `image` uint8 (height, width, 3); returns uint8 (height, width, 3).
    """
    from PIL import Image

    down, across = axes_of(settings, *(_sides(image) if reduction is None else reduction.size))
    longest = max(down.resized / settings.size[0], across.resized / settings.size[1])
    resample = Image.Resampling[settings.interpolation.upper()]
    box = None if reduction is None else reduction.box
    if longest > _LONGEST and box is None:
        kept = _resize_window(settings, np.asarray(image), down, across)
    elif longest > _LONGEST and box is not None:
        kept = _resize_part(_as_pillow(image), down, across, resample, box)
    else:
        # In one call: the order of its two passes is Pillow's choice, and varies with its version.
        resized = _as_pillow(image).resize((across.resized, down.resized), resample, box)
        kept = np.asarray(resized)[down.start : down.stop, across.start : across.stop]
    if kept.shape[:2] == settings.size:
        return np.ascontiguousarray(kept)
    canvas = np.empty((*settings.size, 3), dtype=np.uint8)
    canvas[:] = fill_of(settings)
    rows, columns = kept.shape[:2]
    canvas[down.before : down.before + rows, across.before : across.before + columns] = kept
    return canvas


def _resize_window(
    settings: Preprocessing, image: npt.NDArray[np.uint8], down: Axis, across: Axis
) -> npt.NDArray[np.uint8]:
    """Resize a very long image in Pillow's arithmetic, but only the window that the crop keeps.

    Pillow itself takes the edges of a window (its ``box``) in float32, which moves the pixels.
    """
    top, vertical = pillow_matrix(down, settings.interpolation)
    left, horizontal = pillow_matrix(across, settings.interpolation)
    levels = image[top : top + vertical.shape[1], left : left + horizontal.shape[1]]
    passes = [(1, horizontal), (0, vertical)]
    if rows_first(down, across):
        passes.reverse()
    for axis, weights in passes:
        sums = np.tensordot(weights, levels.astype(np.float64), axes=(1, axis))
        rounded = np.floor(sums + 0.5).clip(0, 255).astype(np.uint8)
        levels = np.moveaxis(rounded, 0, axis)
    return levels


def _as_pillow(image: Picture) -> Image.Image:
    from PIL import Image

    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def _resize_part(
    image: Image.Image,
    down: Axis,
    across: Axis,
    resample: Image.Resampling,
    box: tuple[float, float, float, float],
) -> npt.NDArray[np.uint8]:
    """Resize of a box of an image only what the crop keeps, with edges in float32."""
    left, top, right, bottom = box
    x, y = (right - left) / across.resized, (bottom - top) / down.resized
    part = (
        left + x * across.start,
        top + y * down.start,
        min(left + x * across.stop, right),
        min(top + y * down.stop, bottom),
    )
    size = (across.stop - across.start, down.stop - down.start)
    return np.asarray(image.resize(size, resample, part))


def is_small(settings: Preprocessing, height: int, width: int) -> bool:
    """Tell whether an image file is to be sent raw and resized on the device.

    True for square images with no more pixels than the network input has: sending those is
    cheaper than sending the resized one.
    """
    return keeps_shape(settings, height, width) and height * width <= math.prod(settings.size)


def keeps_shape(settings: Preprocessing, height: int, width: int) -> bool:
    """Tell whether an image is square and is resized to a square.

    Of others, Pillow may resize the rows first, whose rounding the device does not follow.
    """
    down, across = axes_of(settings, height, width)
    return height == width and down.resized == across.resized


def fill_of(settings: Preprocessing) -> Sequence[int]:
    """Colour of the padding: of ``crop_mode='border'`` the mean, of the others black."""
    if settings.crop_mode != "border":
        return (0, 0, 0)
    return [min(max(round(255 * value), 0), 255) for value in settings.mean]


def normalise(settings: Preprocessing, levels: torch.Tensor) -> torch.Tensor:
    """Turn grey levels into what the network was trained on: ``(x / 255 - mean) / std``.

    Shapes: `levels` float32 (n, 3, height, width).
    """
    scale, shift = scale_and_shift(settings, levels.device)
    return levels.mul_(scale).sub_(shift)


# Kept on the device: a copy from ordinary memory would wait for all that is under way there.
@lru_cache(maxsize=16)
def scale_and_shift(
    settings: Preprocessing, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give what grey levels are multiplied by, and what is then taken off: (1, 3, 1, 1) each."""
    import torch

    std = torch.tensor(settings.std, dtype=torch.float64).reshape(1, 3, 1, 1)
    mean = torch.tensor(settings.mean, dtype=torch.float64).reshape(1, 3, 1, 1)
    scale, shift = 1.0 / (255.0 * std), mean / std
    return scale.to(device, torch.float32), shift.to(device, torch.float32)


@lru_cache(maxsize=16)
def _device_fill(settings: Preprocessing, device: torch.device) -> torch.Tensor:
    import torch

    return torch.tensor(fill_of(settings), dtype=torch.float32, device=device).reshape(1, 3, 1, 1)
