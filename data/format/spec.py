"""From the settings that decide the numbers to a key, and from the key to file names."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.common.datasets import BUILT_IN
from data.common.errors import UserError
from data.common.shapes import any_may_miss

NAME_LENGTH = 100
PRECISIONS = ("fp32", "bf16", "fp16")

# What the parts of the JSON that a store or a head carries must be, where they are there: files
# come from anywhere, and whoever reads these would fall over others.
_STORE_SPEC: dict[str, Any] = any_may_miss(
    {
        "dataset": {"name": str, "digest": str, "limit": (int, None), "max_pixels": int},
        "model": {
            "name": str,
            "args": dict,
            "weights": {"source": str, "digest": str},
            "config": dict,  # of a model that brings its own: hf-hub:NAME, local-dir:FOLDER
        },
        "preprocessing": {
            "image_size": (int, list),
            "crop_pct": (int, float),
            "crop_mode": str,
            "interpolation": str,
            "antialias": bool,
            "mean": list,
            "std": list,
            "decode": str,
        },
        "pool": str,
        "layer": str,  # where one was named
        "precision": str,
        "store_dtype": str,
        "seed": (int, None),
    }
)
# Of several stores side by side (`data.format.sums`), ``parts`` has the spec of each.
SPEC_SHAPE: dict[str, Any] = {**_STORE_SPEC, "parts~": [_STORE_SPEC]}
_STORE_PROVENANCE: dict[str, Any] = any_may_miss(
    {
        "dataset": dict,
        "skipped_images": list,
        # Of images that are taken as stored, because the rotation they ask for cannot be read.
        "unread_rotations": {"count": int, "first": list},
        "decoder": str,  # of image files
        "max_pixels": int,
        "weights_file": (str, None),
        "weights_origin": (str, None),
        "weights_license": (str, None),
    }
)
_PART: dict[str, Any] = {
    "path": str,
    "key": str,
    "n_features": int,
    "provenance": _STORE_PROVENANCE,
}
PROVENANCE_SHAPE: dict[str, Any] = {**_STORE_PROVENANCE, "parts~": [_PART]}
REQUEST_SHAPE: dict[str, Any] = any_may_miss(
    {
        "options": dict,
        "files": {name: {"path": str, "stat": str} for name in ("dataset", "weights")},
        "libraries": dict,  # versions beside timm's, of a network that is not timm's
        "read": dict,  # files that a factory has read, and their digests
    }
)
# Pillow's own limit: an image file that claims more pixels may be made to fill the memory.
MAX_PIXELS = 89_478_485
# Every place that looks for images takes these: data sets in folders, and folders to predict on.
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".avif",
)  # fmt: skip
KEY_DIGITS = 8
# In the preprocessing of a spec where it decides the numbers: how often an image file is cropped.
CROPS = "crops"
# There, too: how JPEG files are decoded. Where nothing is said, exactly.
DECODE = "decode"
EXACT, FAST = "exact", "fast"
DECODES = (EXACT, FAST)
# In a spec where a layer was named whose output is pooled.
LAYER = "layer"
# What a spec says of features that were imported: their source, and the name of an unnamed model.
IMPORTED = "imported"
TWICE = "made by a version of Icebox that cropped photographs twice"


def crop_marker(dataset: str, preprocessing: Mapping[str, Any]) -> dict[str, int]:
    """Give what the preprocessing of a spec says of cropping; nothing where it makes no difference.

    Earlier versions resized and cropped image files with more pixels than the network input twice.
    That changed them wherever the resize aims at another size than the input's; a squashed image
    was resized in another order of its axes than Pillow's, too. Only such stores have another key
    than they had.
    """
    size = preprocessing["image_size"]
    sides = [size] if isinstance(size, int) else size
    again = any(math.floor(side / preprocessing["crop_pct"]) != side for side in sides)
    squashed = preprocessing["crop_mode"] == "squash"
    return {CROPS: 1} if (again or squashed) and dataset not in BUILT_IN else {}


def specs_of(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the specs of the stores that are side by side: the spec itself, of a store alone."""
    return list(spec.get("parts") or [dict(spec)])


