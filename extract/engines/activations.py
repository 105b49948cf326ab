"""What a network holds on the way: how large a batch the host's memory can take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from extract.model.backbone import embed_normalised

if TYPE_CHECKING:
    from extract.model.backbone import Backbone


def activation_bytes(backbone: Backbone) -> int:
    """Estimate the memory that an image takes on its way through the network."""
    import torch

    if "activation bytes" in backbone.prepared:
        return int(backbone.prepared["activation bytes"])
    largest = 0

    def note(_: Any, inputs: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, torch.Tensor):
            largest = max(largest, output.numel() * 4)

    hooks = [part.register_forward_hook(note) for part in backbone.module.modules()]
    try:
        size = backbone.preprocessing.size
        device = next(backbone.module.parameters()).device
        with torch.inference_mode():
            embed_normalised(backbone.module, torch.zeros(1, 3, *size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    backbone.prepared["activation bytes"] = 4 * largest
    return 4 * largest
