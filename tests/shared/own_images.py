"""Photographs of many shapes in a folder of two classes; not a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

# Around inputs of 24 to 64 pixels: smaller, larger, wide, tall, with every remainder of four, by
# which crops that round differently differ.
SHAPES = [
    (20, 20), (64, 64), (99, 70), (70, 99), (45, 131), (131, 46), (240, 233), (67, 64), (35, 32),
    (38, 33), (300, 201), (41, 77),
]  # fmt: skip


def write_photographs(folder: Path) -> dict[str, Path]:
    """Write noise beside waves and sharp edges; give the files by their ids in a store."""
    found = {}
    for number, (height, width) in enumerate(SHAPES):
        rng = np.random.default_rng(number)
        y, x = np.mgrid[:height, :width]
        waves = 127 + 100 * np.sin(x / (3.0 + number) + y / 5.0)[..., None] * np.ones(3)
        noise = rng.integers(0, 256, (height, width, 3))
        pixels = np.where((x > width // 2)[..., None], noise, waves).astype(np.uint8)
        split, kind = ("train", "test")[number % 2], "ab"[number // 2 % 2]
        path = folder / split / kind / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        found[f"{kind}/{path.name}"] = path
    return found
