"""A module whose output is several features of one network, side by side, from one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from extract.model.features.choice import AVG, DEFAULT, MAX, TOKEN

# The mean of class and distillation token, which is what a distilled network's own head takes.
BOTH_TOKENS = "both tokens"


@dataclass(frozen=True)
class Recipe:
    """How the vector of one feature is put together: its parts, side by side."""

    # A pooling, and the number of the layer that is pooled; None for what the network's head takes
    parts: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class Abilities:
    """What is known of a network on which recipes rest."""

    headed: bool  # whether its head can be run apart from the rest
    arguments: Mapping[str, Any] | None  # of ``forward_intermediates``; None where none is called
    ends_alike: bool  # whether that also gives, bit for bit, what the head takes
    norm_after: bool  # whether its ``fc_norm`` follows the pooling


class Features(nn.Module):
    """Several features of one network, side by side in its output: (n, sum of widths)."""

    def __init__(
        self,
        network: nn.Module,
        recipes: Sequence[Recipe],
        heads: Mapping[str, nn.Module],
        able: Abilities,
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.heads = nn.ModuleDict(dict(heads))
        self.recipes = tuple(recipes)
        self.able = able
        parts = {part for recipe in recipes for part in recipe.parts}
        self.indices = sorted({index for _, index in parts if index is not None})
        self.of_head = any(index is None for _, index in parts)
        self.shared = len(parts) > 1
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give the vectors of all features: (n, sum of widths)."""
        return torch.cat(self.vectors(images), dim=1)

    def vectors(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Give the vectors of each feature, in one pass over the network."""
        final, layers = self._computed(images)
        made: dict[tuple[str, int | None], torch.Tensor] = {}
        found = []
        for recipe in self.recipes:
            for pool, index in recipe.parts:
                if (pool, index) not in made:
                    made[pool, index] = (
                        self._of_head(pool, final, images)
                        if index is None
                        else self._of_layer(pool, *layers[index])
                    )
            found.append(torch.cat([made[part] for part in recipe.parts], dim=1))
        return found

    def _computed(self, images: torch.Tensor) -> tuple[Any, dict[int, Any]]:
        """Run the network: what its head takes, and its layers by number."""
        if not self.indices:
            return self._final(images), {}
        arguments = {**(self.able.arguments or {}), "indices": self.indices}
        if self.of_head and self.able.ends_alike:
            final, every = self.network.forward_intermediates(images, **arguments)
        else:
            arguments |= {"intermediates_only": True, "stop_early": True}
            every = self.network.forward_intermediates(images, **arguments)
            final = self._final(images) if self.of_head else None
        return final, dict(zip(self.indices, map(parts_of, every), strict=True))

    def _final(self, images: torch.Tensor) -> Any:
        return self.network.forward_features(images) if self.able.headed else None

    def _of_head(self, pool: str, final: Any, images: torch.Tensor) -> torch.Tensor:
        if not self.able.headed:
            output = self.network(images)
        else:
            head: Any = self.network if pool == DEFAULT else self.heads[pool]
            # Some heads work in place, on what others still need.
            if self.shared:
                final = final.clone() if isinstance(final, torch.Tensor) else [*final]
            output = head.forward_head(final, pre_logits=True)
        return output.flatten(1) if output.ndim == 4 else output

    def _of_layer(
        self, pool: str, places: torch.Tensor, prefix: torch.Tensor | None
    ) -> torch.Tensor:
        """Pool a layer: `places` (n, width, rows, columns), `prefix` (n, tokens, width)."""
        if pool == AVG:
            vector = places.mean((2, 3))
        elif pool == MAX:
            vector = places.amax((2, 3))
        else:
            assert prefix is not None  # as the network's abilities say
            vector = prefix[:, 0] if pool == TOKEN else (prefix[:, 0] + prefix[:, 1]) / 2
        return self.network.fc_norm(vector) if self.able.norm_after else vector


def parts_of(layer: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Take apart what timm gives of a layer: (n, width, rows, columns), and (n, prefix, width)."""
    if isinstance(layer, tuple | list):
        places, prefix = layer
        return places, prefix if prefix is not None and prefix.shape[1] else None
    return layer, None
