"""Pillow's resize and the centre crop of one axis, as the weights of a linear map.

Two forms of the same map. For the device, the weights are rounded to multiples of 2**-15: a product
with grey levels is then a multiple of 2**-15 below 2**9, which float32 holds exactly, as it does
every partial sum. So the sums are the same bits on every device, at every batch size and in any
order of summation. For the host, they are rounded to Pillow's own multiples of 2**-22, and the sums
are taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from extract.model.preprocessing import Preprocessing

# Pillow's kernel supports, in source pixels at a scale of one.
SUPPORT = {"bicubic": 2.0, "bilinear": 1.0, "lanczos": 3.0, "hamming": 1.0, "box": 0.5}
# Crop modes that keep all of an image, and so pad it.
WHOLE = ("border", "pad")
WEIGHT_UNIT = 2.0**-15
# Pillow's own: its sums of 8-bit pixels are whole numbers below 2**31.
PILLOW_UNIT = 2.0**-22


@dataclass(frozen=True)
class Axis:
    """One axis of the resize: ``source`` pixels become ``resized``, of which a window is kept."""

    source: int
    resized: int
    start: int  # first kept output pixel
    stop: int  # one past the last
    before: int  # padding pixels that stand before the kept ones in the network input


@lru_cache(maxsize=1)
def pillow_shrinks_rows_first() -> bool:
    """Find out whether this Pillow resizes the height first where an image shrinks most in it.

    Older versions always begin with the width. Grey levels are rounded between the two passes.
    """
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (200, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    bicubic = Image.Resampling.BICUBIC
    at_once = np.asarray(image.resize((30, 50), bicubic))
    return np.array_equal(
        at_once, np.asarray(image.resize((40, 50), bicubic).resize((30, 50), bicubic))
    )


def rows_first(down: Axis, across: Axis) -> bool:
    """Tell whether Pillow resizes the height before the width: version 13's rule, by experiment."""
    fewer = down.source - down.resized, across.source - across.resized
    return pillow_shrinks_rows_first() and fewer[0] > 2 * max(fewer[1], 0)


def axes_of(settings: Preprocessing, height: int, width: int) -> tuple[Axis, Axis]:
    """Plan the resize and the crop of an image, axis by axis, as timm and torchvision round."""
    size = settings.size
    target = [math.floor(side / settings.crop_pct) for side in size]
    ratios = (height / target[0], width / target[1])
    if settings.crop_mode == "squash":
        resized = (target[0], target[1])
    elif settings.crop_mode in WHOLE or target[0] != target[1]:
        ratio = max(ratios) if settings.crop_mode in WHOLE else min(ratios)
        resized = (max(round(height / ratio), 1), max(round(width / ratio), 1))
    elif height <= width:
        resized = (target[0], int(target[0] * width / height))
    else:
        resized = (int(target[0] * height / width), target[0])
    down = settings.crop_mode == "center-floor"
    return (
        _window(height, resized[0], size[0], down),
        _window(width, resized[1], size[1], down),
    )


def _window(source: int, resized: int, size: int, rounded_down: bool) -> Axis:
    if resized < size:
        return Axis(source, resized, 0, resized, (size - resized) // 2)
    start = (resized - size) // 2 if rounded_down else round((resized - size) / 2.0)
    return Axis(source, resized, start, start + size, 0)


def _kernel(name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Evaluate Pillow's resampling kernel at distances ``x`` from the centre."""
    distance = np.abs(x)
    if name == "bilinear":
        return np.clip(1.0 - distance, 0.0, None)
    if name == "bicubic":  # Keys 1981, a = -0.5
        near = (1.5 * distance - 2.5) * distance**2 + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))
    if name == "lanczos":
        return np.where(distance < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)
    if name == "hamming":
        return np.where(distance < 1.0, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)  # box


def _nearest(axis: Axis) -> npt.NDArray[np.int64]:
    """Choose the neighbour of every kept output pixel."""
    scale = axis.source / axis.resized
    # Pillow adds up the step from pixel to pixel; its rounding decides which neighbour.
    steps = np.cumsum(np.r_[0.5 * scale, np.full(axis.resized - 1, scale)])
    return np.minimum(steps[axis.start : axis.stop].astype(np.int64), axis.source - 1)


def _taps(axis: Axis, interpolation: str) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Give for every kept output pixel its first source pixel, and the weights from there on."""
    scale = axis.source / axis.resized
    widening = max(scale, 1.0)
    support = SUPPORT[interpolation] * widening
    for index in range(axis.start, axis.stop):
        centre = (index + 0.5) * scale
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), axis.source)
        taps = _kernel(
            interpolation, (np.arange(low, high, dtype=np.float64) - centre + 0.5) / widening
        )
        yield low, taps / taps.sum()


@lru_cache(maxsize=128)
def device_matrix(axis: Axis, interpolation: str) -> npt.NDArray[np.float32]:
    """Build the resampling matrix of one axis.

    Shapes: returns float32 (stop - start, source).
    """
    weights = np.zeros((axis.stop - axis.start, axis.source), dtype=np.float32)
    if interpolation == "nearest":
        weights[np.arange(len(weights)), _nearest(axis)] = 1.0
        return weights
    for row, (low, taps) in enumerate(_taps(axis, interpolation)):
        units = np.rint(taps / WEIGHT_UNIT)
        units[np.argmax(units)] += 1.0 / WEIGHT_UNIT - units.sum()
        weights[row, low : low + len(units)] = units * WEIGHT_UNIT
    return weights


def pillow_matrix(axis: Axis, interpolation: str) -> tuple[int, npt.NDArray[np.float64]]:
    """Build the matrix of one axis from Pillow's rounded weights.

    Shapes: returns float64 (stop - start, needed).
    """
    if axis.source == axis.resized:
        rows = [(index, np.ones(1)) for index in range(axis.start, axis.stop)]
    elif interpolation == "nearest":
        rows = [(int(index), np.ones(1)) for index in _nearest(axis)]
    else:
        rows = list(_taps(axis, interpolation))
    first = min(low for low, _ in rows)
    weights = np.zeros((len(rows), max(low + len(taps) for low, taps in rows) - first))
    for row, (low, taps) in enumerate(rows):
        units = taps / PILLOW_UNIT
        whole = np.trunc(units + np.copysign(0.5, units))
        weights[row, low - first : low - first + len(taps)] = whole * PILLOW_UNIT
    return first, weights
