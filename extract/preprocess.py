"""Images to network input: the evaluation transform that a model's configuration asks for.

The semantics are those of ``timm.data.create_transform(is_training=False)``: a Pillow
resize (horizontally, then vertically, grey levels rounded after each), a centre crop, and
normalisation. Small images are resized in batches on the device.
A separable resize is a fixed linear map, so it is two matrix products, each followed by the
rounding to whole grey levels that Pillow does. The weights are multiples of 2**-15, so that
every partial sum is exact in float32: the pixels are the same bits on every device, at every
batch size and in any order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.errors import UserError, nearest

if TYPE_CHECKING:
    import torch
    from PIL import Image

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "hamming", "box", "nearest")
# Pillow's kernel supports, in source pixels at a scale of one.
_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0, "lanczos": 3.0, "hamming": 1.0, "box": 0.5}
_WEIGHT_UNIT = 2.0**-15
# An axis that is resized to more than so many times the network input is cropped on the way.
_LONGEST = 16


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before the network sees it; part of a store's key.

    Attributes
    ----------
    image_size : int
        Side of the square network input, in pixels.
    crop_pct : float
        The image is first resized to ``floor(image_size / crop_pct)``.
    crop_mode : {'center', 'squash', 'border'}
        ``center`` keeps the aspect ratio and crops, ``squash`` changes the aspect ratio,
        ``border`` keeps it and pads with the mean colour.
    interpolation : str
        Pillow's name of the resampling filter.
    antialias : bool
        Always true: the filter widens when an image shrinks, as Pillow's does.
    mean, std : tuple of float
        Per channel (red, green, blue), on the scale 0..1.
    """

    image_size: int
    crop_pct: float
    crop_mode: str
    interpolation: str
    antialias: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_spec(self) -> dict[str, Any]:
        """Return the JSON form that goes into a store's ``spec``."""
        spec = asdict(self)
        return {**spec, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Preprocessing:
        """Rebuild from the ``preprocessing`` entry of a store's ``spec``."""
        fields = dict(spec)
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


def resolve_preprocessing(
    pretrained_cfg: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Preprocessing:
    """Combine a model's own data configuration with what the user overrides.

    Parameters
    ----------
    pretrained_cfg : mapping
        timm's configuration of the model.
    overrides : mapping
        Any of ``image_size``, ``crop_pct``, ``interpolation``, ``mean``, ``std``;
        a value of None leaves the model's own.

    Returns
    -------
    Preprocessing
        Fully resolved.

    Raises
    ------
    UserError
        For a value that cannot be carried out.
    """
    from timm.data import resolve_data_config

    args = {key: value for key, value in overrides.items() if value is not None}
    size = args.pop("image_size", None)
    if size is not None:
        args["img_size"] = size
    config = resolve_data_config(args, pretrained_cfg=dict(pretrained_cfg))
    height, width = config["input_size"][-2:]
    if height != width:
        raise UserError(
            f"the model's own input is {height}x{width}, not square; give --image-size N"
        )
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if len(mean) != 3 or len(std) != 3:
        raise UserError(f"the model takes {len(mean)} channels; only RGB models can embed images")
    settings = Preprocessing(
        image_size=int(height),
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
    if settings.image_size < 1:
        raise UserError(f"--image-size {settings.image_size}: must be at least 1 pixel")
    if not 0.0 < settings.crop_pct <= 1.0:
        raise UserError(f"--crop-pct {settings.crop_pct}: must be above 0 and at most 1")
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
    size = settings.image_size
    target = math.floor(size / settings.crop_pct)
    if settings.crop_mode == "squash":
        resized = (target, target)
    elif settings.crop_mode == "border":
        ratio = max(height / target, width / target)
        resized = (max(round(height / ratio), 1), max(round(width / ratio), 1))
    elif height <= width:
        resized = (target, int(target * width / height))
    else:
        resized = (int(target * height / width), target)
    return _window(height, resized[0], size), _window(width, resized[1], size)


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


@lru_cache(maxsize=128)
def _axis_weights(axis: _Axis, interpolation: str) -> npt.NDArray[np.float32]:
    """Build the resampling matrix of one axis.

    Returns
    -------
    ndarray of float32, shape (stop - start, source)
        Rows sum to one; every entry is a multiple of 2**-15, so products with grey levels
        and their sums (below 2**24 units) are exact in float32.
    """
    scale = axis.source / axis.resized
    weights = np.zeros((axis.stop - axis.start, axis.source), dtype=np.float32)
    if interpolation == "nearest":
        # Pillow adds up the step from pixel to pixel; its rounding decides which neighbour.
        steps = np.cumsum(np.r_[0.5 * scale, np.full(axis.resized - 1, scale)])
        chosen = np.minimum(steps[axis.start : axis.stop].astype(np.int64), axis.source - 1)
        weights[np.arange(len(chosen)), chosen] = 1.0
        return weights
    for row, index in enumerate(range(axis.start, axis.stop)):
        centre = (index + 0.5) * scale
        widening = max(scale, 1.0)
        support = _SUPPORT[interpolation] * widening
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), axis.source)
        taps = _kernel(
            interpolation, (np.arange(low, high, dtype=np.float64) - centre + 0.5) / widening
        )
        units = np.rint(taps / taps.sum() / _WEIGHT_UNIT)
        units[np.argmax(units)] += 1.0 / _WEIGHT_UNIT - units.sum()
        weights[row, low:high] = units * _WEIGHT_UNIT
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

    Parameters
    ----------
    settings : Preprocessing
        The transform.
    images : torch.Tensor of uint8, shape (n, height, width, 3)
        RGB images.

    Returns
    -------
    torch.Tensor of float32, shape (n, 3, image_size, image_size)
        Whole grey levels from 0 to 255.
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
    size = settings.image_size
    if levels.shape[-2:] == (size, size):
        return levels
    canvas = _device_fill(settings, images.device).repeat(count, 1, size, size)
    rows, columns = levels.shape[-2:]
    canvas[..., down.before : down.before + rows, across.before : across.before + columns] = levels
    return canvas


def resize_one(settings: Preprocessing, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize and crop one image with Pillow: what a worker process does with a large one.

    Parameters
    ----------
    settings : Preprocessing
        The transform.
    image : ndarray of uint8, shape (height, width, 3)
        An RGB image.

    Returns
    -------
    ndarray of uint8, shape (image_size, image_size, 3)
        The network input before normalisation; only what the crop keeps is ever computed.
    """
    from PIL import Image

    down, across = _axes(settings, *image.shape[:2])
    size = settings.image_size
    # Axis by axis, because Pillow's own order of the two passes varies with its version.
    picture = _pillow_axis(Image.fromarray(image), across, 0, settings)
    picture = _pillow_axis(picture, down, 1, settings)
    resized = np.asarray(picture)
    if resized.shape[:2] == (size, size):
        return resized
    canvas = np.empty((size, size, 3), dtype=np.uint8)
    canvas[:] = _fill(settings)
    rows, columns = resized.shape[:2]
    canvas[down.before : down.before + rows, across.before : across.before + columns] = resized
    return canvas


def _pillow_axis(
    picture: Image.Image, axis: _Axis, number: int, settings: Preprocessing
) -> Image.Image:
    """Resize one axis (0: horizontal, 1: vertical), and keep the window of it that is needed."""
    from PIL import Image

    resample = Image.Resampling[settings.interpolation.upper()]
    # The window alone costs less, but Pillow takes its edges in float32, which moves the
    # neighbour that a filter with hard edges picks. So only very long images are done so.
    whole = axis.resized <= _LONGEST * settings.image_size
    start, stop = (0, axis.resized) if whole else (axis.start, axis.stop)
    shrink = axis.source / axis.resized
    target, box = list(picture.size), [0.0, 0.0, *map(float, picture.size)]
    target[number] = stop - start
    box[number], box[number + 2] = start * shrink, stop * shrink
    picture = picture.resize((target[0], target[1]), resample, (box[0], box[1], box[2], box[3]))
    if not whole:
        return picture
    window = [0, 0, *picture.size]
    window[number], window[number + 2] = axis.start, axis.stop
    return picture.crop((window[0], window[1], window[2], window[3]))


def is_small(settings: Preprocessing, height: int, width: int) -> bool:
    """Tell whether an image is to be sent raw and resized on the device.

    True for images with no more pixels than the network input has: sending those is cheaper
    than sending the resized one. Very elongated ones are left to Pillow, which needs no
    dense matrix.
    """
    size = settings.image_size
    return height * width <= size * size and max(height, width) <= 4 * size


def _fill(settings: Preprocessing) -> Sequence[int]:
    """Colour of the padding of ``crop_mode='border'``."""
    return [round(255 * value) for value in settings.mean]


def normalise(settings: Preprocessing, levels: torch.Tensor) -> torch.Tensor:
    """Turn grey levels into what the network was trained on: ``(x / 255 - mean) / std``.

    Parameters
    ----------
    settings : Preprocessing
        The transform.
    levels : torch.Tensor of float32, shape (n, 3, height, width)
        Grey levels from 0 to 255; changed in place.

    Returns
    -------
    torch.Tensor
        The same tensor.
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
