"""How timm alone builds the network of a backbone, and the proof that it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extract.exporting.tracing import first_line
from extract.model.backbone import Backbone, embed_normalised
from extract.model.features.choice import DEFAULT, TOKEN_AVG
from extract.model.pixels import PIXELS
from extract.model.preprocessing import CROP_MODES
from extract.model.providers.registry import provider_of
from extract.model.silence import silenced

if TYPE_CHECKING:
    import torch
    from torch import nn

# Vectors that differ by less, relative to the largest value, are the same.
SAME = 1e-5
# How a network without a classifier gives the vector of an image, as its user would write it.
CALL = "backbone(images)"
HEAD_CALL = "backbone.forward_head(backbone.forward_features(images), pre_logits=True)"
FLAT = ".flatten(1)"
# What timm raises of arguments, weights and sizes that do not fit a network.
TIMM_ERRORS = (
    TypeError, ValueError, AssertionError, KeyError, AttributeError, RuntimeError, IndexError,
)  # fmt: skip


class NotTimmAloneError(Exception):
    """What a network gives is not what timm alone makes of its name; the text says why."""


@dataclass(frozen=True)
class PlainTimm:
    """What `timm.create_model` is told to build the network of a backbone."""

    architecture: str  # with the tag where it has one
    args: dict[str, Any]
    pool: str  # for ``reset_classifier``, where it is not `DEFAULT`
    call: str = CALL  # what gives the vectors: `CALL` or `HEAD_CALL`, and `FLAT` where needed

    def build(self) -> nn.Module:
        """Build the network, without its classifier and with random weights."""
        network: Any = create(self.architecture, num_classes=0, **self.args)
        if self.pool != DEFAULT:
            network.reset_classifier(0, self.pool)
        return network


def create(architecture: str, **options: Any) -> nn.Module:
    """Call timm's constructor for a network with random weights, in evaluation mode."""
    import timm
    import torch

    with silenced("timm"), torch.random.fork_rng(devices=[]):
        network: nn.Module = timm.create_model(architecture, pretrained=False, **options)
    return network.eval().requires_grad_(False)


def preprocessing_of_timm(backbone: Backbone) -> dict[str, Any]:
    """Give what `timm.data.create_transform` is told to prepare images for a backbone."""
    settings = backbone.preprocessing
    if settings.crop_mode not in CROP_MODES:
        raise NotTimmAloneError(f"timm's transform has no crop like {settings.crop_mode}")
    return {
        "input_size": [3, *settings.size],
        "crop_pct": settings.crop_pct,
        "crop_mode": settings.crop_mode,
        "interpolation": settings.interpolation,
        "mean": list(settings.mean),
        "std": list(settings.std),
    }


def plain_timm(backbone: Backbone) -> PlainTimm:
    """Say how timm alone builds the network; a `NotTimmAloneError` says why it cannot."""
    if provider_of(backbone.name) is not None:
        raise NotTimmAloneError(f"{backbone.name} is not a network of timm")
    if backbone.name == PIXELS:
        raise NotTimmAloneError(f"{PIXELS} is not a network of timm")
    if len(backbone.choices) > 1:
        raise NotTimmAloneError(f"the features are several side by side ({backbone.features})")
    (choice,) = backbone.choices
    if choice.layer is not None or choice.pool == TOKEN_AVG:
        raise NotTimmAloneError(f"timm's own head does not see features of {choice.options()}")
    own = backbone.config or {"architecture": backbone.name, "args": {}}
    network: Any = backbone.network
    args = {**own["args"], **backbone.model_args}
    if network.pretrained_cfg.get("fixed_input_size"):
        args["img_size"] = backbone.preprocessing.image_size
    return _proven(backbone, PlainTimm(own["architecture"], args, choice.pool))


def _proven(backbone: Backbone, plain: PlainTimm) -> PlainTimm:
    """Find what gives the backbone's vectors, by comparing those of two random images."""
    images = images_of(backbone)
    try:
        network: Any = plain.build()
        network.load_state_dict(backbone.module.state_dict())
    except TIMM_ERRORS as error:
        raise NotTimmAloneError(f"timm alone cannot build it: {first_line(error)}") from error
    expected = vectors_of(backbone, images)
    for call in (CALL, HEAD_CALL):
        found = _called(network, call, images)
        if found is not None and same(found.flatten(1), expected):
            flat = FLAT if found.ndim > 2 else ""
            return PlainTimm(plain.architecture, plain.args, plain.pool, call + flat)
    raise NotTimmAloneError(
        f"timm alone gives other vectors for {backbone.name} than Icebox ({backbone.features})"
    )


def images_of(backbone: Backbone) -> torch.Tensor:
    """Draw two network inputs at random."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, *backbone.preprocessing.size, generator=generator)


def vectors_of(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    """Give the backbone's own vectors (n, width) of network inputs."""
    import torch

    with torch.inference_mode():
        return embed_normalised(backbone.module, images.clone())


def _called(network: Any, call: str, images: torch.Tensor) -> torch.Tensor | None:
    import torch

    try:
        with torch.inference_mode():
            if call == CALL:
                found = network(images.clone())
            else:
                found = network.forward_head(
                    network.forward_features(images.clone()), pre_logits=True
                )
    except TIMM_ERRORS:
        return None
    return found if isinstance(found, torch.Tensor) else None


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Tell whether two tensors hold the same numbers, but for rounding."""
    if found.shape != expected.shape:
        return False
    scale = expected.abs().max().clamp(min=1e-12)
    return bool((found - expected).abs().max() <= SAME * scale)
