"""The backbone of a store's spec, built again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.common.errors import UserError
from data.format.spec import LAYER, pooled_otherwise
from extract.model.backbone import Backbone, BackboneRequest, load_backbone
from extract.model.preprocessing import Preprocessing


def backbone_of_spec(
    spec: Mapping[str, Any], weights_file: str | Path | None, *, trusted: bool = False
) -> Backbone:
    """Load the very backbone that a store was made with.

    `trusted` says that a user has typed the name that is in the spec, and not only a file's.
    """
    model = spec["model"]
    preprocessing = Preprocessing.from_spec(spec["preprocessing"])
    source = model["weights"]["source"]
    if weights_file is not None and source != "random":
        source = str(weights_file)
    elif source == "file":
        raise UserError(
            f"the weights of {model['name']} came from a file; say where it lies with "
            "--weights FILE.safetensors"
        )
    backbone = load_backbone(
        BackboneRequest(
            model=model["name"],
            weights=source,
            model_args=model["args"],
            image_size=preprocessing.image_size,
            # What earlier versions gave of a distilled network, whatever was asked for.
            pool="default" if pooled_otherwise(spec) else spec["pool"],
            layer=spec.get(LAYER),
            seed=spec["seed"] or 0,
            crop_pct=preprocessing.crop_pct,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
            config=model.get("config"),
            trusted=trusted,
        )
    )
    # The crop mode is not an option, so a later timm might have changed it.
    backbone.preprocessing = preprocessing
    expected = model["weights"]["digest"]
    if backbone.digest != expected:
        what = f"--weights {weights_file}" if weights_file else f"the {source} weights"
        raise UserError(
            f"{what}: not the weights that the features were made with "
            f"(digest {backbone.digest[:12]}..., expected {expected[:12]}...); "
            "embeddings of the two cannot be mixed"
        )
    return backbone
