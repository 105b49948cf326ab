"""Writes schema-1.h5, the frozen store of schema 1.

It was run once, when schema 1 was released, and again, for schema-1-without-moments.h5, when the
moments of each class were no longer written, and, for schema-1-with-optional-parts.h5, when splits
and columns came that not every store has, and is kept to show what the file holds. Do not run
it again to make a test pass: files like this one are on users' disks.

    python tests/archives/make_schema_1.py tests/archives/schema-1.h5
    python tests/archives/make_schema_1.py tests/archives/schema-1-with-optional-parts.h5 optional
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from data.format.records import SplitSource
from data.writing import join

N_TRAIN, N_TEST, WIDTH = 24, 4, 3
CLASS_NAMES = ("airplane", "Käse", "cat")
SPEC = {
    "dataset": {"name": "frozen", "digest": "0" * 64, "limit": 16},
    "model": {
        "name": "test_model",
        "args": {"pad_type": "same"},
        "weights": {"source": "random", "digest": "1" * 64},
    },
    "preprocessing": {
        "image_size": 64,
        "crop_pct": 0.875,
        "crop_mode": "center",
        "interpolation": "bicubic",
        "antialias": True,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
    "pool": "default",
    "precision": "fp32",
    "store_dtype": "float32",
    "seed": 0,
}


def rows(n: int, first: int) -> np.ndarray:
    """Make rows by a rule that needs no generator: they must never change."""
    return (np.arange(first, first + n * WIDTH) % 17 - 7.5).astype(np.float32).reshape(n, WIDTH)


def source(n: int, first: int, split: str) -> SplitSource:
    """Make the rows of a split, of which one has no embedding."""
    ok = np.arange(n) != 2
    ids = [f"{split}/ä-{index}.png" for index in range(n)]
    return SplitSource(np.arange(n) % 3, ids, [(rows(n, first), ok)])


GROUP_NAMES = ("p1", "p2", "Größe")
OPTIONAL = {"train": N_TRAIN, "test": N_TEST, "validation": 6, "unlabelled": 5}


def columns(n: int) -> dict[str, np.ndarray]:
    """Make the columns of a split of which every store may have some."""
    return {
        "groups": np.arange(n) % 3,
        "weights": np.arange(n) / 4,
        "image_sha256": (np.arange(32 * n) % 251).astype(np.uint8).reshape(n, 32),
    }


def source_with_columns(n: int, first: int, split: str) -> SplitSource:
    """Make the rows of a split with all its columns."""
    made = replace(source(n, first, split), **columns(n))
    return replace(made, labels=np.full(n, -1)) if split == "unlabelled" else made


def write_optional(path: str) -> None:
    """Write the store that has everything that a store may have."""
    join(
        path,
        spec=SPEC,
        request={"options": {"model": "test_model"}, "schema": 1},
        provenance={"seconds": 0.5},
        class_names=CLASS_NAMES,
        group_names=GROUP_NAMES,
        splits={name: source_with_columns(n, n, name) for name, n in OPTIONAL.items()},
    )


if __name__ == "__main__":
    if sys.argv[2:] == ["optional"]:
        write_optional(sys.argv[1])
        sys.exit()
    join(
        sys.argv[1],
        spec=SPEC,
        request={"options": {"model": "test_model"}, "schema": 1},
        provenance={"skipped_images": ["train/ä-2.png", "test/ä-2.png"], "seconds": 0.5},
        class_names=CLASS_NAMES,
        splits={"train": source(N_TRAIN, 0, "train"), "test": source(N_TEST, 5, "test")},
    )
