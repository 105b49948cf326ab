"""Batch norms folded into the convolutions before them: fewer passes over the activations.

In evaluation mode a batch norm is a fixed scale and shift of each channel, so
``scale * (W x + b) + shift`` is one convolution with other weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from extract.engines.device import EngineError
from extract.model.backbone import embed_normalised

if TYPE_CHECKING:
    import torch
    from torch import nn


def foldable(module: nn.Module) -> bool:
    """Tell whether a network has convolutions and batch norms at all."""
    from torch import nn

    kinds = {type(part) for part in module.modules()}
    return any(issubclass(kind, nn.Conv2d) for kind in kinds) and any(
        issubclass(kind, nn.BatchNorm2d) for kind in kinds
    )


def fold_batch_norms(module: nn.Module, example: torch.Tensor) -> nn.Module:
    """Fold every batch norm that follows a convolution directly, in place.

    Which one follows which is seen in a forward pass: the norm is given the very tensor that
    the convolution returned. A convolution whose output something else uses as well cannot be
    told so; the caller compares the result with the network as it was.

    Shapes: `example` float32 (1, 3, height, width).
    """
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    pairs = _pairs(module, example)
    if not pairs:
        raise EngineError("no batch norm follows a convolution")
    with torch.no_grad():
        for conv, norm in pairs:
            conv.weight, bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var,
                norm.eps, norm.weight, norm.bias,
            )  # fmt: skip
            conv.bias = bias
    replaced = {norm for _, norm in pairs}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child in replaced:
                # timm's norms apply an activation, too.
                rest = [getattr(child, part, None) for part in ("drop", "act")]
                kept = [part for part in rest if isinstance(part, nn.Module)]
                setattr(parent, name, nn.Sequential(*kept))
    return module


def _pairs(module: nn.Module, example: torch.Tensor) -> list[tuple[Any, Any]]:
    """Find the convolutions and the batch norms that take their output, each called once."""
    import torch
    from torch import nn

    calls: dict[nn.Module, int] = {}
    outputs: list[tuple[torch.Tensor, nn.Module]] = []
    found: list[tuple[nn.Module, nn.Module]] = []

    def after(conv: nn.Module, _: Any, output: torch.Tensor) -> None:
        calls[conv] = calls.get(conv, 0) + 1
        outputs.append((output, conv))

    def before(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[norm] = calls.get(norm, 0) + 1
        found.extend((conv, norm) for output, conv in outputs if output is inputs[0])

    hooks = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            hooks.append(part.register_forward_hook(after))
        elif isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            hooks.append(part.register_forward_pre_hook(before))
    try:
        with torch.inference_mode():
            embed_normalised(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, norm) for conv, norm in found if calls[conv] == calls[norm] == 1]
