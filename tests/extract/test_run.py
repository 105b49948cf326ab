"""A run from options to a finished store; the same again; what it leaves on the disk."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from data.common.files import lock
from data.format.spec import spec_key
from data.reading import open_features, read_header, verify_store
from extract.engines import embed
from extract.shards import fill
from extract.shards import plan as shards


def datasets(path):
    """Every dataset of a store with its digest; what a resumed run must reproduce."""
    return {entry.name: entry.sha256 for entry in verify_store(path).datasets}


def test_a_store_is_what_the_design_says(small, features):
    done = small()
    assert done.code == 0, done.err
    path = Path(done.path)
    store = open_features(path)
    assert path.parent == features / "digits"
    assert path.name == f"test_efficientnet-32px-{store.key[:8]}.h5"
    assert store.key == spec_key(store.spec)
    assert store.train.features.shape == (100, 256)
    assert store.test.features.shape[0] == len(store.test.labels) == len(store.test.ids)
    assert store.spec["model"]["name"] == "test_efficientnet"
    assert store.spec["model"]["weights"]["source"] == "random"
    assert store.spec["seed"] == 0
    assert store.spec["preprocessing"]["image_size"] == 32
    assert store.spec["precision"] == "fp32"
    assert store.spec["dataset"]["limit"] == 100
    provenance = store.provenance
    assert {"python", "torch", "timm", "h5py", "numpy", "device", "started"} <= provenance.keys()
    assert provenance["batch_size"] == 16
    assert provenance["engine"] == "channels-last"
    assert provenance["images_per_second"] > 0
    assert provenance["peak_memory_mb"] > 50
    assert provenance["skipped_images"] == []
    assert not list(features.glob(".work/*/*"))
    assert "256 wide" in done.err


def test_the_rows_are_the_models_features_of_the_images(small):
    store = open_features(small().path)
    from data.dataset import load_dataset
    from extract.model.backbone import BackboneRequest, embed_normalised, load_backbone
    from extract.model.preprocess import normalise, resize_batch

    dataset = load_dataset("digits", data_dir=Path(), limit=100)
    backbone = load_backbone(BackboneRequest("test_efficientnet", "random", image_size=32))
    for split, stored in ((dataset.train, store.train), (dataset.test, store.test)):
        assert list(split.ids) == list(stored.ids)
        assert np.array_equal(split.labels, stored.labels)
        levels = resize_batch(
            backbone.preprocessing, torch.from_numpy(split.images.rows(0, len(split.ids)).copy())
        )
        with torch.inference_mode():
            rows = embed_normalised(backbone.module, normalise(backbone.preprocessing, levels))
        np.testing.assert_allclose(stored.features, rows.numpy(), rtol=0, atol=2e-5)


def test_the_same_again_is_found(small):
    first = small()
    second = small()
    assert second.code == 0
    assert second.path == first.path
    assert "found" in second.err
    assert "100 train" in second.err
    assert "256 wide" in second.err
    assert "loading" not in second.err
    # Batch size, device and number of processes do not change what is asked for.
    for more in (("--batch-size", "8"), ("--jobs", "1")):
        assert "loading" not in small(*more).err


def test_settings_that_mean_the_same_are_found_after_resolving(small):
    first = small()
    for more in (("--crop-pct", "0.95"), ("--precision", "fp32"), ("--interpolation", "bicubic")):
        again = small(*more)
        assert again.path == first.path, again.err
        assert "found" in again.err


@pytest.mark.parametrize(
    "more",
    [
        ("--limit", "90"),
        ("--image-size", "40"),
        ("--seed", "1"),
        ("--mean", "0.5,0.5,0.5"),
        ("--std", "0.5"),
        ("--crop-pct", "0.8"),
        ("--interpolation", "bilinear"),
        ("--store-dtype", "float16"),
        ("--model", "test_resnet"),
        ("--model-arg", "pad_type=same"),
        ("--precision", "bf16"),
    ],
    ids=lambda more: more[0],
)
def test_anything_that_changes_the_numbers_changes_the_key(small, more):
    first, other = small(), small(*more)
    assert other.code == 0, other.err
    assert other.path != first.path
    assert datasets(other.path)["/train/features"] != datasets(first.path)["/train/features"]
    assert small().path == first.path


def test_force_and_dry_run(small, features):
    dry = small("--dry-run")
    assert dry.code == 0
    assert dry.out == ""
    assert "0 of 2 done" in dry.err
    assert not features.exists()
    first = small()
    before = Path(first.path).stat().st_ino
    digests = datasets(first.path)
    again = small("--force")
    assert again.path == first.path
    assert Path(first.path).stat().st_ino != before
    assert datasets(first.path) == digests
    assert small("--dry-run").path == first.path


def test_an_interrupted_force_goes_on_where_it_stopped(small, features, monkeypatch):
    from extract.shards import fill

    first = small()
    digests = datasets(first.path)
    real, written = fill.write_shard, []

    def interrupted(path, *args, **kwargs):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(fill, "write_shard", interrupted)
    stopped = small("--force")
    assert stopped.code == 130
    assert datasets(first.path) == digests  # what was there is still there
    monkeypatch.setattr(fill, "write_shard", real)
    again = small("--force")
    assert again.code == 0
    assert "going on: 100 of" in again.err
    assert datasets(again.path) == digests
    assert "going on" not in small("--force").err


def test_stored_halves(small):
    full, half = open_features(small().path), open_features(small("--store-dtype", "float16").path)
    assert half.train.features.dtype == np.float16
    assert np.array_equal(half.train.features, full.train.features.astype(np.float16))


def test_rows_do_not_depend_on_the_batch_size(small, features):
    first = open_features(small().path).train.features
    second = open_features(small("--batch-size", "50", "--force").path).train.features
    assert np.abs(first - second).max() / np.abs(first).max() < 1e-5


def test_out_of_memory_halves_the_batch_and_starts_over(small, monkeypatch):
    expected = datasets(small("--batch-size", "16").path)
    original = embed.Embedder.embed
    sizes = []

    def tight(self, images):
        sizes.append(self.batch_size)
        if self.batch_size > 16 and len(sizes) > 1:
            raise embed.OutOfMemoryError
        return original(self, images)

    monkeypatch.setattr(embed.Embedder, "embed", tight)
    monkeypatch.setattr(shards, "SHARD_ROWS", 32)
    monkeypatch.setattr("extract.engines.device.CPU_BATCH", 64)
    done = small("--batch-size", "auto", "--force")
    assert done.code == 0, done.err
    assert "batches of 32" in done.err
    assert read_header(done.path).provenance["batch_size"] == 16
    assert datasets(done.path) == expected


def test_out_of_memory_with_a_batch_size_of_ones_own(small, monkeypatch, refused):
    def full(self, images):
        raise embed.OutOfMemoryError

    monkeypatch.setattr(embed.Embedder, "embed", full)
    refused(small(), "batches of 16", "--batch-size")


def test_a_second_process_waits_and_finds_the_store(small, features, tmp_path):
    first = Path(small().path)
    header = read_header(first)
    aside = first.rename(tmp_path / "aside.h5")
    results = []
    with lock(features / ".work" / f"{header.key}.lock"):
        thread = threading.Thread(target=lambda: results.append(small()))
        thread.start()
        time.sleep(1.5)
        assert thread.is_alive()
        aside.rename(first)
    thread.join(60)
    assert results[0].path == str(first)
    assert "another process is computing" in results[0].err
    assert "found" in results[0].err


def test_the_estimate_names_a_faster_model_only_where_it_helps(monkeypatch):
    from extract.shards import fill

    clock = iter(np.arange(0, 1000, 10.0))
    monkeypatch.setattr(fill.time, "perf_counter", lambda: next(clock))
    slow = fill.Watch(100_000, 0, "cpu", "vit_base_patch16_224")
    assert slow.update(64) == []
    lines = slow.update(64)
    assert "4.3 h for the 99,872 images left, at 6.4 images/s on this CPU" in lines[0]
    assert "--model mobilenetv3_large_100" in lines[1]
    assert slow.update(64) == []
    monkeypatch.setattr(fill.time, "perf_counter", iter(np.arange(0, 1000, 30.0)).__next__)
    crawling = fill.Watch(100_000, 0, "cpu", "vit_base_patch16_224")
    assert "13.0 h for the 99,936 images left" in crawling.update(64)[0]  # after the first batch
    monkeypatch.setattr(fill.time, "perf_counter", lambda: next(clock))
    on_gpu = fill.Watch(100_000, 0, "cuda", "vit_base_patch16_224")
    on_gpu.update(64)
    assert len(on_gpu.update(64)) == 1
    nearly_done = fill.Watch(1000, 700, "cpu", "vit_base_patch16_224")
    nearly_done.update(64)
    assert nearly_done.update(64) == []
    assert fill.duration(45) == "45 s"
    assert fill.duration(600) == "10 min"


@pytest.fixture
def folder(tmp_path):
    """The digits as PNG files, one folder per class."""
    data = load_digits()
    root = tmp_path / "pictures"
    for index in range(60):
        split = "train" if index < 40 else "test"
        label = data.target[index]
        target = root / split / f"digit {label}"
        target.mkdir(parents=True, exist_ok=True)
        pixels = np.repeat((data.images[index] * 15).astype(np.uint8)[..., None], 3, axis=2)
        Image.fromarray(pixels).save(target / f"{index:03d}.png")
    return root


def folder_run(small, folder, *more):
    return small("--dataset", folder, "--limit", "40", *more)


def test_a_folder_gives_what_the_same_pixels_give(small, folder):
    from extract.model.backbone import BackboneRequest, load_backbone

    done = folder_run(small, folder, "--jobs", "2")
    assert done.code == 0, done.err
    store = open_features(done.path)
    assert store.class_names == tuple(sorted(f"digit {n}" for n in range(10)))
    backbone = load_backbone(BackboneRequest("test_efficientnet", "random", image_size=32))
    embedder = embed.Embedder(backbone, torch.device("cpu"), "fp32", "channels-last", 16)
    for name, split in (("train", store.train), ("test", store.test)):
        pixels = [np.asarray(Image.open(folder / name / identity)) for identity in split.ids]
        rows = np.concatenate(
            [embedder.embed(np.stack(pixels[i : i + 16])) for i in range(0, len(pixels), 16)]
        )
        assert np.array_equal(rows, split.features)
    assert "loading" not in folder_run(small, folder).err


def test_images_of_mixed_sizes_and_modes(small, folder):
    rng = np.random.default_rng(0)
    for index, size in enumerate([(300, 200), (17, 90), (32, 32), (5, 400)]):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert("L" if index % 2 else "RGB").save(
            folder / "train" / "digit 3" / f"odd{index}.jpg"
        )
    done = folder_run(small, folder, "--limit", "44", "--jobs", "2")
    assert done.code == 0, done.err
    assert read_header(done.path).n_train == 44


def test_a_bad_image_stops_the_run_or_is_left_out(small, folder, refused):
    bad = folder / "train" / "digit 4" / "bad.png"
    bad.write_bytes(b"this is no picture")
    stopped = folder_run(small, folder, "--limit", "41")
    refused(stopped, "digit 4/bad.png", "--skip-bad-images")
    done = folder_run(small, folder, "--limit", "41", "--skip-bad-images")
    assert done.code == 0, done.err
    header = read_header(done.path)
    assert header.n_train == 40
    assert header.provenance["skipped_images"] == ["digit 4/bad.png"]
    assert "1 undecodable image left out" in done.err
    # The store is there now, but not what a run without the option promises.
    refused(folder_run(small, folder, "--limit", "41"), "digit 4/bad.png", "--skip-bad-images")
    assert "left out" in folder_run(small, folder, "--limit", "41", "--skip-bad-images").err


def test_skipped_images_of_an_interrupted_run_are_not_forgotten(
    small, folder, features, monkeypatch, refused
):
    (folder / "train" / "digit 0" / "bad.png").write_bytes(b"this is no picture")
    monkeypatch.setattr(shards, "SHARD_ROWS", 16)
    original = fill.write_shard

    def interrupted(path, *args, **kwargs):
        original(path, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(fill, "write_shard", interrupted)
    stopped = folder_run(small, folder, "--limit", "41", "--skip-bad-images")
    assert stopped.code == 130
    monkeypatch.setattr(fill, "write_shard", original)
    refused(folder_run(small, folder, "--limit", "41"), "digit 0/bad.png", "--skip-bad-images")
    done = folder_run(small, folder, "--limit", "41", "--skip-bad-images")
    assert "going on: 16 of 6" in done.err
    assert read_header(done.path).provenance["skipped_images"] == ["digit 0/bad.png"]


def test_unreadable_rotations_are_counted_and_named_also_after_an_interruption(
    small, folder, features, monkeypatch
):
    for name, exif in (("broken", b"Exif\0\0no TIFF"), ("wrong", Image.Exif())):
        if name == "wrong":
            exif[0x0112] = 9
        path = folder / "train" / "digit 0" / f"a {name}.png"  # in the first shard
        Image.new("RGB", (8, 8), (200, 100, 50)).save(path, exif=exif)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (8, 8)).save(folder / "test" / "digit 0" / "turned.png", exif=turned)
    monkeypatch.setattr(shards, "SHARD_ROWS", 16)
    original = fill.write_shard

    def interrupted(path, *args, **kwargs):
        original(path, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(fill, "write_shard", interrupted)
    assert folder_run(small, folder, "--limit", "1000").code == 130
    monkeypatch.setattr(fill, "write_shard", original)
    done = folder_run(small, folder, "--limit", "1000")
    assert "going on: 16 of" in done.err
    header = read_header(done.path)
    names = ["train/digit 0/a broken.png", "train/digit 0/a wrong.png"]
    assert header.provenance["unread_rotations"] == {"count": 2, "first": names}
    sentence = (
        "2 images have a rotation that cannot be read (EXIF, XMP or TIFF tags), taken as stored: "
        + ", ".join(names)
    )
    assert sentence in done.err
    assert sentence in folder_run(small, folder, "--limit", "1000").err  # found again
    assert "UserWarning" not in done.err


def test_a_decoder_that_dies_is_said_so(small, folder, monkeypatch, refused):
    from data.images.arrays import FileImages

    monkeypatch.setattr(FileImages, "decode_file", lambda *_: os._exit(3))
    refused(folder_run(small, folder, "--jobs", "2"), "decodes images died", "--jobs")


def test_a_changed_folder_is_another_dataset(small, folder):
    first = folder_run(small, folder)
    image = next((folder / "train" / "digit 1").iterdir())
    again = image.read_bytes()
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(image)
    changed = folder_run(small, folder)
    assert changed.path != first.path
    image.write_bytes(again)  # the old content with a new date: the digest tells
    assert folder_run(small, folder).path == first.path


def test_images_in_a_mapped_file_are_read_without_a_warning(
    call, small_job, features, monkeypatch, recwarn
):
    """Torch warns once a process of memory that it may not write to."""
    monkeypatch.setattr("data.images.spilled.SPILL_BYTES", 0)
    warned = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        done = call(*small_job, "--features-dir", features)
    finally:
        torch.set_warn_always(warned)
    assert done.code == 0, done.err
    assert not [str(one.message) for one in recwarn if "not writable" in str(one.message)]
