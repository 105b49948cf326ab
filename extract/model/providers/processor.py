"""What an image processor of transformers does, as settings of ours, or why it is refused."""

from __future__ import annotations

from typing import Any

from data.common.errors import UserError
from extract.model.preprocessing import Preprocessing, check_settings
from extract.model.providers.probing import check_same_pixels
from extract.model.providers.towers import crop_pct_of

# By Pillow's numbers.
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
# ConvNext's processor squashes images from this size on, and crops them below.
_SQUASHED_FROM = 384


def preprocessing_of(processor: Any, model: str) -> Preprocessing:
    """Say in our terms what a processor does; one that does something else is refused."""
    told = {key: value for key, value in processor.to_dict().items() if value is not None}
    reason = _why_not(told)
    if reason:
        raise _refusal(processor, model, reason)
    size, crop = _sizes(told.get("size")), _sizes(told.get("crop_size"))
    mode = "center-floor"
    pct: float | None = told.get("crop_pct")
    if told.get("do_center_crop"):
        input_size = (crop.get("height", 0), crop.get("width", 0))
        edge = size.get("shortest_edge", 0)
        resized = (edge, edge) if edge else (size.get("height", 0), size.get("width", 0))
        if not edge:
            mode = "squash"
        share = _one_share(input_size, resized)
    elif pct is not None and "shortest_edge" in size:
        edge = size["shortest_edge"]
        input_size, squash = (edge, edge), edge >= _SQUASHED_FROM
        mode, share = ("squash", 1.0) if squash else (mode, _one_share((edge,), (int(edge / pct),)))
    elif "height" in size and "width" in size:
        input_size, mode, share = (size["height"], size["width"]), "squash", 1.0
    else:
        raise _refusal(processor, model, f"size {size} without a crop gives images of any shape")
    if share is None or min(input_size) < 1:
        raise _refusal(processor, model, f"images are resized to {size} and cropped to {crop}")
    normalised = told.get("do_normalize", False)
    try:
        settings = Preprocessing(
            image_size=(input_size[0], input_size[1]),
            crop_pct=share,
            crop_mode=mode,
            interpolation=FILTERS[int(told.get("resample", 2))],
            antialias=True,
            mean=_three(told.get("image_mean", 0.0) if normalised else 0.0),
            std=_three(told.get("image_std", 1.0) if normalised else 1.0),
        )
        check_settings(settings)
    except (UserError, TypeError, ValueError, IndexError) as error:
        raise _refusal(processor, model, str(error)) from error
    check_same_pixels(settings, lambda image: pixels_of(processor, image), model, _kind(processor))
    return settings


def pixels_of(processor: Any, image: Any, **options: Any) -> Any:
    """Have a processor make a network input of one image: (3, height, width)."""
    return processor(images=image, return_tensors="pt", **options)["pixel_values"][0]


def _why_not(told: dict[str, Any]) -> str:
    """Name a setting that ours cannot express; empty where there is none."""
    factor = told.get("rescale_factor", 1 / 255)
    if not told.get("do_resize", False):
        return "do_resize is false: images keep their own sizes"
    if not told.get("do_rescale", False) or abs(factor * 255 - 1) > 1e-6:
        said = f"rescale_factor is {factor}" if told.get("do_rescale") else "do_rescale is false"
        return f"{said}, expected grey levels from 0 to 1"
    for name in ("do_pad", "do_image_splitting", "do_flip_channel_order", "rescale_offset"):
        if told.get(name):
            return f"{name} is true"
    if "max_num_patches" in told:
        return f"max_num_patches is {told['max_num_patches']}: images are cut into patches (NaFlex)"
    return ""


def _sizes(value: Any) -> dict[str, int]:
    if isinstance(value, int):
        return {"height": value, "width": value}
    items = dict(value or {}).items()
    return {name: int(side) for name, side in items if side is not None}


def _one_share(crop: tuple[int, ...], resized: tuple[int, ...]) -> float | None:
    """Give the share of the resized image that a crop keeps, where both sides have the same."""
    if min(*crop, *resized, 1) < 1:
        return None
    shares = {crop_pct_of(one, other) for one, other in zip(crop, resized, strict=True)}
    return shares.pop() if len(shares) == 1 else None


def _three(values: Any) -> tuple[float, float, float]:
    values = [values] * 3 if isinstance(values, int | float) else list(values)
    red, green, blue = map(float, values)
    return red, green, blue


def _kind(processor: Any) -> str:
    return type(processor).__name__


def _refusal(processor: Any, model: str, reason: str) -> UserError:
    return UserError(
        f"--model {model}: its preprocessing cannot be followed ({_kind(processor)}): {reason}\n"
        "Give the network as package.module:factory with a preprocessing of your own "
        "(in the manual: guide/own-networks.md)"
    )
