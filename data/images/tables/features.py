"""Which column of a data set of Hugging Face is what: by its feature, its name, or an option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from data.common.errors import UserError, nearest
from data.images.tables.columns import USUAL

Asked: TypeAlias = Mapping[str, "str | None"]
IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "png")
LABEL_NAMES = (*USUAL["label"], "labels", "cls", "class_name")


def feature_columns(dataset: str, asked: Asked, features: Mapping[str, Any]) -> dict[str, str]:
    """Find the columns of images and labels, and those of splits, groups and weights."""
    image = _image_column(dataset, asked, features)
    label = _label_column(dataset, asked, features)
    return {"image": image, "label": label, **_other_columns(dataset, asked, features)}


def _checked(
    dataset: str, asked: Asked, features: Mapping[str, Any], kind: str, name: str | None = None
) -> str:
    """Give the column that an option names, if there is one."""
    name = name or asked.get(kind) or ""
    if name not in features:
        hint = nearest(name, features)
        raise UserError(
            f"--{kind}-column {name}: {dataset} has no such column, but "
            + _described(features)
            + (f"; {hint}" if hint else "\ngive one of these")
        )
    return name


def _other_columns(dataset: str, asked: Asked, features: Mapping[str, Any]) -> dict[str, str]:
    """Find columns of groups and weights, by option or usual name, and of splits, by option."""
    found = {}
    word = asked.get("split")
    if word:  # such as fold:test=5
        name = word if word in features else word.partition(":")[0]
        found["split"] = _checked(dataset, asked, features, "split", name)
    for kind in ("group", "weight"):
        usual = [name for name in features if name.lower() in USUAL[kind]]
        if asked.get(kind):
            found[kind] = _checked(dataset, asked, features, kind)
        elif len(usual) == 1:
            found[kind] = usual[0]
    return found


def _described(features: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} ({getattr(feature, 'dtype', None) or type(feature).__name__})"
        if type(feature).__name__ == "Value"
        else f"{name} ({type(feature).__name__})"
        for name, feature in features.items()
    )


def _image_column(dataset: str, asked: Asked, features: Mapping[str, Any]) -> str:
    """Find the column of images: by its feature, or one of bytes by its name."""
    if asked.get("image"):
        name = _checked(dataset, asked, features, "image")
        if not _may_be_image(features[name]):
            raise UserError(
                f"--image-column {name}: the column of {dataset} holds no images but "
                f"{_described({name: features[name]})}; give the column of an Image or of bytes"
            )
        return name
    images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    candidates = images or [name for name, kind in features.items() if _may_be_image(kind)]
    usual = [name for name in candidates if name.lower() in IMAGE_NAMES]
    found = images if len(images) == 1 else usual
    if len(found) == 1:
        return found[0]
    what = f"several columns hold images ({', '.join(images)})" if images else "no column of images"
    raise UserError(
        f"--dataset {dataset}: {what}; the columns are {_described(features)}\n"
        "name the one of the images with --image-column"
    )


def _may_be_image(feature: Any) -> bool:
    if type(feature).__name__ == "Image":
        return True
    if isinstance(feature, Mapping):
        return set(feature) == {"bytes", "path"}
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _label_column(dataset: str, asked: Asked, features: Mapping[str, Any]) -> str:
    """Find the column of labels: by its feature, or one of text or numbers by its name."""
    if asked.get("label"):
        return _checked(dataset, asked, features, "label")
    classes = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
    if len(classes) == 1:
        return classes[0]
    lowered = {name.lower(): name for name in classes or features}
    for name in LABEL_NAMES:
        if name in lowered:
            return lowered[name]
    what = f"several columns hold classes ({', '.join(classes)})" if classes else "no class labels"
    raise UserError(
        f"--dataset {dataset}: {what}; the columns are {_described(features)}\n"
        "name the one of the labels with --label-column"
        + (f", such as --label-column {classes[0]}" if classes else "")
    )
