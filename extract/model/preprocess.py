"""Images to network input: the evaluation transform that a model's configuration asks for.

The semantics are those of ``timm.data.create_transform(is_training=False)``: a Pillow
resize (horizontally, then vertically, grey levels rounded after each), a centre crop, and
normalisation. `prepared` decides who does it: Pillow, bit for bit as timm does, or for small
square images, in batches, the device.
A separable resize is a fixed linear map, so it is two matrix products, each followed by the
rounding to whole grey levels that Pillow does. The weights are multiples of 2**-15, so that
every partial sum is exact in float32: the pixels are the same bits on every device, at every
batch size and in any order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError, nearest
from data.format.spec import CROPS
from extract.options import CROP_PCT_RANGE

if TYPE_CHECKING:
    import torch

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "hamming", "box", "nearest")
# Pillow's kernel supports, in source pixels at a scale of one.
_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0, "lanczos": 3.0, "hamming": 1.0, "box": 0.5}
_WEIGHT_UNIT = 2.0**-15
# Pillow's own: its sums of 8-bit pixels are whole numbers below 2**31.
_PILLOW_UNIT = 2.0**-22
# An axis that is resized to more than so many times the network input is cropped on the way.
_LONGEST = 16


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before the network sees it; part of a store's key."""

    # Of the network input, in pixels: the side of a square one, or height and width.
    image_size: int | tuple[int, int]
    # The image is first resized to ``floor(side / crop_pct)``; above 1 that is less than the
    # input, which is then padded, with black or with ``border``'s colour.
    crop_pct: float
    # ``center`` keeps the aspect ratio and crops, ``squash`` changes the aspect ratio, ``border``
    # keeps it and pads with the mean colour.
    crop_mode: str
    interpolation: str  # Pillow's name of the resampling filter
    antialias: bool  # always true: the filter widens when an image shrinks, as Pillow's does
    mean: tuple[float, float, float]  # per channel (red, green, blue), on the scale 0..1
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        # One form for one meaning: the spec, and so the key, of a square input holds a number.
        object.__setattr__(self, "image_size", one_size(self.image_size))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network input."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    def to_spec(self) -> dict[str, Any]:
        """Return the JSON form that goes into a store's ``spec``."""
        size = self.image_size
        return {
            **asdict(self),
            "image_size": size if isinstance(size, int) else list(size),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Preprocessing:
        """Rebuild from the ``preprocessing`` entry of a store's ``spec``."""
        fields = dict(spec)
        fields.pop(CROPS, None)  # of how stores of image files were made; see `data.format.spec`
        try:
            for name in ("mean", "std"):
                red, green, blue = map(float, fields[name])
                fields[name] = (red, green, blue)
            settings = cls(**fields)
            _check(settings)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the preprocessing in the spec cannot be carried out ({error}); it is damaged or "
                "of another version of Icebox: fit again, or extract again"
            ) from error
        return settings


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


def one_size(size: int | Sequence[int]) -> int | tuple[int, int]:
    """Write the size of a network input in one way: a number if square, or height and width."""
    if isinstance(size, int):
        return size
    height, width = size
    if not (isinstance(height, int) and isinstance(width, int)):
        raise TypeError(f"height and width are whole numbers, not {size!r}")
    return height if height == width else (height, width)


