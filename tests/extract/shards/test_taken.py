"""More images later: what a finished store has is taken over, and the rows are those of one run."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from data.reading import open_features, verify_store
from extract.shards import fill

OPTIONS = (
    "--model", "test_efficientnet", "--weights", "random",
    "--batch-size", "8", "--engine", "channels-last", "--jobs", "1",
)  # fmt: skip


def add_image(folder, label, number):
    """Write an image of a size and kind of its own."""
    generator = np.random.default_rng([ord(label[0]), number])
    pixels = generator.integers(0, 256, (20 + number, 30 + number % 3, 3), dtype=np.uint8)
    folder = folder / label
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{number:03}.{'png' if number % 2 else 'jpg'}")


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "pets"
    for label in ("cats", "dogs"):
        for number in range(12):
            add_image(root / "train", label, number)
        for number in range(12, 15):
            add_image(root / "test", label, number)
    return root


@pytest.fixture
def embed(call, images, features):
    def run(*more, into=features):
        where = ("--dataset", images, "--features-dir", into, "--data-dir", images)
        size = () if "--image-size" in more else ("--image-size", "32")
        done = call(*OPTIONS, *size, *where, *more)
        assert done.code == 0, done.err
        return done

    return run


def datasets(path):
    return {entry.name: entry.sha256 for entry in verify_store(path).datasets}


def counted(monkeypatch):
    """Count the images that go through the network."""
    seen = []
    real = fill._embed_shards

    def spied(job, shards, *rest):
        seen.extend(shard.stop - shard.start for shard in shards)
        return real(job, shards, *rest)

    monkeypatch.setattr(fill, "_embed_shards", spied)
    return seen


def test_new_images_alone_are_embedded(embed, images, tmp_path, monkeypatch):
    before = embed().path
    for number in (40, 41, 42):
        add_image(images / "train", "cats", number)
    add_image(images / "train", "birds", 50)  # a new class: every label moves
    add_image(images / "test", "birds", 51)
    seen = counted(monkeypatch)
    done = embed()
    assert sum(seen) == 5
    assert done.path != before
    assert "30 of these rows were taken over from" in done.err and before in done.err
    assert "5 were embedded" in done.err
    fresh = embed(into=tmp_path / "other").path
    assert datasets(done.path) == datasets(fresh)
    store = open_features(done.path)
    assert store.provenance["taken_over"] == {
        "rows": 30, "store": before.rpartition("/")[2], "key": open_features(before).key
    }  # fmt: skip
    assert store.key == open_features(fresh).key
    assert len(store.train) == 28 and store.class_names == ("birds", "cats", "dogs")


def test_moved_renamed_and_relabelled_images_need_no_network(embed, images, tmp_path, monkeypatch):
    embed()
    shutil.move(images / "train" / "cats" / "003.png", images / "test" / "dogs" / "new name.png")
    (images / "train" / "dogs" / "004.jpg").unlink()
    shutil.copy(images / "train" / "dogs" / "005.png", images / "train" / "dogs" / "twice.png")
    seen = counted(monkeypatch)
    done = embed()
    assert seen == []
    assert "31 of these rows were taken over" not in done.err
    assert "30 of these rows were taken over" in done.err and "0 were embedded" in done.err
    assert datasets(done.path) == datasets(embed(into=tmp_path / "other").path)


def test_the_store_with_most_of_the_images_gives_them(embed, images):
    embed("--limit", "6")
    many = embed("--limit", "20").path
    done = embed()
    assert f"taken over from {many}" in done.err


def test_an_altered_image_is_embedded_again(embed, images, tmp_path, monkeypatch):
    embed()
    stream = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(stream, "PNG")
    (images / "train" / "cats" / "001.png").write_bytes(stream.getvalue())
    seen = counted(monkeypatch)
    done = embed()
    assert sum(seen) == 1
    assert datasets(done.path) == datasets(embed(into=tmp_path / "other").path)


@pytest.mark.parametrize(
    "more, word",
    [
        (("--engine", "torch"), "the engine channels-last, this run has torch"),
        (("--batch-size", "4"), "batches of 8, this run has 4"),
    ],
)
def test_what_would_give_other_bits_is_not_taken(embed, images, more, word):
    embed()
    add_image(images / "train", "cats", 40)
    done = embed(*more)
    assert word in done.err and "no rows are taken over" in done.err
    assert "taken_over" not in open_features(done.path).provenance


@pytest.mark.parametrize("more", [("--force",), ("--image-size", "40"), ("--join", "virtual")])
def test_other_rows_and_what_is_computed_again_are_not_taken(embed, images, more):
    embed()
    add_image(images / "train", "cats", 40)
    done = embed(*more)
    assert "taken over" not in done.err
    assert "taken_over" not in open_features(done.path).provenance


def test_an_interrupted_run_goes_on_with_the_same_rows(embed, images, tmp_path, monkeypatch):
    embed()
    for number in range(40, 60):
        add_image(images / "train", "cats", number)
    monkeypatch.setattr("extract.shards.plan.SHARD_ROWS", 8)
    real = fill.write_shard

    def stop_at_the_second(path, *args, **kwargs):
        if path.name.endswith("8.h5"):
            raise KeyboardInterrupt
        return real(path, *args, **kwargs)

    monkeypatch.setattr(fill, "write_shard", stop_at_the_second)
    with pytest.raises(AssertionError, match="run the same command again"):
        embed()
    monkeypatch.setattr(fill, "write_shard", real)
    done = embed()
    assert "going on: 8 of 20 images are done" in done.err
    assert datasets(done.path) == datasets(embed(into=tmp_path / "other").path)


def test_a_damaged_store_gives_nothing(embed, images, features):
    before = embed().path
    add_image(images / "train", "cats", 40)
    with open(before, "r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * 64)
    done = embed()
    assert "taken_over" not in open_features(done.path).provenance


def test_images_in_memory_are_taken_too(small, tmp_path, monkeypatch):
    small()
    seen = counted(monkeypatch)
    done = small("--limit", "120")
    assert 20 <= sum(seen) <= 40
    fresh = small("--limit", "120", "--features-dir", tmp_path / "other")
    assert datasets(done.path) == datasets(fresh.path)


def test_a_dry_run_says_how_many(embed, images):
    before = embed().path
    add_image(images / "train", "cats", 40)
    done = embed("--dry-run")
    assert f"taken  30 of these rows from {before}" in done.err
    assert "rows   25 train, 6 test" in done.err


def test_a_store_of_few_images_does_not_choose_the_engine_for_many(embed, images, features):
    embed("--limit", "4")
    done = embed("--engine", "auto")
    assert "images; with so few no rows are taken over" in done.err
    assert "taken_over" not in open_features(done.path).provenance
