"""Names, tags and configurations of open_clip, and its preprocessing in our terms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data.common.cache_folder import expand_user
from data.common.cli import log
from data.common.errors import UserError, nearest
from data.common.shapes import any_may_miss, mismatch
from extract.model import weights
from extract.model.preprocessing import Preprocessing, check_settings, one_size
from extract.model.providers.interface import Asked
from extract.model.providers.probing import check_same_pixels
from extract.model.providers.towers import one_line
from extract.model.silence import silenced
from extract.model.sources import json_config

PREFIX = "open_clip:"
FOLDER, HUB = "local-dir:", "hf-hub:"
CONFIG = "open_clip_config.json"
MODES = {"shortest": "center", "squash": "squash", "longest": "pad"}
# Where a network says nothing of it, as in open_clip.
_OWN_SIZE = 224
_SHAPE: dict[str, Any] = any_may_miss(
    {
        "model_cfg": {"embed_dim": int, "vision_cfg": dict, "quick_gelu": bool},
        "preprocess_cfg": {
            "size": (int, list),
            "mean": list,
            "std": list,
            "interpolation": str,
            "resize_mode": str,
            "fill_color": int,
        },
    }
)


class Tagged(NamedTuple):
    """A name, read."""

    name: str  # open_clip's own
    tag: str | None  # None where there is none, and for folders and repositories
    where: str | None = None  # ``local-dir:`` or ``hf-hub:``; None for open_clip's own networks

    @property
    def text(self) -> str:
        """As a ``spec`` has it; of a folder only its name."""
        if self.where == FOLDER:
            return f"{PREFIX}{FOLDER}{expand_user(self.name).resolve().name}"
        tag = f"/{self.tag}" if self.tag else ""
        return f"{PREFIX}{self.where or ''}{self.name}{tag}"


def library() -> Any:
    """Import open_clip, without its advice."""
    with silenced("open_clip"):
        import open_clip
    return open_clip


def split_name(model: str) -> Tagged:
    """Read ``open_clip:NAME/TAG``, ``open_clip:local-dir:PATH`` or ``open_clip:hf-hub:NAME``."""
    text = model.removeprefix(PREFIX)
    for where in (FOLDER, HUB):
        if text.startswith(where):
            if text == where:
                what = "PATH" if where == FOLDER else "OWNER/NAME"
                raise UserError(f"--model {model}: names nothing; give {PREFIX}{where}{what}")
            return Tagged(text.removeprefix(where), None, where)
    if not text:
        raise UserError(f"--model {model}: names nothing; give {PREFIX}NAME/TAG")
    name, _, tag = text.rpartition("/")
    # A name may hold a slash, as in ViT-B/32.
    return Tagged((name or tag).replace("/", "-"), tag if name else None)


def check_known(tagged: Tagged, model: str, *, needs_tag: bool) -> Tagged:
    """Refuse a name or a tag that open_clip does not have."""
    open_clip = library()
    names = open_clip.list_models()
    whole = f"{tagged.name}-{tagged.tag}"
    if tagged.name not in names and whole in names:
        tagged = Tagged(whole, None)
    if tagged.name not in names:
        near = nearest(tagged.name, names)
        raise UserError(
            f"--model {model}: open_clip has no network {tagged.name}; "
            f"{near or 'see'} (python -m extract list 'open_clip:*')"
        )
    tags = open_clip.list_pretrained_tags_by_model(tagged.name)
    if tagged.tag is None and needs_tag:
        has = f"its tags are {', '.join(tags)}" if tags else "it has none"
        raise UserError(
            f"--model {model}: weights of open_clip are named by a tag, "
            f"{PREFIX}{tagged.name}/TAG; {has}. Or give --weights FILE or random"
        )
    if tagged.tag is None:
        return tagged
    clean = tagged.tag.lower().replace("-", "_")
    if clean not in tags:
        near = nearest(clean, tags)
        raise UserError(
            f"--model {model}: open_clip's {tagged.name} has no tag {tagged.tag}; "
            f"{near or 'it has ' + (', '.join(tags) or 'none')} "
            f"(python -m extract list '{PREFIX}{tagged.name}/*')"
        )
    return tagged._replace(tag=clean)


def config_of(tagged: Tagged, asked: Asked) -> dict[str, Any]:
    """Gather what decides the numbers of a network with a known name and tag, or of a folder."""
    if tagged.where is None:
        open_clip = library()
        told = open_clip.get_pretrained_cfg(tagged.name, tagged.tag) if tagged.tag else {}
        config = {"model_cfg": open_clip.get_model_config(tagged.name), "preprocess_cfg": told}
        right = told.get("quick_gelu", False)
        if tagged.tag and asked.weights != "random" and right != _quick_gelu(config, asked):
            log(
                f"warning: the weights {tagged.tag} were trained with quick_gelu={right}, and "
                f"{tagged.name} has the other; --model-arg quick_gelu={right} is right for them"
            )
    elif tagged.where == FOLDER:
        config = read_config(expand_user(tagged.name) / CONFIG, asked.model)
    else:
        path = weights.hub_file(asked.model, tagged.name, CONFIG)
        if path is None:
            raise UserError(
                f"--model {asked.model}: the repository has no {CONFIG}; give one that open_clip "
                "can load"
            )
        config = read_config(path, asked.model)
    own = checked(config, asked.model)
    own["model_cfg"]["quick_gelu"] = _quick_gelu(config, asked)
    return own


def _quick_gelu(config: Mapping[str, Any], asked: Asked) -> bool:
    given = (asked.model_args or {}).get("quick_gelu")
    return bool(config["model_cfg"].get("quick_gelu", False) if given is None else given)


def read_config(path: Path, model: str) -> dict[str, Any]:
    """Read what open_clip's ``push_to_hf_hub`` and ``save_for_hf`` have written."""
    config = json_config(path, model, f"{CONFIG} and weights", "open_clip's save_for_hf")
    checked(config, str(path))
    return config


