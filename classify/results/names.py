"""Names that people give to the backbone and the data set of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.format.spec import IMPORTED, is_imported, specs_of


def backbone_name(spec: dict[str, Any]) -> str:
    """Name a store's backbone as people do: model, size, what of it; ``A + B`` of a sum."""
    if spec.get("parts"):
        return " + ".join(map(backbone_name, specs_of(spec)))
    model = spec.get("model") or {}
    if is_imported(spec):
        name = str(model.get("name", IMPORTED))
        return "imported features" if name == IMPORTED else f"{name}, imported"
    size = (spec.get("preprocessing") or {}).get("image_size")
    name = str(model.get("name", "unknown backbone"))
    if name == "pixels":  # of the image itself; see `extract.model.pixels`
        name = "raw pixels"
    if isinstance(size, (list, tuple)):
        size = "x".join(str(side) for side in size)
    if size is not None:
        name += f" {size} px"
    name += _feature_words(spec)
    if has_random_weights(spec):
        name += ", random weights"
    return name


def _feature_words(spec: Mapping[str, Any]) -> str:
    """Say which of a network's features they are; nothing of those that its own head takes."""
    pool, layer = str(spec.get("pool", "default")), spec.get("layer")
    words = [] if pool == "default" else [pool]
    if layer is not None:
        last = str(layer).removeprefix("last")
        words.append(f"layer {layer}" if last == layer else f"last {last} layers")
    return f", {' of '.join(words)}" if words else ""


def dataset_name(results: Mapping[str, Any]) -> str:
    """Name the data set of a run, with the classes where some were chosen."""
    name = str((results["store"]["spec"].get("dataset") or {}).get("name", "unknown dataset"))
    classes = results["settings"].get("classes")
    # The order of two says which one is positive, and the images are the same.
    return f"{name} ({', '.join(sorted(classes))})" if classes else name


def has_random_weights(spec: dict[str, Any]) -> bool:
    """Tell whether a store was made by a backbone that was never trained."""
    if spec.get("parts"):
        return any(map(has_random_weights, specs_of(spec)))
    weights = (spec.get("model") or {}).get("weights")
    return isinstance(weights, dict) and weights.get("source") == "random"
