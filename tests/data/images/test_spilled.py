"""Images of an archive in a nameless file: the same rows and the same digest."""

import tempfile

import numpy as np
import pytest

from data.images import spilled
from data.images.arrays import ArrayImages, Split
from data.images.digests import digest_dataset
from data.images.spilled import SpilledImages, spill


@pytest.fixture
def split(monkeypatch):
    monkeypatch.setattr(spilled, "SPILL_BYTES", 1000)
    pixels = np.random.default_rng(0).integers(0, 256, (3000, 4, 5, 3), dtype=np.uint8)
    return Split(ArrayImages(pixels), np.arange(3000) % 2, tuple(map(str, range(3000))))


def test_rows_and_digest_are_those_in_memory(split, tmp_path):
    moved = spill(split, tmp_path)
    assert isinstance(moved.images, SpilledImages)
    assert not list(tmp_path.iterdir())
    pixels = split.images.array
    for start, stop in ((0, 16), (2990, 3010), (7, 7), (0, 3000)):
        rows = moved.images.rows(start, stop)
        assert np.array_equal(rows, pixels[start:stop])
        assert rows.flags.owndata or rows.base.flags.owndata
    assert np.array_equal(moved.images.array, pixels)
    few = moved.take(np.array([5, 2]))
    assert np.array_equal(few.images.rows(0, 2), pixels[[5, 2]])
    digests = {
        digest_dataset(("a", "b"), (), {"train": one, "test": few}) for one in (split, moved)
    }
    assert len(digests) == 1


def test_few_images_stay_in_memory_and_so_do_those_that_no_folder_takes(
    split, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "neither"))
    assert spill(split, tmp_path / "not there") is split
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert isinstance(spill(split, tmp_path / "not there").images, SpilledImages)
    monkeypatch.setattr(spilled, "SPILL_BYTES", 1 << 20)
    assert spill(split, tmp_path) is split