def checked(config: Any, where: str) -> dict[str, Any]:
    """Reduce a configuration to what decides the numbers of the image tower."""
    config = json.loads(json.dumps(config))  # lists for tuples, as in a spec
    problem = mismatch(config, _SHAPE, "config")
    if not problem and not config.get("model_cfg", {}).keys() >= {"embed_dim", "vision_cfg"}:
        problem = "no model_cfg with embed_dim and vision_cfg"
    if problem:
        raise UserError(f"{where}: {problem}; take open_clip's configuration unchanged")
    model = config["model_cfg"]
    told = {key: item for key, item in config.get("preprocess_cfg", {}).items() if item is not None}
    return {
        "model_cfg": {
            "embed_dim": model["embed_dim"],
            "vision_cfg": model["vision_cfg"],
            "quick_gelu": bool(model.get("quick_gelu", False)),
        },
        "preprocess_cfg": {key: told[key] for key in _PREPROCESS if key in told},
    }


_PREPROCESS = ("mean", "std", "interpolation", "resize_mode", "fill_color")


def own_size(config: Mapping[str, Any]) -> int | list[int]:
    """Give the input size of a network, of its ``model_cfg``."""
    return config["vision_cfg"].get("image_size", _OWN_SIZE)


def preprocessing_of(own: Mapping[str, Any], model: str) -> Preprocessing:
    """Say in our terms what open_clip's evaluation transform does."""
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    size = one_size(own_size(own["model_cfg"]))
    base = merge_preprocess_dict(PreprocessCfg(), own["preprocess_cfg"])
    try:
        config = PreprocessCfg(**{**base, "size": size})
        transform = image_transform_v2(config, is_train=False)
        mode = MODES[config.resize_mode]
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--model {model}: open_clip cannot make its preprocessing of "
            f"{own['preprocess_cfg']} ({one_line(error)}); take its configuration unchanged"
        ) from error
    # Where the input is no square, open_clip resizes by bicubic whatever is said.
    odd = mode == "center" and not isinstance(size, int)
    settings = Preprocessing(
        image_size=size,
        crop_pct=1.0,
        crop_mode=mode,
        interpolation="bilinear" if config.interpolation == "bilinear" and not odd else "bicubic",
        antialias=True,
        mean=_three(config.mean, model),
        std=_three(config.std, model),
    )
    check_settings(settings)
    found = f"{config.resize_mode}, {config.interpolation}, fill_color {config.fill_color}"
    check_same_pixels(settings, lambda image: transform(image).numpy(), model, found)
    return settings


def _three(values: Any, model: str) -> tuple[float, float, float]:
    values = [values] * 3 if isinstance(values, int | float) else list(values)
    if len(values) != 3:
        raise UserError(f"--model {model}: {len(values)} channels; only RGB networks embed images")
    return float(values[0]), float(values[1]), float(values[2])
