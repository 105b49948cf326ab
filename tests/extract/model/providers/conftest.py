"""Photographs, and the store that a network makes of them, for networks of every library."""

from __future__ import annotations

import numpy as np
import pytest
from own_images import write_photographs
from PIL import Image

from data import open_features

JOB = ("--batch-size=4", "--engine=torch", "--jobs=1")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Write photographs once a module: their folder, and the file of each id."""
    folder = tmp_path_factory.mktemp("photographs")
    return folder, write_photographs(folder)


@pytest.fixture
def embedded(call, tmp_path, photographs):
    """Embed the photographs by a command line, and open the store."""

    def run(*words):
        done = call(f"--dataset={photographs[0]}", *JOB, f"--features-dir={tmp_path / 'f'}", *words)
        assert done.code == 0, done.err
        return open_features(done.path)

    return run


@pytest.fixture
def rows_beside(photographs):
    """Give a store's rows of images that Pillow resizes, and what a function makes of these."""

    def pairs(store, expected_of):
        side = min(np.ravel(store.spec["preprocessing"]["image_size"]))
        for split in store.splits.values():
            images = [Image.open(photographs[1][name]).convert("RGB") for name in split.ids]
            # Small square ones are resized on the device.
            kept = [row for row, i in enumerate(images) if not (i.width == i.height <= side)]
            yield split.features[:][kept], expected_of([images[row] for row in kept])

    return pairs
