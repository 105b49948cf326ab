"""The images that exports are measured on, and how they are put together."""

from __future__ import annotations

import numpy as np
from PIL import Image

from benchmarks.exports.__main__ import _pieces
from benchmarks.exports.answers import BATCH, _batches


def test_pieces_have_many_sizes_and_are_the_same_again(tmp_path):
    first, second = (_pieces(20, tmp_path / name) for name in "ab")
    sizes = {Image.open(name).size for name in first}
    assert len(sizes) > 15 and min(min(size) for size in sizes) < 32
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


def test_batches_hold_neighbours_of_one_size_in_their_order(tmp_path):
    sides = [3] * (BATCH + 1) + [5, 5] + [3]
    names = []
    for number, side in enumerate(sides):
        names.append(str(tmp_path / f"{number:03}.png"))
        Image.fromarray(np.full((side, side, 3), number, np.uint8)).save(names[-1])
    found = [[np.asarray(image)[0, 0, 0] for image in batch] for batch in _batches(names)]
    assert list(map(len, found)) == [BATCH, 1, 2, 1]
    assert [number for batch in found for number in batch] == list(range(len(sides)))
