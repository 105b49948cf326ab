"""timm's own heads, switched to another pooling, and the proof that they were."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from extract.model.features.choice import AVG, TOKEN

if TYPE_CHECKING:
    import torch
    from torch import nn

# Vectors that differ by less, relative to the largest value, are the same.
_SAME = 1e-4


def parameters_of(function: Any) -> set[str]:
    """Name the parameters of a function; none for what is no function."""
    return set(inspect.signature(function).parameters) if callable(function) else set()


def has_head(network: Any) -> bool:
    """Tell whether timm can pool features apart from computing them."""
    return "pre_logits" in parameters_of(getattr(network, "forward_head", None))


def n_prefix_tokens(network: Any) -> int:
    """Count the tokens before the patches: class, distillation and register tokens."""
    counted = getattr(network, "num_prefix_tokens", None)
    if isinstance(counted, int):
        return counted
    return int(getattr(network, "cls_token", None) is not None)


def is_distilled(network: Any) -> bool:
    """Tell whether a network has a distillation token, whose head pools in one way only."""
    return getattr(network, "dist_token", None) is not None


def sharing_copy(network: nn.Module) -> nn.Module:
    """Copy the modules of a network, and share its weights."""
    kept = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, kept)


def repooled(network: nn.Module, pool: str, features: Any) -> nn.Module | None:
    """Give the network with its head switched to a pooling; None where timm cannot do that.

    `features` are those that its ``forward_features`` gave of an image.
    """
    if not has_head(network) or getattr(network, "reset_classifier", None) is None:
        return None
    if pool == TOKEN and not n_prefix_tokens(network):
        return None
    view: Any = sharing_copy(network)
    try:
        view.reset_classifier(0, pool)
        view.eval().requires_grad_(False)
        return view if _pools(view, pool, features) or _switched(network, view, features) else None
    # timm refuses in many words, some heads by falling over.
    except (AssertionError, TypeError, ValueError, RuntimeError, AttributeError, KeyError):
        return None


def head_of(view: Any, features: Any) -> torch.Tensor:
    """Give the vectors that a head makes of features, which it may change in place."""
    import torch

    whole = isinstance(features, torch.Tensor)
    copied = features.clone() if whole else [part.clone() for part in features]
    with torch.inference_mode():
        return view.forward_head(copied, pre_logits=True)


def _differ(one: torch.Tensor, two: torch.Tensor) -> bool:
    return bool((one - two).abs().max() > _SAME * one.abs().max().clamp(min=1e-12))


def _switched(network: Any, view: Any, features: Any) -> bool:
    """Tell whether a head that computes something before it pools is another than it was.

    Then nothing can be proven by its input; nor of networks with several branches.
    """
    import torch

    if isinstance(features, torch.Tensor) and features.ndim != 4:
        return False
    before, after = head_of(network, features), head_of(view, features)
    same_pool = _pool_of(network) == _pool_of(view) is not None
    return same_pool or before.shape != after.shape or _differ(before, after)


def _pool_of(network: Any) -> str | None:
    """Give timm's word for how a network pools, where it says so."""
    for part in (network, getattr(network, "head", None)):
        for found in (getattr(part, "global_pool", None), getattr(part, "pool_type", None)):
            word = found if isinstance(found, str) else getattr(found, "pool_type", None)
            if isinstance(word, str) and word:
                return word
    return None


def _pools(view: Any, pool: str, features: Any) -> bool:
    """Prove on one image's features that a head pools as it was told to, and not otherwise.

    What it gives must stay the same when every place is put at their mean (or maximum), or when all
    but the class token changes; and it must change when that which it is to pool changes.
    """
    import torch

    if not isinstance(features, torch.Tensor):
        return False
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    noise = noise.to(features) * features.std() + features.mean()

    def differs(other: torch.Tensor) -> bool:
        return _differ(head_of(view, features), head_of(view, other))

    if pool == TOKEN:
        patches, token = features.clone(), features.clone()
        patches[:, 1:], token[:, 0] = noise[:, 1:], noise[:, 0]
        return differs(token) and not differs(patches)
    whole = bool(getattr(view, "pool_include_prefix", False))
    first = 0 if features.ndim == 4 or whole else n_prefix_tokens(view)
    for axes in ((1,),) if features.ndim == 3 else ((2, 3), (1, 2)):
        rest = features[:, first:] if features.ndim == 3 else features
        level, other = features.clone(), features.clone()
        pooled = rest.mean(axes, keepdim=True) if pool == AVG else rest.amax(axes, keepdim=True)
        level[:, first:] = pooled
        other[:, first:] = noise[:, first:]
        if differs(other) and not differs(level):
            return True
    return False


def bare_head(view: nn.Module, features: Any) -> nn.Module:
    """Leave of a network only what its head needs: the rest is computed elsewhere."""
    import torch
    from torch import nn

    used: set[str] = set()
    hooks = [
        part.register_forward_pre_hook(_noting(used, name)) for name, part in view.named_children()
    ]
    try:
        before = head_of(view, features)
    finally:
        for hook in hooks:
            hook.remove()
    bare: Any = sharing_copy(view)
    for name, _ in view.named_children():
        if name not in used:
            setattr(bare, name, nn.Identity())
    try:
        after = head_of(bare, features)
    except (AttributeError, RuntimeError, TypeError):
        return view
    return bare if torch.equal(before, after) else view


def _noting(used: set[str], name: str) -> Callable[[Any, Any], None]:
    def note(_: Any, __: Any) -> None:
        used.add(name)

    return note
