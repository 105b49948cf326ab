"""The part of a network of transformers that makes one vector of an image."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from data.common.errors import UserError
from extract.model.providers.towers import one_line

if TYPE_CHECKING:
    import torch
    from torch import nn

# What a ``spec`` says of which vector it is.
IMAGE_EMBEDDING, POOLER, CLASS_TOKEN = "image_embedding", "pooler_output", "class_token"
CHOICES = (IMAGE_EMBEDDING, POOLER, CLASS_TOKEN)
_TOKENS = ("cls_token", "class_embedding", "class_token")


def missing_pooler(missing: Collection[str]) -> bool:
    """Tell whether all that a file lacks is a pooler, which classifiers are trained without."""
    return bool(missing) and all("pooler" in name.split(".") for name in missing)


def image_tower(
    network: nn.Module, size: tuple[int, int], model: str, vector: str | None
) -> tuple[nn.Module, str]:
    """Wrap a network so that it gives one vector an image, without the parts that take no part.

    `vector` is the choice that was made before, or that missing weights leave; None chooses.
    """
    import torch

    if vector is None:
        vector = IMAGE_EMBEDDING if hasattr(network, "get_image_features") else POOLER
    network = network.eval().requires_grad_(False)
    images = torch.zeros(2, 3, *size)
    tower = _tower(network, vector, size)
    try:
        with torch.inference_mode():
            if vector == POOLER and tower(images) is None:
                vector = CLASS_TOKEN
                tower = _tower(network, vector, size)
            _drop_unused(network, tower, images)
            tower(images)
    except _NoVectorError as error:
        raise UserError(
            f"--model {model}: {type(network).__name__} {error}; give another network, or this one "
            "as package.module:factory (in the manual: guide/own-networks.md)"
        ) from error
    except Exception as error:  # whatever the network's own code raises
        raise UserError(
            f"--model {model}: {type(network).__name__} cannot embed images of {size[0]}x{size[1]} "
            f"pixels ({one_line(error)}); give another --image-size, or another --model"
        ) from error
    return tower, vector


class _NoVectorError(Exception):
    """A network gives neither of the vectors that are known."""


def _tower(network: nn.Module, vector: str, size: tuple[int, int]) -> nn.Module:
    from torch import nn

    call: Any = network.get_image_features if vector == IMAGE_EMBEDDING else network.forward
    options = _options(network, call, size)
    token = vector == CLASS_TOKEN

    class ImageTower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> Any:
            called: Any = self.network
            if vector == IMAGE_EMBEDDING:
                output = called.get_image_features(pixel_values=images, **options)
                # A tensor in versions before 5.
                return getattr(output, "pooler_output", output)
            output = called(pixel_values=images, **options)
            if token:
                return output.last_hidden_state[:, 0]
            pooled = getattr(output, "pooler_output", None)
            # Of convolutional networks it has a height and a width of one.
            return pooled.flatten(1) if pooled is not None and pooled.ndim == 4 else pooled

    if token and not _has_class_token(network):
        raise _NoVectorError("gives neither a pooler_output nor a class token")
    return ImageTower().eval().requires_grad_(False)


def _has_class_token(network: nn.Module) -> bool:
    return any(name.rpartition(".")[2] in _TOKENS for name, _ in network.named_parameters())


def _options(network: Any, call: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Ask for a position embedding of another size, of networks that do so only when asked."""
    config = getattr(network.config, "vision_config", network.config)
    own = getattr(config, "image_size", None)
    own = (own, own) if isinstance(own, int) else tuple(own or ())
    known = "interpolate_pos_encoding" in inspect.signature(call).parameters
    return {"interpolate_pos_encoding": True} if known and own and own != size else {}


def _drop_unused(network: nn.Module, tower: nn.Module, images: torch.Tensor) -> None:
    """Leave out the parts that an image never reaches, such as the text tower."""
    called: set[str] = set()
    hooks = [
        part.register_forward_hook(lambda *_, name=name: called.add(name.partition(".")[0]))
        for name, part in network.named_modules()
        if name
    ]
    try:
        before = tower(images)
    finally:
        for hook in hooks:
            hook.remove()
    unused = {name: part for name, part in network.named_children() if name not in called}
    for name in unused:
        delattr(network, name)
    try:
        same = bool((tower(images) == before).all())
    except Exception:  # a part whose weights are used, though it is not called
        same = False
    if not same:
        for name, part in unused.items():
            setattr(network, name, part)