def size_text(size: int | Sequence[int]) -> str:
    """Write a size as the command line takes it: ``224``, or ``1024x768``."""
    size = one_size(size)
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def resolve_preprocessing(
    pretrained_cfg: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Preprocessing:
    """Combine a model's own data configuration with what the user overrides."""
    from timm.data import resolve_data_config

    args = {key: value for key, value in overrides.items() if value is not None}
    size = args.pop("image_size", None)
    if size is not None:
        args["input_size"] = (3, size, size) if isinstance(size, int) else (3, *size)
    config = resolve_data_config(args, pretrained_cfg=dict(pretrained_cfg))
    height, width = config["input_size"][-2:]
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if len(mean) != 3 or len(std) != 3:
        raise UserError(f"the model takes {len(mean)} channels; only RGB models can embed images")
    settings = Preprocessing(
        image_size=one_size((height, width)),
        crop_pct=float(config["crop_pct"]),
        crop_mode=str(config["crop_mode"]),
        interpolation=str(config["interpolation"]),
        antialias=True,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
    )
    _check(settings)
    return settings


def _check(settings: Preprocessing) -> None:
    """Refuse settings that have no meaning."""
    if min(settings.size) < 1:
        size = size_text(settings.image_size)
        raise UserError(f"--image-size {size}: must be at least 1 pixel; give a larger one")
    low, high = CROP_PCT_RANGE
    if not low <= settings.crop_pct <= high:
        raise UserError(f"--crop-pct {settings.crop_pct}: give a number from {low:g} to {high:g}")
    if min(settings.size) < settings.crop_pct:
        raise UserError(
            f"--crop-pct {settings.crop_pct}: nothing would be left of an image at --image-size "
            f"{size_text(settings.image_size)}; give a smaller --crop-pct"
        )
    for name, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
        value = getattr(settings, name)
        if value not in known:
            raise UserError(
                f"{name} '{value}' is not supported ({', '.join(known)}); {nearest(value, known)}"
            )
    for name, values in (("mean", settings.mean), ("std", settings.std)):
        if not all(map(math.isfinite, values)):
            raise UserError(f"--{name} {values}: every value must be finite")
    if min(settings.std) <= 0.0:
        raise UserError(f"--std {settings.std}: every value must be positive")


@dataclass(frozen=True)
class _Axis:
    """One axis of the resize: ``source`` pixels become ``resized``, of which a window is kept."""

    source: int
    resized: int
    start: int  # first kept output pixel
    stop: int  # one past the last
    before: int  # padding pixels that stand before the kept ones in the network input


def _axes(settings: Preprocessing, height: int, width: int) -> tuple[_Axis, _Axis]:
    """Plan the resize and the crop of an image, axis by axis, as timm and torchvision round."""
    size = settings.size
    target = [math.floor(side / settings.crop_pct) for side in size]
    ratios = (height / target[0], width / target[1])
    if settings.crop_mode == "squash":
        resized = (target[0], target[1])
    elif settings.crop_mode == "border" or target[0] != target[1]:
        ratio = max(ratios) if settings.crop_mode == "border" else min(ratios)
        resized = (max(round(height / ratio), 1), max(round(width / ratio), 1))
    elif height <= width:
        resized = (target[0], int(target[0] * width / height))
    else:
        resized = (int(target[0] * height / width), target[0])
    return _window(height, resized[0], size[0]), _window(width, resized[1], size[1])


def _window(source: int, resized: int, size: int) -> _Axis:
    if resized < size:
        return _Axis(source, resized, 0, resized, (size - resized) // 2)
    start = round((resized - size) / 2.0)
    return _Axis(source, resized, start, start + size, 0)


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


def _nearest(axis: _Axis) -> npt.NDArray[np.int64]:
    """Choose the neighbour of every kept output pixel."""
    scale = axis.source / axis.resized
    # Pillow adds up the step from pixel to pixel; its rounding decides which neighbour.
    steps = np.cumsum(np.r_[0.5 * scale, np.full(axis.resized - 1, scale)])
    return np.minimum(steps[axis.start : axis.stop].astype(np.int64), axis.source - 1)


def _taps(axis: _Axis, interpolation: str) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Give for every kept output pixel its first source pixel, and the weights from there on."""
    scale = axis.source / axis.resized
    widening = max(scale, 1.0)
    support = _SUPPORT[interpolation] * widening
    for index in range(axis.start, axis.stop):
        centre = (index + 0.5) * scale
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), axis.source)
        taps = _kernel(
            interpolation, (np.arange(low, high, dtype=np.float64) - centre + 0.5) / widening
        )
        yield low, taps / taps.sum()


@lru_cache(maxsize=128)
def _axis_weights(axis: _Axis, interpolation: str) -> npt.NDArray[np.float32]:
    """Build the resampling matrix of one axis.

    Shapes: returns float32 (stop - start, source).
    """
    weights = np.zeros((axis.stop - axis.start, axis.source), dtype=np.float32)
    if interpolation == "nearest":
        weights[np.arange(len(weights)), _nearest(axis)] = 1.0
        return weights
    for row, (low, taps) in enumerate(_taps(axis, interpolation)):
        units = np.rint(taps / _WEIGHT_UNIT)
        units[np.argmax(units)] += 1.0 / _WEIGHT_UNIT - units.sum()
        weights[row, low : low + len(units)] = units * _WEIGHT_UNIT
    return weights


@lru_cache(maxsize=128)
def _device_weights(axis: _Axis, interpolation: str, device: torch.device) -> torch.Tensor:
    import torch

    return torch.from_numpy(_axis_weights(axis, interpolation)).to(device)


def _grey_levels(values: torch.Tensor) -> torch.Tensor:
    """Round half up to whole grey levels and clip to 0..255, in place, as Pillow does."""
    return values.add_(0.5).floor_().clamp_(0.0, 255.0)


def resize_batch(settings: Preprocessing, images: torch.Tensor) -> torch.Tensor:
    """Resize and crop a batch of equally large images on the device they are on.

    Shapes: `images` uint8 (n, height, width, 3); returns float32 (n, 3, *settings.size).
    """
    import torch

    count, height, width = images.shape[:3]
    down, across = _axes(settings, height, width)
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


def prepared(settings: Preprocessing, image: npt.NDArray[np.uint8]) -> Prepared:
    """Make of an image what is handed to the device's side: the only way there for all images.

    Shapes: `image` uint8 (height, width, 3).
    """
    if is_small(settings, *image.shape[:2]):
        return image
    return NetworkInput(resize_one(settings, image))


def prepared_array(
    settings: Preprocessing, images: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8] | list[NetworkInput]:
    """Make of equally large images in memory what is handed to the device's side.

    Shapes: `images` uint8 (n, height, width, 3).
    """
    if keeps_shape(settings, *images.shape[1:3]):
        return images
    return [NetworkInput(resize_one(settings, image)) for image in images]


def resize_one(settings: Preprocessing, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize and crop one image with Pillow, bit for bit as timm does.

    Shapes: `image` uint8 (height, width, 3); returns uint8 (height, width, 3).
    """
    from PIL import Image

    down, across = _axes(settings, *image.shape[:2])
    longest = max(down.resized / settings.size[0], across.resized / settings.size[1])
    if longest > _LONGEST:
        kept = _resize_window(settings, image, down, across)
    else:
        resample = Image.Resampling[settings.interpolation.upper()]
        # In one call: the order of its two passes is Pillow's choice, and varies with its version.
        resized = Image.fromarray(image).resize((across.resized, down.resized), resample)
        kept = np.asarray(resized)[down.start : down.stop, across.start : across.stop]
    if kept.shape[:2] == settings.size:
        return np.ascontiguousarray(kept)
    canvas = np.empty((*settings.size, 3), dtype=np.uint8)
    canvas[:] = _fill(settings)
    rows, columns = kept.shape[:2]
    canvas[down.before : down.before + rows, across.before : across.before + columns] = kept
    return canvas


def _resize_window(
    settings: Preprocessing, image: npt.NDArray[np.uint8], down: _Axis, across: _Axis
) -> npt.NDArray[np.uint8]:
    """Resize a very long image in Pillow's arithmetic, but only the window that the crop keeps.

    Pillow itself takes the edges of a window (its ``box``) in float32, which moves the pixels.
    """
    top, vertical = _pillow_weights(down, settings.interpolation)
    left, horizontal = _pillow_weights(across, settings.interpolation)
    levels = image[top : top + vertical.shape[1], left : left + horizontal.shape[1]]
    for axis, weights in ((1, horizontal), (0, vertical)):
        sums = np.tensordot(weights, levels.astype(np.float64), axes=(1, axis))
        rounded = np.floor(sums + 0.5).clip(0, 255).astype(np.uint8)
        levels = np.moveaxis(rounded, 0, axis)
    return levels


def _pillow_weights(axis: _Axis, interpolation: str) -> tuple[int, npt.NDArray[np.float64]]:
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
        units = taps / _PILLOW_UNIT
        whole = np.trunc(units + np.copysign(0.5, units))
        weights[row, low - first : low - first + len(taps)] = whole * _PILLOW_UNIT
    return first, weights


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
    down, across = _axes(settings, height, width)
    return height == width and down.resized == across.resized


def _fill(settings: Preprocessing) -> Sequence[int]:
    """Colour of the padding: of ``crop_mode='border'`` the mean, of the others black."""
    if settings.crop_mode != "border":
        return (0, 0, 0)
    return [min(max(round(255 * value), 0), 255) for value in settings.mean]


def normalise(settings: Preprocessing, levels: torch.Tensor) -> torch.Tensor:
    """Turn grey levels into what the network was trained on: ``(x / 255 - mean) / std``.

    Shapes: `levels` float32 (n, 3, height, width).
    """
    scale, shift = _scale_and_shift(settings, levels.device)
    return levels.mul_(scale).sub_(shift)


# Kept on the device: a copy from ordinary memory would wait for all that is under way there.
@lru_cache(maxsize=16)
def _scale_and_shift(
    settings: Preprocessing, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    std = torch.tensor(settings.std, dtype=torch.float64).reshape(1, 3, 1, 1)
    mean = torch.tensor(settings.mean, dtype=torch.float64).reshape(1, 3, 1, 1)
    scale, shift = 1.0 / (255.0 * std), mean / std
    return scale.to(device, torch.float32), shift.to(device, torch.float32)


@lru_cache(maxsize=16)
def _device_fill(settings: Preprocessing, device: torch.device) -> torch.Tensor:
    import torch

    return torch.tensor(_fill(settings), dtype=torch.float32, device=device).reshape(1, 3, 1, 1)
