"""Part ``decoding``: what ``--decode fast`` saves, and how far its pixels are from exact ones."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks.record import Record, Table
from benchmarks.settings import Settings
from data.images.decode import decode_file
from extract.model.preprocess import NetworkInput, prepared, wanted_of
from extract.model.preprocessing import Preprocessing

# Width and height of a photograph, and how it is written.
Photograph: TypeAlias = tuple[tuple[int, int], dict[str, Any]]
PHOTOGRAPHS: tuple[Photograph, ...] = (
    ((500, 375), {}),
    ((1600, 1200), {}),
    ((4000, 3000), {}),
    ((4000, 3000), {"progressive": True}),
    ((6000, 4000), {}),
)
SIDES = (224, 128)
GOAL = 4.0  # times as fast
GOAL_AT: tuple[tuple[int, int], dict[str, Any], int] = ((4000, 3000), {}, 224)
NOISE = 6.0  # standard deviation in grey levels: files as large as a camera's
COLUMNS = (
    ("pixels", 12), ("JPEG", 12), ("input", 6), ("exact", 10), ("fast", 10), ("ratio", 6),
    ("levels", 7), ("largest", 8),
)  # fmt: skip


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "decoding", settings.record())
    record.remark(
        "CPU milliseconds of one process to decode, turn, resize and crop one JPEG, the smallest "
        f"of {settings.repeats} in turn; mean and largest difference in grey levels"
    )
    table, reached = Table(COLUMNS), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for size, options in PHOTOGRAPHS:
            path = _photograph(Path(folder, "photograph.jpg"), size, options)
            for side in SIDES:
                ratio = _measure(path, (size, options), side, settings.repeats, table, record)
                if (size, options, side) == GOAL_AT:
                    reached = ratio
    record.remark(f"goal of {GOAL:g}x: {'met' if reached >= GOAL else 'NOT met'} ({reached:.1f}x)")
    record.finish()
    return record


def _photograph(path: Path, size: tuple[int, int], options: dict[str, Any]) -> Path:
    """Write one of scikit-learn's photographs in another size, with noise as of a sensor."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image("china.jpg")).resize(size)
    noisy = np.asarray(image, dtype=np.float32)
    noisy = noisy + np.random.default_rng(0).normal(0.0, NOISE, noisy.shape).astype(np.float32)
    pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=92, **options)
    return path


def _measure(
    path: Path, photograph: Photograph, side: int, repeats: int,
    table: Table, record: Record,
) -> float:  # fmt: skip
    """Measure one file and one size of the input; give how many times as fast it is."""
    size, options = photograph
    exact = Preprocessing(side, 0.875, "center", "bicubic", True, (0.5,) * 3, (0.5,) * 3)
    seconds: dict[str, list[float]] = {"exact": [], "fast": []}
    inputs = {}
    for _ in range(repeats):
        for settings in (exact, replace(exact, decode="fast")):
            start = time.process_time()
            image = decode_file(path, wanted=wanted_of(settings))
            found = prepared(settings, image.pixels, image.reduction)
            seconds[settings.decode].append(time.process_time() - start)
            assert isinstance(found, NetworkInput)
            inputs[settings.decode] = found.pixels.astype(int)
    best = {name: min(values) for name, values in seconds.items()}
    apart = np.abs(inputs["exact"] - inputs["fast"])
    ratio = best["exact"] / best["fast"]
    kind = "progressive" if options else "baseline"
    table.row(
        f"{size[0]} x {size[1]}", kind, side, f"{1e3 * best['exact']:.1f} ms",
        f"{1e3 * best['fast']:.1f} ms", f"{ratio:.1f}", f"{apart.mean():.2f}", int(apart.max()),
    )  # fmt: skip
    record.add(
        {"width": size[0], "height": size[1], "kind": kind, "side": side, "seconds": seconds}
        | {"ratio": ratio, "mean_levels": float(apart.mean()), "largest": int(apart.max())}
    )
    return ratio
