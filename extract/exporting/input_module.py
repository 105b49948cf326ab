"""Preprocessing as a torch module: uint8 images of any size become the network's input.

What `extract.model.preprocess` does with Pillow, image by image, is written here in tensor
operations that `torch.export` can trace, with height and width unknown: the plan of the resize, the
taps of every output pixel, and the sums. The grey levels are the same.

An axis is resized in blocks of output pixels. A block needs few source pixels, which are gathered;
so a large photograph costs a product with `_BLOCK` columns, not with one for every output pixel.
Sums are taken in float64, where a tap of 22 bits times a grey level of 8 is exact, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from extract.model.preprocess import fill_of, scale_and_shift
from extract.model.preprocessing import Preprocessing
from extract.model.resampling import (
    PILLOW_UNIT,
    SUPPORT,
    WEIGHT_UNIT,
    WHOLE,
    pillow_shrinks_rows_first,
)

_BLOCK = 16  # output pixels


class _Axis(NamedTuple):
    """`extract.model.resampling.Axis` in scalar tensors, float64: they hold whole numbers."""

    source: torch.Tensor
    resized: torch.Tensor
    start: torch.Tensor
    stop: torch.Tensor
    before: torch.Tensor
    size: int  # of the network input

    @property
    def kept(self) -> torch.Tensor:
        """Say which pixels of the network input are of the image, and not padding: (size,)."""
        place = _counted(self.size, self.source) - self.before
        return (place >= 0) & (place < self.stop - self.start)


class _Taps(NamedTuple):
    """One axis of the resize as a linear map, in blocks of output pixels."""

    places: torch.Tensor  # int64 (blocks * length,): the source pixels of each block
    weights: torch.Tensor  # float64 (blocks, pixels of a block, length)


class InputModule(nn.Module):
    """Resize, crop, pad and normalise images as `extract.model.preprocess` does.

    Shapes: uint8 (n, height, width, 3) to float32 (n, 3, *settings.size).
    """

    scale: torch.Tensor
    shift: torch.Tensor
    fill: torch.Tensor

    def __init__(self, settings: Preprocessing) -> None:
        super().__init__()
        self.settings = settings
        self.knows_rows_first = pillow_shrinks_rows_first()
        scale, shift = scale_and_shift(settings, torch.device("cpu"))
        fill = torch.tensor(fill_of(settings), dtype=torch.float32).reshape(1, 3, 1, 1)
        # Not in the state: they are settings, and not weights of the network.
        for name, value in (("scale", scale), ("shift", shift), ("fill", fill)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the network's input."""
        return self.levels(images) * self.scale - self.shift

    def levels(self, images: torch.Tensor) -> torch.Tensor:
        """Give the grey levels of the network's input: whole numbers, as float32."""
        height, width = (
            torch.full((), side, dtype=torch.float64, device=images.device)
            for side in images.shape[1:3]
        )
        down, across = _axes_of(self.settings, height, width)
        small = _is_small(self.settings, down, across)
        taps = [_taps_of(axis, self.settings.interpolation, small) for axis in (down, across)]
        arguments = (images, *taps[0], *taps[1])
        if self.knows_rows_first:
            first = _rows_first(down, across)
            levels = _either(first, _resize_rows_first, _resize_columns_first, arguments)
        else:
            levels = _resize_columns_first(*arguments)
        levels = levels.reshape(*levels.shape[:2], levels.shape[2] // 3, 3).permute(0, 3, 1, 2)
        levels = levels[:, :, : down.size, : across.size]
        return torch.where(down.kept[:, None] & across.kept, levels, self.fill)


def _either(
    first: torch.Tensor,
    one: Callable[..., torch.Tensor],
    other: Callable[..., torch.Tensor],
    arguments: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """Call one of two functions; in a program that is exported, both are in the graph."""
    if torch.compiler.is_compiling():
        return torch.cond(first, one, other, arguments)
    return (one if bool(first) else other)(*arguments)


def _axes_of(
    settings: Preprocessing, height: torch.Tensor, width: torch.Tensor
) -> tuple[_Axis, _Axis]:
    """Plan the resize and the crop as `extract.model.resampling.axes_of` does."""
    size = settings.size
    target = [math.floor(side / settings.crop_pct) for side in size]
    ratios = (height / target[0], width / target[1])
    if settings.crop_mode == "squash":
        resized = [torch.full_like(height, side) for side in target]
    elif settings.crop_mode in WHOLE or target[0] != target[1]:
        choose = torch.maximum if settings.crop_mode in WHOLE else torch.minimum
        ratio = choose(*ratios)
        resized = [torch.round(side / ratio).clamp(min=1.0) for side in (height, width)]
    else:
        tall = height > width
        resized = [
            torch.where(tall, torch.floor(target[0] * height / width), float(target[0])),
            torch.where(tall, float(target[0]), torch.floor(target[0] * width / height)),
        ]
    down = settings.crop_mode == "center-floor"
    return (
        _window(height, resized[0], size[0], down),
        _window(width, resized[1], size[1], down),
    )


def _window(source: torch.Tensor, resized: torch.Tensor, size: int, rounded_down: bool) -> _Axis:
    half = (resized - size) / 2.0
    start = torch.floor(half) if rounded_down else torch.round(half)
    start = start.clamp(min=0.0)
    stop = torch.minimum(start + size, resized)
    before = torch.floor((size - resized) / 2.0).clamp(min=0.0)
    return _Axis(source, resized, start, stop, before, size)


def _is_small(settings: Preprocessing, down: _Axis, across: _Axis) -> torch.Tensor:
    """Tell whether images are resized in the device's arithmetic."""
    square = (down.source == across.source) & (down.resized == across.resized)
    return square & (down.source * across.source <= math.prod(settings.size))


def _rows_first(down: _Axis, across: _Axis) -> torch.Tensor:
    """Tell what `extract.model.resampling.rows_first` does, of a Pillow that ever does so."""
    fewer = down.source - down.resized, across.source - across.resized
    return fewer[0] > 2.0 * fewer[1].clamp(min=0.0)


def _counted(length: int | torch.SymInt, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(length, dtype=torch.float64, device=like.device)


def _taps_of(axis: _Axis, interpolation: str, small: torch.Tensor) -> _Taps:
    """Compute the weights of every pixel of the network input, rounded; padding has none."""
    block = min(_BLOCK, axis.size)
    blocks = -(-axis.size // block)
    # Rows beyond the size fill the last block.
    place = _counted(blocks * block, axis.source) - axis.before
    kept = (place >= 0) & (place < axis.stop - axis.start)
    # Padding repeats the pixel beside it, so that it makes no block longer.
    index = (place + axis.start).clamp(min=0.0).minimum(axis.stop - 1.0)
    scale = axis.source / axis.resized
    if interpolation == "nearest":
        low = _nearest(axis, scale)[index.to(torch.int64)]
        high, centre, widening = low + 1.0, low, torch.ones_like(scale)
    else:
        widening = scale.clamp(min=1.0)
        support = SUPPORT[interpolation] * widening
        centre = (index + 0.5) * scale
        low = torch.floor((centre - support + 0.5).clamp(min=0.0))
        high = torch.floor(centre + support + 0.5).minimum(axis.source)
    first = low.reshape(blocks, block)[:, :1]
    length: Any = (high.reshape(blocks, block)[:, -1:] - first).max().to(torch.int64).item()
    torch._check(length >= 1)
    at = (first + _counted(length, scale))[:, None, :]  # (blocks, 1, length)
    low, high, centre, kept = (one.reshape(blocks, block, 1) for one in (low, high, centre, kept))
    within = (at >= low) & (at < high)
    if interpolation == "nearest":
        taps = (within & kept).to(torch.float64)
    else:
        taps = torch.where(within, _kernel(interpolation, (at - centre + 0.5) / widening), 0.0)
        taps = torch.where(small, _device_units(taps), _pillow_units(taps)) * kept
    return _Taps(at.minimum(axis.source - 1.0).to(torch.int64).flatten(), taps)


def _pillow_units(taps: torch.Tensor) -> torch.Tensor:
    units = taps / taps.sum(-1, keepdim=True) / PILLOW_UNIT
    # Halves away from zero.
    return torch.where(units < 0, torch.ceil(units - 0.5), torch.floor(units + 0.5)) * PILLOW_UNIT


def _device_units(taps: torch.Tensor) -> torch.Tensor:
    units = torch.round(taps / taps.sum(-1, keepdim=True) / WEIGHT_UNIT)
    rest = 1.0 / WEIGHT_UNIT - units.sum(-1, keepdim=True)
    largest = _counted(taps.shape[-1], taps) == units.argmax(-1, keepdim=True)
    return (units + largest * rest) * WEIGHT_UNIT


def _nearest(axis: _Axis, scale: torch.Tensor) -> torch.Tensor:
    """Give the neighbour of every pixel of the resized image."""
    length: Any = axis.resized.to(torch.int64).item()
    torch._check(length >= 1)
    # Pillow adds up the step from pixel to pixel; its rounding decides which neighbour.
    steps = torch.where(_counted(length, scale) == 0, 0.5 * scale, scale)
    return torch.floor(torch.cumsum(steps, 0)).minimum(axis.source - 1.0)


def _kernel(name: str, x: torch.Tensor) -> torch.Tensor:
    """Evaluate Pillow's resampling kernel at distances ``x`` from the centre."""
    distance = x.abs()
    if name == "bilinear":
        return (1.0 - distance).clamp(min=0.0)
    if name == "bicubic":  # Keys 1981, a = -0.5
        near = (1.5 * distance - 2.5) * distance**2 + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        return torch.where(distance < 1.0, near, torch.where(distance < 2.0, far, 0.0))
    if name == "lanczos":
        return torch.where(distance < 3.0, _sinc(x) * _sinc(x / 3.0), 0.0)
    if name == "hamming":
        window = 0.54 + 0.46 * torch.cos(math.pi * x)
        return torch.where(distance < 1.0, _sinc(x) * window, 0.0)
    return ((x > -0.5) & (x <= 0.5)).to(torch.float64)  # box


def _sinc(x: torch.Tensor) -> torch.Tensor:
    angle = math.pi * torch.where(x == 0, 1.0, x)
    return torch.where(x == 0, 1.0, torch.sin(angle) / angle)


def _resize_axis(levels: torch.Tensor, taps: _Taps) -> torch.Tensor:
    """Resize along the first axis of each image.

    Shapes: `levels` (n, source, others); returns float64 (n, blocks * block, others).
    """
    count, _, others = levels.shape
    blocks, block, length = taps.weights.shape
    needed = levels.index_select(1, taps.places).to(torch.float64)
    sums = torch.matmul(taps.weights, needed.reshape(count, blocks, length, others))
    # As Pillow rounds: halves up.
    rounded = torch.floor(sums + 0.5).clamp(0.0, 255.0)
    return rounded.reshape(count, blocks * block, others)


def _turned(levels: torch.Tensor) -> torch.Tensor:
    """Turn (n, rows, columns * 3) into (n, columns * 3, rows).

    A plain transposition of a matrix, for which onnxruntime is many times as fast as for one that
    keeps the three channels of a pixel together.
    """
    return levels.permute(0, 2, 1).contiguous()


def _resize_rows_first(
    images: torch.Tensor,
    rows: torch.Tensor,
    row_weights: torch.Tensor,
    columns: torch.Tensor,
    column_weights: torch.Tensor,
) -> torch.Tensor:
    """Resize the height, then the width: float32 (n, rows, columns * 3)."""
    count, height, width, _ = images.shape
    levels = images.reshape(count, height, width * 3)
    levels = _turned(_resize_axis(levels, _Taps(rows, row_weights)))
    levels = levels.reshape(count, width, 3 * levels.shape[2])
    levels = _resize_axis(levels, _Taps(columns, column_weights)).to(torch.float32)
    return _turned(levels.reshape(count, levels.shape[1] * 3, levels.shape[2] // 3))


def _resize_columns_first(
    images: torch.Tensor,
    rows: torch.Tensor,
    row_weights: torch.Tensor,
    columns: torch.Tensor,
    column_weights: torch.Tensor,
) -> torch.Tensor:
    """Resize the width, then the height: float32 (n, rows, columns * 3)."""
    count, height, width, _ = images.shape
    levels = _turned(images.reshape(count, height, width * 3)).reshape(count, width, 3 * height)
    levels = _resize_axis(levels, _Taps(columns, column_weights))
    levels = _turned(levels.reshape(count, levels.shape[1] * 3, height))
    # The two functions must give the same strides, as they are branches of one graph.
    return _resize_axis(levels, _Taps(rows, row_weights)).to(torch.float32).contiguous()
