"""The evaluation transform that a model's configuration asks for, as settings of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data.common.errors import UserError, nearest
from data.format.spec import CROPS, DECODE, DECODES, EXACT

CROP_MODES = ("center", "squash", "border")  # timm's
# Of other libraries: ``pad`` is ``border`` with black, ``center-floor`` is ``center`` with its
# first pixel rounded down.
OTHER_CROP_MODES = ("pad", "center-floor")
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "hamming", "box", "nearest")
# Below the upper end: an image a fifth as large as the input is a mistake, such as a percentage.
CROP_PCT_RANGE = (0.001, 5.0)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before the network sees it; part of a store's key."""

    # Of the network input, in pixels: the side of a square one, or height and width.
    image_size: int | tuple[int, int]
    # The image is first resized to ``floor(side / crop_pct)``; above 1 that is less than the
    # input, which is then padded, with black or with ``border``'s colour.
    crop_pct: float
    # ``center`` keeps the aspect ratio and crops, ``squash`` changes the aspect ratio, ``border``
    # keeps it and pads with the mean colour. Others are `OTHER_CROP_MODES`.
    crop_mode: str
    interpolation: str  # Pillow's name of the resampling filter
    antialias: bool  # always true: the filter widens when an image shrinks, as Pillow's does
    mean: tuple[float, float, float]  # per channel (red, green, blue), on the scale 0..1
    std: tuple[float, float, float]
    # How JPEG files are decoded: ``exact``, or ``fast``, at a reduced scale where that is enough.
    decode: str = EXACT

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
        fields = asdict(self)
        if self.decode == EXACT:  # as in the specs of before there was a choice
            del fields[DECODE]
        return {
            **fields,
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
            check_settings(settings)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the preprocessing in the spec cannot be carried out ({error}); it is damaged or "
                "of another version of Icebox: fit again, or extract again"
            ) from error
        return settings


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
    if config["crop_mode"] in OTHER_CROP_MODES:
        raise UserError(
            f"crop_mode '{config['crop_mode']}' is not one of timm's ({', '.join(CROP_MODES)}); "
            "give a model with one of them"
        )
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
    check_settings(settings)
    return settings


def check_settings(settings: Preprocessing) -> None:
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
    for name, known in (
        ("interpolation", INTERPOLATIONS),
        ("crop_mode", (*CROP_MODES, *OTHER_CROP_MODES)),
        ("decode", DECODES),
    ):
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
