"""From an image file to a stored row, against timm's own transform and model.

timm works on 8-bit pixels with Pillow, and so do we for image files: the network's input is the
same to the bit. Small square images are resized on the device, in exact float32 products with
weights of 15 bits: a grey level differs by at most `DEVICE_LEVELS`, on average by `DEVICE_MEAN`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from timm.data import create_transform

from data.common.cli import Parser
from data.format.spec import CROPS, cropped_twice, spec_key
from data.reading import open_features, read_header
from extract.cluster import worker as tasks
from extract.model import names
from extract.model.preprocess import (
    NetworkInput,
    prepared,
    prepared_array,
    resize_batch,
    resize_one,
)
from extract.model.preprocessing import CROP_MODES, INTERPOLATIONS, Preprocessing
from extract.options import add_options, to_options
from extract.shards import job, loading

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROPS_PCT = (0.875, 0.95, 1.0, 1.15)
DEVICE_LEVELS, DEVICE_MEAN = 2, 0.15
COSINE, DEVICE_COSINE = 0.99999, 0.9999
LONG = (1, 10_000)  # and 3 x 5,000
FAMILIES = {"test_efficientnet": 32, "test_vit": 32, "test_convnext": 32}


def picture(height, width, seed=0):
    """Noise beside smooth shapes with sharp edges: what makes filters overshoot."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 127 + 127 * np.sin(x / 3.0 + y / 5.0)[..., None] * np.ones(3)
    noise = rng.integers(0, 256, (height, width, 3))
    return np.where((x > width // 2)[..., None], noise, waves).astype(np.uint8)


def sizes(height, width):
    """Smaller, equal, one side larger, both larger, very long ones, around a network input."""
    return [
        (height // 2, height // 2), (height // 2, width // 3), (height, width), (width, height),
        (height, 2 * width), (2 * height, width // 2), (3 * height, 2 * width),
        (4 * height + 1, 4 * height + 1), (3, 5_000), (5_000, 3), LONG,
    ]  # fmt: skip


def by_timm(size, crop_pct, mode, interpolation, image, *, normalize):
    transform = create_transform(
        (3, *size), is_training=False, crop_pct=crop_pct, crop_mode=mode,
        interpolation=interpolation, mean=MEAN, std=STD, normalize=normalize,
    )  # fmt: skip
    try:
        return transform(Image.fromarray(image))
    except ValueError:  # with a border, the shorter side of a very long image has no pixel left
        assert mode == "border"
        return None


def relative(a, b):
    cosine = (a * b).sum(1) / np.maximum(
        np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30
    )
    return cosine.min()


@pytest.mark.parametrize("size", [(24, 24), (24, 16), (16, 25), (33, 32)], ids=str)
def test_pixels_are_timms(size):
    """All modes, crops and interpolations; the longest images with one interpolation in CI."""
    every = bool(os.environ.get("ICEBOX_FAULTS"))
    for number, (mode, crop_pct, interpolation, shape) in enumerate(
        itertools.product(CROP_MODES, CROPS_PCT, INTERPOLATIONS, sizes(*size))
    ):
        if max(shape) > 1_000 and number % 7 and not every:
            continue
        image = picture(*shape)
        expected = by_timm(size, crop_pct, mode, interpolation, image, normalize=False)
        settings = Preprocessing(size, crop_pct, mode, interpolation, True, MEAN, STD)
        made = prepared(settings, image)
        what = (mode, crop_pct, interpolation, shape)
        if expected is None:
            assert made.shape == (*size, 3), what
        elif isinstance(made, NetworkInput):
            assert np.array_equal(made.pixels.transpose(2, 0, 1), expected), what
        else:
            levels = resize_batch(settings, torch.from_numpy(made)[None])[0]
            difference = (levels - expected).abs()
            assert difference.max() <= DEVICE_LEVELS, what
            assert difference.mean() <= DEVICE_MEAN, what


@pytest.mark.parametrize("mode", CROP_MODES)
def test_arrays_are_resized_as_timm_does(mode):
    for size, crop_pct, side in itertools.product(
        [(24, 24), (24, 40), (16, 9)], CROPS_PCT, (8, 32)
    ):
        image = picture(side, side)
        settings = Preprocessing(size, crop_pct, mode, "bicubic", True, MEAN, STD)
        expected = by_timm(size, crop_pct, mode, "bicubic", image, normalize=False)
        made = prepared_array(settings, image[None])
        if isinstance(made, np.ndarray):
            difference = (resize_batch(settings, torch.from_numpy(made))[0] - expected).abs()
            assert difference.max() <= DEVICE_LEVELS
        else:
            assert np.array_equal(made[0].pixels.transpose(2, 0, 1), expected)


@pytest.mark.parametrize("level", [-0.5, 1.5])
def test_a_border_of_a_mean_that_is_no_colour(level):
    settings = Preprocessing(16, 1.0, "border", "bicubic", True, (level,) * 3, STD)
    made = resize_one(settings, picture(20, 40))
    assert set(np.unique(made[0])) == {0 if level < 0 else 255}


def folder_of(root, images):
    """Write images as a data set of two classes, and return them by their ids."""
    found = {}
    for number, image in enumerate(images):
        part = ("train", "test")[number % 2]
        for kind in ("a", "b") if number < 2 else ("ab"[number // 2 % 2],):
            path = root / part / kind / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            found[f"{part}/{kind}/{number:02}.png"] = image
    return found


def with_crop_mode(monkeypatch, mode):
    own = names.pretrained_config
    monkeypatch.setattr(names, "pretrained_config", lambda name: {**own(name), "crop_mode": mode})


def parsed(*words):
    parser = Parser()
    add_options(parser, run=True)
    return to_options(parser.parse_args([str(word) for word in words]))


def saved_network(path, model, **arguments):
    """Save random weights of a network, and return the plain network."""
    torch.manual_seed(0)
    network = timm.create_model(model, num_classes=0, **arguments).eval()
    save_file(network.state_dict(), str(path))
    return network


def rows_by_id(path):
    store = open_features(path)
    return {
        f"{name}/{identity}": row
        for name, split in (("train", store.train), ("test", store.test))
        for identity, row in zip(split.ids, split.features, strict=True)
    }


def rows_by_timm(network, pictures):
    with torch.inference_mode():
        seen = network.forward_features(torch.stack(pictures))
        return network.forward_head(seen, pre_logits=True).numpy()


PAIRS = [
    # model, crop_pct, crop mode, interpolation, input
    ("test_efficientnet", 0.875, "center", "bicubic", (32, 32)),
    ("test_efficientnet", 0.95, "squash", "bilinear", (32, 32)),
    ("test_efficientnet", 1.0, "border", "lanczos", (32, 32)),
    ("test_efficientnet", 1.15, "center", "hamming", (48, 32)),
    ("test_vit", 0.95, "center", "box", (32, 32)),
    ("test_vit", 0.875, "squash", "bicubic", (32, 48)),
    ("test_vit", 1.15, "border", "bilinear", (32, 32)),
    ("test_vit", 1.0, "center", "nearest", (32, 32)),
    ("test_convnext", 1.15, "squash", "lanczos", (32, 32)),
    ("test_convnext", 0.875, "border", "nearest", (48, 32)),
    ("test_convnext", 0.95, "border", "bicubic", (32, 32)),
    ("test_convnext", 1.0, "squash", "bicubic", (32, 32)),
]
if os.environ.get("ICEBOX_FAULTS"):
    PAIRS = [
        (model, *rest, size)
        for model in FAMILIES
        for *rest, size in itertools.product(
            CROPS_PCT, CROP_MODES, INTERPOLATIONS, [(32, 32), (48, 32)]
        )
    ]


@pytest.mark.parametrize(("model", "crop_pct", "mode", "interpolation", "size"), PAIRS)
def test_stored_rows_are_timms(
    call, tmp_path, monkeypatch, model, crop_pct, mode, interpolation, size
):
    fixed = {"img_size": size} if model == "test_vit" else {}
    network = saved_network(tmp_path / "w.safetensors", model, **fixed)
    images = folder_of(
        tmp_path / "images", [picture(*shape, seed) for seed, shape in enumerate(sizes(*size))]
    )
    with_crop_mode(monkeypatch, mode)
    done = call(
        "--dataset", tmp_path / "images", "--model", model, "--weights", tmp_path / "w.safetensors",
        "--image-size", f"{size[0]}x{size[1]}", "--crop-pct", crop_pct,
        "--interpolation", interpolation, "--mean", ",".join(map(str, MEAN)),
        "--std", ",".join(map(str, STD)), "--batch-size", "4", "--jobs", "1",
        "--engine", "torch", "--features-dir", tmp_path / "features",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = rows_by_id(done.path)
    assert set(rows) == set(images)
    small = {i for i, image in images.items() if image.shape[0] == image.shape[1] <= max(size)}
    for bound, chosen in ((DEVICE_COSINE, small), (COSINE, set(images) - small)):
        seen = {
            i: by_timm(size, crop_pct, mode, interpolation, images[i], normalize=True)
            for i in chosen
        }
        seen = {i: pixels for i, pixels in seen.items() if pixels is not None}
        assert seen
        expected = rows_by_timm(network, list(seen.values()))
        assert relative(np.stack([rows[i] for i in seen]), expected) >= bound
    # The same files, asked for one by one.
    spec, out = tmp_path / "spec.json", tmp_path / "rows.npy"
    weights = str(tmp_path / "w.safetensors")
    spec.write_text(json.dumps({"spec": read_header(done.path).spec, "weights_file": weights}))
    files = [tmp_path / "images" / identity for identity in rows]
    assert call("images", "--spec", spec, "--out", out, *files).code == 0
    np.testing.assert_allclose(np.load(out), np.stack(list(rows.values())), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def photographs():
    """scikit-learn's two photographs, cut to sizes from 300 x 260 to 640 x 427."""
    cuts = [(260, 300), (300, 260), (427, 640), (427, 300), (300, 640), (352, 470)]
    images = load_sample_images().images
    return [images[number % 2][:h, :w] for number, (h, w) in enumerate(cuts)]


@pytest.mark.parametrize("side", [224, 128])
def test_photographs_through_mobilenetv2(call, tmp_path, photographs, side):
    network = saved_network(tmp_path / "w.safetensors", "mobilenetv2_100")
    images = folder_of(tmp_path / "images", photographs)
    done = call(
        "--dataset", tmp_path / "images", "--model", "mobilenetv2_100",
        "--weights", tmp_path / "w.safetensors", "--image-size", side, "--batch-size", "4",
        "--jobs", "2", "--engine", "channels-last", "--features-dir", tmp_path / "features",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = rows_by_id(done.path)
    seen = [
        by_timm((side, side), 0.875, "center", "bicubic", images[i], normalize=True) for i in rows
    ]
    assert relative(np.stack(list(rows.values())), rows_by_timm(network, seen)) >= COSINE
    assert call("verify", done.path).code == 0


# Keys and the mark of how often photographs are cropped


@pytest.fixture
def photo_job(tmp_path):
    folder_of(tmp_path / "images", [picture(90, 70 + 9 * seed, seed) for seed in range(8)])

    def words(*more):
        return [
            "--dataset", tmp_path / "images", "--model", "test_efficientnet", "--weights", "random",
            *(() if "--image-size" in more else ("--image-size", "32")), "--jobs", "1",
            "--engine", "torch", "--batch-size", "4", "--features-dir", tmp_path / "features",
            *more,
        ]  # fmt: skip

    return words


class DoubledDecoder(loading.Decoder):
    """What an earlier version did: an image that is cropped already goes on as if it were raw."""

    def __getitem__(self, index):
        made = super().__getitem__(index)
        return made.pixels if isinstance(made, NetworkInput) else made


@pytest.fixture
def old_version(monkeypatch):
    """Make stores as the earlier version did, keys included."""

    class Old:
        def __enter__(self):
            self.patch = pytest.MonkeyPatch()
            self.patch.setattr(loading, "Decoder", DoubledDecoder)
            self.patch.setattr(job, "crop_marker", lambda name, preprocessing: {})

        def __exit__(self, *_):
            self.patch.undo()

    return Old


@pytest.mark.parametrize("size", [24, 35])
def test_which_old_rows_were_right(size):
    """A second resize and crop changes an image exactly where the spec is marked.

    Squashed ones are marked in any case: the order of the axes was not Pillow's."""
    for mode, crop_pct, interpolation in itertools.product(
        CROP_MODES, (0.5, 0.875, 0.95, 0.97, 0.999, 1.0), INTERPOLATIONS
    ):
        settings = Preprocessing(size, crop_pct, mode, interpolation, True, MEAN, STD)
        once = resize_one(settings, picture(60, 70))
        twice = resize_batch(settings, torch.tensor(once)[None])[0].numpy().transpose(1, 2, 0)
        marked = bool(job.crop_marker("photos", settings.to_spec()))
        changed = mode == "squash" or not np.array_equal(once, twice)
        assert changed == marked, (mode, crop_pct, interpolation)
        assert job.crop_marker("cifar10", settings.to_spec()) == {}


def test_verify_refuses_rows_that_were_cropped_twice(call, photo_job, refused, monkeypatch):
    monkeypatch.setattr(loading, "Decoder", DoubledDecoder)
    done = call(*photo_job())
    assert done.code == 0, done.err
    monkeypatch.undo()
    refused(call("verify", done.path), "not what this backbone gives")


def test_a_store_of_photographs_that_were_cropped_twice(call, photo_job, old_version, refused):
    with old_version():
        old = call(*photo_job())
    assert old.code == 0, old.err
    content = Path(old.path).read_bytes()
    assert cropped_twice(read_header(old.path).spec)
    explained = call("why", *photo_job())
    assert explained.out == ""
    assert "cropped twice, by an earlier Icebox" in explained.err
    refused(call("verify", old.path), "cropped photographs twice", "run make features again")
    new = call(*photo_job())
    assert new.code == 0, new.err
    assert new.path != old.path
    assert "found" not in new.err
    assert Path(old.path).read_bytes() == content, "it stays as it was"
    spec = read_header(new.path).spec
    assert spec["preprocessing"][CROPS] == 1
    assert call("verify", new.path).code == 0
    again = call(*photo_job())
    assert (again.path, "loading" in again.err) == (new.path, False), "found without a model"


def test_other_stores_keep_their_keys(call, photo_job, old_version, small, features):
    """Those whose rows a second crop had left alone, and all that are made of arrays."""
    with old_version():
        old = call(*photo_job("--crop-pct", "1.0"))
    assert call(*photo_job("--crop-pct", "1.0")).path == old.path
    assert not cropped_twice(read_header(old.path).spec)
    done = small()
    spec = read_header(done.path).spec
    assert CROPS not in spec["preprocessing"]
    assert not cropped_twice(spec)


def test_the_key_of_a_cifar_store_is_frozen():
    spec = {
        "dataset": {"name": "cifar10", "digest": "0" * 64, "limit": None},
        "model": {"name": "m", "args": {}, "weights": {"source": "random", "digest": "1" * 64}},
        "preprocessing": Preprocessing(224, 0.875, "center", "bicubic", True, MEAN, STD).to_spec(),
        "pool": "default", "precision": "fp32", "store_dtype": "float32", "seed": 0,
    }  # fmt: skip
    spec["preprocessing"] |= job.crop_marker("cifar10", spec["preprocessing"])
    text = (
        '{"dataset":{"digest":"' + "0" * 64 + '","limit":null,"name":"cifar10"},"model":{"args":{},'
        '"name":"m","weights":{"digest":"' + "1" * 64 + '","source":"random"}},"pool":"default",'
        '"precision":"fp32","preprocessing":{"antialias":true,"crop_mode":"center","crop_pct":0.875,'
        '"image_size":224,"interpolation":"bicubic","mean":[0.485,0.456,0.406],'
        '"std":[0.229,0.224,0.225]},"seed":0,"store_dtype":"float32"}'
    )
    assert spec_key(spec) == hashlib.sha256(text.encode()).hexdigest()


def test_stage_two_says_that_photographs_were_cropped_twice(
    call, photo_job, old_version, tmp_path, capfd
):
    from classify.__main__ import main as classify
    from classify.fit.fit_store import _data_warnings
    from classify.predict import note
    from classify.saved.reading import load_head

    with old_version():
        old = call(*photo_job())
    only = ["--strategy", "multinomial", "--c", "1", "--no-few-shot"]
    classify(["fit", old.path, *only, "--reports-dir", str(tmp_path / "reports")])
    of_fit = capfd.readouterr().err
    head = load_head(next((tmp_path / "reports").rglob("*.safetensors")))
    note(head)
    for told in (of_fit, capfd.readouterr().err):
        lines = [line for line in told.splitlines() if "cropped photographs twice" in line]
        assert len(lines) == 1
        assert "run make features again" in lines[0]
    new = open_features(call(*photo_job()).path)
    assert "twice" not in "".join(_data_warnings(new))
    note(replace(head, spec=new.spec))
    assert "twice" not in capfd.readouterr().err


# Rectangular inputs


def test_a_rectangular_input_from_end_to_end(call, photo_job):
    from classify.results.names import backbone_name

    done = call(*photo_job("--image-size", "48X32"))
    assert done.code == 0, done.err
    assert Path(done.path).name.startswith("test_efficientnet-48x32px-")
    spec = read_header(done.path).spec
    assert spec["preprocessing"]["image_size"] == [48, 32]
    assert call(*photo_job("--image-size", "48x32")).path == done.path
    assert call(*photo_job("--image-size", "32x32")).path == call(*photo_job()).path
    other = call("why", *photo_job("--image-size", "32x48"))
    assert ["--image-size", "32x48", "48x32"] in [line.split() for line in other.err.splitlines()]
    assert call("verify", done.path).code == 0
    for engine in ("channels-last", "folded"):
        rows = rows_by_id(done.path)
        assert call(*photo_job("--image-size", "48x32", "--engine", engine, "--force")).code == 0
        again = rows_by_id(done.path)
        for identity, row in rows.items():
            np.testing.assert_allclose(again[identity], row, rtol=1e-3, atol=1e-4)
    assert backbone_name(spec) == "test_efficientnet 48x32 px, random weights"


@pytest.mark.parametrize("dataset", ["files", "digits"])
def test_a_cluster_worker_gives_the_same_rows(call, photo_job, dataset, monkeypatch):
    """As in a worker's process, but in this one; cluster/test_coordinator.py has real ones."""
    from extract.cluster.coordinator import settings_of
    from extract.cluster.messages import ShardTask
    from extract.request import Request

    with_crop_mode(monkeypatch, "squash")
    words = photo_job("--image-size", "10x32", "--interpolation", "lanczos")
    if dataset == "digits":
        words += ["--dataset", "digits", "--limit", "20"]
    done = call(*words)
    assert done.code == 0, done.err
    options = parsed(*words, "--force")  # or the finished store would give all rows
    made = job.prepare(options, Request(options), job.read_dataset(options))
    plan = job.choose_plan(made, measured=False)
    settings = settings_of(made)
    for name, split in made.splits.items():
        images = split.images.take(np.arange(len(split))) if dataset == "files" else None
        task = ShardTask(settings, plan, name, 0, len(split), 1, images)
        rows, ok, _ = tasks._rows(task, tasks._embedder(settings, plan), set())
        assert ok.all()
        assert np.array_equal(rows, getattr(open_features(done.path), name).features)
    first = made.dataset.train.images
    chosen = tasks.choose_here(settings, first if dataset == "files" else 3, "auto", False, 2, 8)
    assert chosen.batch_size == 2


def test_models_that_are_not_square_or_pad_keep_their_own_settings(call):
    from extract.model.preprocessing import resolve_preprocessing

    sapiens = resolve_preprocessing(names.pretrained_config("vit_base_patch16_sapiens2"), {})
    assert (sapiens.size, sapiens.crop_mode) == ((1024, 768), "squash")
    padded = resolve_preprocessing(names.pretrained_config("volo_d4_448"), {})
    assert (padded.size, padded.crop_pct) == ((448, 448), 1.15)
    listed = call("list", "vit_base_patch16_sapiens2")
    assert listed.out.splitlines()[1].split()[:3] == [
        "vit_base_patch16_sapiens2",
        "768",
        "1024x768",
    ]
