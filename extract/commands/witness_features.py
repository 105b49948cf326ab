"""Features as timm and DINOv2 write them, for ``verify``; nothing of `extract.model.features`.

What a head pools is pooled here by its formula, or by timm's network built for it; layers are
caught by hooks on a transformer's blocks, or asked of timm one by one.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.format.spec import LAYER, pooled_otherwise

if TYPE_CHECKING:
    import torch

    Vectors = Callable[[torch.Tensor], torch.Tensor]
    # Of a layer: its patches, (n, patches, width), and the tokens before them, or None.
    Layer = tuple[torch.Tensor, torch.Tensor | None]


def feature_of_spec(network: Any, spec: Mapping[str, Any]) -> Vectors:
    """Give the function from images to the rows that a store with this spec should have."""
    pool, layer = spec["pool"], spec.get(LAYER)
    if pooled_otherwise(spec):
        pool = "default"
    if layer is not None:
        return _of_layers(network, pool, layer)
    parts = [_of_head(network, one) for one in pool.split("+")]

    def vectors(images: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.cat([part(images) for part in parts], dim=1)

    return vectors


def _of_head(network: Any, pool: str) -> Vectors:
    """Pool what the network's head takes."""
    prefix = getattr(network, "num_prefix_tokens", None)
    model: Any = network if pool == "default" else None

    def vectors(images: torch.Tensor) -> torch.Tensor:
        nonlocal model
        if pool != "default" and prefix is not None:
            tokens = network.forward_features(images)
            if tokens.ndim == 3:
                if getattr(network, "pool_include_prefix", False) and pool != "token":
                    return _normed(network, _pooled((tokens, None), pool))
                parts = tokens[:, prefix:], tokens[:, :prefix]
                return _normed(network, _pooled(parts, pool))
            raise ValueError(f"tokens of shape {tuple(tokens.shape)}")
        if model is None:  # copied now, when the network is on its device
            model = copy.deepcopy(network)
            model.reset_classifier(0, pool)
            model.eval()
        try:
            output = model.forward_head(model.forward_features(images), pre_logits=True)
        except (AttributeError, TypeError):  # a model without this argument
            output = model(images)
        return output.flatten(1)

    return vectors


def _pooled(layer: Layer, pool: str) -> torch.Tensor:
    patches, prefix = layer
    if pool == "avg":
        return patches.sum(dim=1) / patches.shape[1]
    if pool == "max":
        return patches.max(dim=1).values
    assert prefix is not None
    return prefix[:, 0] if pool == "token" else prefix[:, :2].mean(dim=1)


def _normed(network: Any, vector: torch.Tensor) -> torch.Tensor:
    norm = getattr(network, "fc_norm", None)
    return vector if norm is None else norm(vector)


def _of_layers(network: Any, pool: str, layer: str) -> Vectors:
    """Pool layers, and put them side by side as DINOv2's ``create_linear_input`` does."""
    number = int(re.sub(r"\D", "", layer))
    blocks = getattr(network, "blocks", None)
    known = inspect.signature(network.forward_intermediates).parameters
    names = [one.get("module") for one in getattr(network, "feature_info", [])]
    caught = "return_prefix_tokens" in known and names == [
        f"blocks.{i}" for i in range(len(blocks or []))
    ]

    def vectors(images: torch.Tensor) -> torch.Tensor:
        import torch

        every = _hooked(network, images) if caught else []
        every = every or _asked(network, images, known)
        taken = every[-number:] if layer.startswith("last") else [every[-number]]
        own = _own(network, taken[-1])
        alike = len({patches.shape[-1] for patches, _ in every}) == 1

        def of(one: Layer, how: str) -> torch.Tensor:
            vector = _pooled(one, own if how == "default" else how)
            return _normed(network, vector) if alike else vector

        if pool == "token+avg":
            output = torch.cat([of(one, "token") for one in taken], dim=-1)
            return torch.cat((output, of(taken[-1], "avg")), dim=-1)
        return torch.cat([of(one, pool) for one in taken], dim=-1)

    return vectors


def _own(network: Any, layer: Layer) -> str:
    """Say how the network itself pools its last layer."""
    if layer[1] is not None and getattr(network, "dist_token", None) is not None:
        return "both"
    pool = getattr(network, "global_pool", None)
    if pool == "token" and layer[1] is not None:
        return "token"
    return "max" if pool == "max" else "avg"


def _hooked(network: Any, images: torch.Tensor) -> Sequence[Layer]:
    """Catch what each block gives, and apply the final norm; nothing where it is not tokens."""
    import torch

    outputs: list[Any] = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
        for block in network.blocks
    ]
    try:
        network.forward_features(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not all(isinstance(one, torch.Tensor) and one.ndim == 3 for one in outputs):
        return []
    if len(outputs) != len(network.blocks):
        return []
    normed = [network.norm(one) for one in outputs]
    n = int(getattr(network, "num_prefix_tokens", 0))
    return [(one[:, n:], one[:, :n] if n else None) for one in normed]


def _asked(network: Any, images: torch.Tensor, known: Mapping[str, Any]) -> Sequence[Layer]:
    """Have timm give every layer, with the final norm where it can."""
    for norm in (True, False):
        for prefix in (True, False) if "return_prefix_tokens" in known else (False,):
            more = {"return_prefix_tokens": True} if prefix else {}
            try:
                every = network.forward_intermediates(
                    images, norm=norm, output_fmt="NCHW", intermediates_only=True, **more
                )
            except (AssertionError, TypeError, ValueError, RuntimeError, UnboundLocalError):
                continue
            pairs = [one if isinstance(one, tuple | list) else (one, None) for one in every]
            return [(places.flatten(2).transpose(1, 2), tokens) for places, tokens in pairs]
    raise ValueError("timm gives no layers of this network")
