"""Which input size weights were made for, where timm does not resample them to another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# Sides that models are published with, the most frequent first.
COMMON = (224, 256, 384, 448, 336, 240, 288, 320, 192, 512, 378, 196, 518, 128, 160, 64, 32)
# A model is built, without memory for its weights, for each size that is tried.
TRIED = 12

# Prefix tokens, such as class, distillation and register tokens, beside a grid of patches.
_PREFIX_TOKENS = (0, 1, 2, 5, 8)

Shapes = Mapping[str, tuple[int, ...]]


def size_that_fits(
    side: int,
    config: Mapping[str, Any],
    wanted: Shapes,
    found: Sequence[Shapes],
    fits: Callable[[int], bool],
) -> int | None:
    """Find the side of the images that weights were made for, other than the one asked for.

    `wanted` are the shapes of the model that was built for `side`, `found` those in the file; what
    is guessed from them is believed only where the weights fit the model of that size.
    """
    if not any(_may_differ(wanted, shapes) for shapes in found):
        return None
    own = (config.get(name) or () for name in ("input_size", "test_input_size"))
    guesses = [shape[-1] for shape in own if shape]
    for shapes in found:
        guesses += _guesses(side, wanted, shapes)
    tried: list[int] = []
    for guess in (*guesses, *COMMON):
        if guess == side or guess in tried or len(tried) == TRIED:
            continue
        tried.append(guess)
        if fits(guess):
            return guess
    return None


def _may_differ(wanted: Shapes, found: Shapes) -> bool:
    """Tell whether a shape is another one, or all names are: timm converts those."""
    common = wanted.keys() & found.keys()
    return not common or any(wanted[name] != found[name] for name in common)


def _guesses(side: int, wanted: Shapes, found: Shapes) -> Iterator[int]:
    """Guess sides from the shapes that differ, by the ratios of grids or of their areas."""
    seen = set()
    for name, shape in wanted.items():
        stored = found.get(name)
        if stored is None or stored == shape or len(stored) != len(shape):
            continue
        for there, here in zip(stored, shape, strict=True):
            if there == here:
                continue
            ratios = [there / here, math.sqrt(there / here), (there + 1) / (here + 1)]
            least = min(there, here)
            ratios += [math.sqrt((there - k) / (here - k)) for k in _PREFIX_TOKENS if k < least]
            # Tables of relative positions have (2 w - 1) ** 2 rows for windows of w.
            ratios.append((math.sqrt(there) + 1) / (math.sqrt(here) + 1))
            for ratio in ratios:
                guess = round(side * ratio)
                whole = abs(side * ratio - guess) < 1e-6
                if whole and guess % 2 == 0 and guess not in seen and 8 <= guess <= 4096:
                    seen.add(guess)
                    yield guess
