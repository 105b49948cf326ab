"""Which backbones there are: names checked before any work, with the nearest ones suggested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.common.errors import UserError, nearest

# The strongest backbone on published linear probes (CIFAR-10: 98.7 %) that embeds in batches
# within 8 GB of GPU memory; at 224 pixels it costs a fifth of its native 518.
DEFAULT_MODEL = "vit_base_patch14_reg4_dinov2.lvd142m"
DEFAULT_MODEL_IMAGE_SIZE = 224
# What ``--weights bundled`` holds the weights of.
BUNDLED_MODEL = "tf_efficientnet_lite0"
# What to name to somebody who would wait hours on a CPU: 0.2 GMAC an image instead of tens.
FAST_MODEL = "mobilenetv3_large_100.ra_in1k"


def check_model_name(name: str) -> None:
    """Make sure that timm knows a model."""
    import timm

    if "/" in name or ":" in name:
        raise UserError(
            f"--model {name}: give one of timm's names (python -m extract list), "
            "hf-hub:OWNER/NAME, local-dir:FOLDER, open_clip:NAME/TAG, transformers:NAME or "
            "package.module:factory, and your own weights with --weights FILE"
        )
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = {*timm.list_models(), *timm.list_models(pretrained=True)}
        near = nearest(name, sorted(known)) or nearest(architecture, timm.list_models())
        advice = f"{near} " if near else ""
        raise UserError(
            f"--model {name}: timm has no such model; {advice}(python -m extract list PATTERN)"
        )
    if tag and name not in known_tags(architecture):
        tags = known_tags(architecture)
        raise UserError(
            f"--model {name}: timm knows {architecture} but not the tag '{tag}'; "
            f"it has {', '.join(tags) or 'none'}"
        )


# timm's factory would take these for itself: some read files of their own, pickles among them,
# and none would be in the key but by its name.
_FACTORY = {
    "pretrained": "use --weights",
    "pretrained_cfg": "use --weights",
    "pretrained_cfg_overlay": "use --weights",
    "checkpoint_path": "use --weights FILE.safetensors",
    "cache_dir": "set HF_HOME",
    "num_classes": "the classifier is always left out; leave it out",
    "img_size": "use --image-size",
    "features_only": "embeddings are single vectors; leave it out",
}


def check_model_args(arguments: Mapping[str, Any], where: str = "--model-arg") -> None:
    """Refuse arguments that are not the network's, but the factory's that builds it."""
    for name in arguments:
        if name in _FACTORY or name.startswith(("pretrained_", "hf_")):
            advice = _FACTORY.get(name, "leave it out")
            raise UserError(f"{where} {name}: not an argument of the network; {advice}")


def known_tags(architecture: str) -> list[str]:
    """List the full names under which timm has a configuration of an architecture."""
    from timm.models import get_arch_pretrained_cfgs

    return sorted(get_arch_pretrained_cfgs(architecture))


def pretrained_config(name: str) -> dict[str, Any]:
    """Return timm's configuration of a checked model name (its default tag's if it has none)."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return {} if config is None else dict(config.to_dict())


def hub_name(name: str) -> str:
    """Complete a model name with the tag of the weights that timm would load."""
    import timm

    architecture = name.partition(".")[0]
    config = pretrained_config(name)
    has_weights = any(config.get(key) for key in ("url", "hf_hub_id", "file"))
    if not has_weights:
        with_weights = timm.list_models(pretrained=True)
        near = nearest(name, with_weights)
        raise UserError(
            f"--model {name}: timm has no pretrained weights for it; "
            f"{near + ' ' if near else ''}Or give --weights FILE.safetensors, or --weights random"
        )
    tag = config.get("tag")
    return f"{architecture}.{tag}" if tag and "." not in name else name
