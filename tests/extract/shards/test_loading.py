"""Image files decoded ahead: order, portions, bounds, ends."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from data.common.errors import UserError
from data.images.arrays import FileImages
from data.images.decode import BadImageError, decode_image
from extract.model.preprocess import NetworkInput, resize_one
from extract.model.preprocessing import Preprocessing
from extract.shards import loading
from extract.shards.loading import DecodedImages, Decoder

SETTINGS = Preprocessing(16, 0.9, "center", "bicubic", True, (0.5,) * 3, (0.5,) * 3)


def files(folder, count, first=0):
    folder.mkdir()
    for row in range(first, first + count):
        noise = np.random.default_rng(row).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{row:03d}.png")
    return FileImages(folder, tuple(sorted(os.listdir(folder))))


@pytest.fixture
def images(tmp_path):
    return {"train": files(tmp_path / "a", 23), "test": files(tmp_path / "b", 6, 100)}


def expected(images, split, row):
    part = images[split]
    return resize_one(SETTINGS, decode_image(part.root / part.names[row]))


def same(row, wanted):
    return isinstance(row.image, NetworkInput) and np.array_equal(row.image.pixels, wanted)


@pytest.mark.parametrize("jobs", [1, 3])
def test_rows_come_in_order_whatever_the_portions(images, jobs):
    wanted = {"train": [range(3, 9), range(15, 23)], "test": [range(6)]}
    order = [(s, row) for s, spans in wanted.items() for span in spans for row in span]
    with DecodedImages(images, SETTINGS, wanted, jobs) as decoded:
        first = decoded.peek(2)
        got = decoded.take(5) + decoded.take(1) + decoded.take(9) + decoded.take(5)
        assert decoded.peek(3) == []
    assert [row.image.pixels.tobytes() for row in first] == [
        row.image.pixels.tobytes() for row in got[:2]
    ]
    assert len(got) == len(order)
    assert all(same(row, expected(images, *at)) for row, at in zip(got, order, strict=True))


def test_what_cannot_be_decoded_is_an_error_in_its_place(images):
    (images["train"].root / images["train"].names[5]).write_bytes(b"no image")
    with DecodedImages(images, SETTINGS, {"train": [range(8)]}, 2) as decoded:
        rows = decoded.take(8)
    assert [isinstance(row.image, BadImageError) for row in rows] == [row == 5 for row in range(8)]


def test_nothing_wanted_starts_no_process(images, monkeypatch):
    monkeypatch.setattr("torch.utils.data.DataLoader", None)
    with DecodedImages(images, SETTINGS, {"train": [], "test": []}, 2) as decoded:
        assert decoded.peek(1) == []


def test_workers_run_ahead_no_further_than_their_memory(images, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda: 10**12)
    image = 3 * 16 * 16
    monkeypatch.setattr(loading, "AHEAD_BYTES", 40 * image)
    # 40 images of two workers, in messages of 4.
    assert loading._chunks_ahead([SETTINGS], 2) == 5
    monkeypatch.setattr(loading, "AHEAD_BYTES", 1)
    assert loading._chunks_ahead([SETTINGS], 2) == 2
    monkeypatch.setattr(loading, "AHEAD_BYTES", 10**9)
    monkeypatch.setattr(loading, "free_memory", lambda: 240 * image)
    assert loading._chunks_ahead([SETTINGS], 1) == 6


def test_decoding_goes_on_while_nobody_takes(images, monkeypatch, tmp_path):
    done = tmp_path / "done"
    done.mkdir()

    class Counted(Decoder):
        def __getitem__(self, index):
            (done / f"{self.images.root.name}-{index}").touch()
            return super().__getitem__(index)

    monkeypatch.setattr(loading, "Decoder", Counted)
    with DecodedImages(images, SETTINGS, {"train": [range(23)], "test": [range(6)]}, 2):
        deadline = time.monotonic() + 60
        while len(os.listdir(done)) < 29 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(os.listdir(done)) == 29


def test_closing_in_the_middle_ends_the_workers(images):
    decoded = DecodedImages(images, SETTINGS, {"train": [range(23)]}, 2)
    decoded.take(3)
    workers = list(decoded._batches._workers)
    start = time.monotonic()
    decoded.close()
    decoded.close()
    assert not any(worker.is_alive() for worker in workers)
    assert time.monotonic() - start < 4, "waited for a worker that nobody told to end"


def test_a_worker_that_dies_is_said_so(images, monkeypatch):
    class Dying(Decoder):
        def __getitem__(self, index):
            os._exit(9)

    monkeypatch.setattr(loading, "Decoder", Dying)
    with (
        pytest.raises(UserError, match=r"a process that decodes images died .*--jobs 1"),
        loading.death_as_user_error(),
        DecodedImages(images, SETTINGS, {"train": [range(4)]}, 1) as decoded,
    ):
        decoded.take(1)