def cropped_twice(spec: Mapping[str, Any]) -> bool:
    """Tell whether the rows of a spec may come from photographs that were cropped twice."""
    if spec.get("parts"):
        return any(map(cropped_twice, specs_of(spec)))
    preprocessing = spec.get("preprocessing") or {}
    try:
        marker = crop_marker(spec["dataset"]["name"], preprocessing)
    except (KeyError, TypeError, ValueError, ArithmeticError):  # not a spec of ours
        return False
    return bool(marker) and CROPS not in preprocessing


def pooled_otherwise(spec: Mapping[str, Any]) -> bool:
    """Tell whether the rows of a spec are not pooled as it says: of a distilled network.

    Its head gives the mean of its two tokens whatever it is told, which earlier versions did not
    notice; now another pooling is taken from its last layer.
    """
    model = spec.get("model")
    name = str(model.get("name")) if isinstance(model, dict) else ""
    return "distilled" in name and spec.get("pool", "default") != "default" and LAYER not in spec


def is_imported(spec: Mapping[str, Any]) -> bool:
    """Tell whether rows of a spec, or of a part, are imported features, with no model to them."""
    if spec.get("parts"):
        return any(map(is_imported, specs_of(spec)))
    model = spec.get("model")
    weights = model.get("weights") if isinstance(model, dict) else None
    return isinstance(weights, dict) and weights.get("source") == IMPORTED


def decode_of(spec: Mapping[str, Any]) -> str:
    """Give how the JPEG files behind a spec were decoded: ``exact`` or ``fast``."""
    return str((spec.get("preprocessing") or {}).get(DECODE, EXACT))


def check_decode(asked: str | None, spec: Mapping[str, Any], what: object) -> None:
    """Refuse ``--decode`` for a store or head that was made with the other one."""
    made = next((m for m in map(decode_of, specs_of(spec)) if m != asked), asked)
    if asked is not None and asked != made:
        raise UserError(
            f"--decode {asked}: {what} was made with --decode {made}, and embeddings of the two "
            "are not mixed\nleave the option out, or make features of their own: icebox features "
            f"--decode {asked}"
        )


def canonical_json(value: Any) -> str:
    """Write a value as JSON in the one form whose digest is the key.

    Sorted names, no spaces, ASCII only, no NaN. ``1`` and ``1.0`` are different: whoever builds
    a spec settles each number's type.
    """
    _check_names(value)
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def _check_names(value: Any) -> None:
    # json would turn 1, True and None into text, and two different dicts into the same key.
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise TypeError(f"names must be text for canonical JSON, not {name!r}")
            _check_names(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_names(inner)


def spec_key(spec: Mapping[str, Any]) -> str:
    """Digest the canonical JSON of a spec: the store's key."""
    return hashlib.sha256(canonical_json(spec).encode("ascii")).hexdigest()


def store_path(features_dir: str | os.PathLike[str], spec: Mapping[str, Any]) -> Path:
    """Name the file of a spec: ``FEATURES_DIR/{dataset}/{model}-{image_size}px-{key8}.h5``.

    Imported features have no image size: ``{model}-{key8}.h5``.
    """
    dataset = _safe(spec["dataset"]["name"])
    model = _safe(spec["model"]["name"])
    if is_imported(spec):
        return Path(features_dir) / dataset / f"{model}-{spec_key(spec)[:KEY_DIGITS]}.h5"
    size = spec["preprocessing"]["image_size"]
    if isinstance(size, list | tuple):  # height and width
        size = size[0] if len(set(size)) == 1 else "x".join(str(side) for side in size)
    return Path(features_dir) / dataset / f"{model}-{size}px-{spec_key(spec)[:KEY_DIGITS]}.h5"


def _safe(name: str) -> str:
    kept = re.sub(r"[^A-Za-z0-9._+-]+", "-", name)[:NAME_LENGTH]
    # A leading dot would hide the file, and '..' would leave the folder.
    return kept.strip(".-") or "unnamed"


def work_dir(features_dir: str | os.PathLike[str], key: str) -> Path:
    """Name the folder for work in progress on a store."""
    return Path(features_dir) / ".work" / key


def find_stores(features_dir: str | os.PathLike[str]) -> list[Path]:
    """List the finished stores below a folder, by name."""
    found = Path(features_dir).glob("*/*.h5")
    return sorted(p for p in found if not p.name.startswith(".") and p.parent.name[0] != ".")
