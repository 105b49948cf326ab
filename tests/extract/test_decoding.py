"""``--decode`` and ``--max-pixels``, from the command line to stored rows, verify and answers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import create_transform

from classify.saved.heads import SavedHead, save_head
from classify.solver.problems import n_heads
from data.common.cli import Parser
from data.common.errors import UserError
from data.format.spec import spec_key
from data.images.decode import MAX_PIXELS, decode_file
from data.reading import open_features, read_header
from data.reembedded import EXACTLY, read_rechecked
from extract.commands import decoding
from extract.model.preprocess import prepared, wanted_of
from extract.model.preprocessing import CROP_MODES, INTERPOLATIONS, Preprocessing
from extract.options import Options, add_options, to_options
from extract.request import announce, asked_options
from extract.shards import job

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EXACT = Preprocessing(32, 0.875, "center", "bicubic", True, MEAN, STD)
FAST = replace(EXACT, decode="fast")


def photograph(height, width, number=0):
    whole = Image.fromarray(load_sample_image("china.jpg" if number % 2 else "flower.jpg"))
    left, top = 11 * number % 90, 7 * number % 60
    return whole.crop((left, top, left + 540, top + 360)).resize((width, height))


@pytest.fixture(autouse=True)
def no_other_engines(monkeypatch):
    """Other engines and precisions are compared elsewhere, and take seconds to build."""
    monkeypatch.setattr("extract.commands.verify._compare_engines", lambda *_: {})


@pytest.fixture
def photo_job(tmp_path):
    """Photographs: most as JPEG with many pixels, turned or not; a PNG, and a small JPEG."""
    for split, label, number in [
        (s, c, n) for s in ("train", "test") for c in "ab" for n in (0, 1, 2, 3)
    ]:
        folder = tmp_path / "images" / split / label
        folder.mkdir(parents=True, exist_ok=True)
        image = photograph(301 + 20 * number, 415, number + 5 * (label == "b"))
        if number == 2:
            image.save(folder / "2.png")
        elif number == 3:
            image.resize((40, 40)).save(folder / "3.jpg")
        else:
            exif = Image.Exif()
            exif[0x0112] = 6 if number else 1
            image.save(folder / f"{number}.jpg", quality=92, exif=exif)

    def words(*more):
        return [
            "--dataset", tmp_path / "images", "--model", "test_efficientnet", "--weights", "random",
            *(() if "--image-size" in more else ("--image-size", "32")), "--jobs", "1",
            "--engine", "torch", "--batch-size", "4", "--features-dir", tmp_path / "features",
            *more,
        ]  # fmt: skip

    return words


def rows_of(path):
    store = open_features(path)
    return {
        f"{name}/{identity}": row
        for name, split in (("train", store.train), ("test", store.test))
        for identity, row in zip(split.ids, split.features, strict=True)
    }


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# Keys: what is not asked for leaves no trace


def test_exact_decoding_leaves_no_trace_in_specs_and_requests():
    """So that stores of before there was a choice have the key that they had, and are found."""
    assert set(EXACT.to_spec()) == {
        "image_size", "crop_pct", "crop_mode", "interpolation", "antialias", "mean", "std",
    }  # fmt: skip
    assert FAST.to_spec() == EXACT.to_spec() | {"decode": "fast"}
    for settings in (EXACT, FAST):
        assert Preprocessing.from_spec(settings.to_spec()) == settings
    before = {
        "dataset", "data_url", "data_sha256", "test_fraction", "limit", "model", "weights",
        "model_args", "image_size", "pool", "crop_pct", "interpolation", "mean", "std",
        "precision", "device", "store_dtype", "seed",
    }  # fmt: skip
    assert set(asked_options(Options())) == before
    of_folder = Options(dataset=str(Path(__file__).parent))
    for same in (
        of_folder, replace(of_folder, max_pixels=10**9), replace(of_folder, skip_bad_images=True),
        Options(decode="fast", max_pixels=1, skip_bad_images=True),  # CIFAR has no files
    ):  # fmt: skip
        assert set(asked_options(same)) == before
    assert asked_options(replace(of_folder, decode="fast"))["decode"] == "fast"
    skipping = replace(of_folder, max_pixels=10**9, skip_bad_images=True)
    assert asked_options(skipping)["max_pixels"] == 10**9


def test_a_store_of_before_there_was_a_choice_is_found(call, photo_job, monkeypatch):
    """Made as then: nothing of decoding in spec, request or provenance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.computing._decoding", lambda job: {})
        done = call(*photo_job())
    assert done.code == 0, done.err
    header = read_header(done.path)
    assert "decode" not in header.spec["preprocessing"]
    assert "max_pixels" not in header.spec["dataset"]
    assert header.key == spec_key(header.spec)
    for same in ((), ("--decode", "exact"), ("--max-pixels", 10**9)):
        again = call(*photo_job(*same))
        assert (again.path, "loading" in again.err) == (done.path, False), "found without a model"
    assert call("verify", done.path, "--rows", "4").code == 0


def test_digits_have_one_store_however_they_are_decoded(small):
    assert small("--decode", "fast", "--max-pixels", "1", "--skip-bad-images").path == small().path


# Rows


def test_fast_rows_of_a_folder(call, photo_job, tmp_path, refused):
    exact, fast = call(*photo_job()), call(*photo_job("--decode", "fast"))
    assert exact.code == fast.code == 0, fast.err
    assert exact.path != fast.path
    header = read_header(fast.path)
    assert header.spec["preprocessing"]["decode"] == "fast"
    assert "libjpeg" in header.provenance["decoder"]
    again = call(*photo_job("--decode", "fast"))
    assert (again.path, "loading" in again.err) == (fast.path, False), "found without a model"
    old, new = rows_of(exact.path), rows_of(fast.path)
    assert old.keys() == new.keys()
    for name, row in old.items():
        same = name.endswith(("2.png", "3.jpg"))
        assert np.array_equal(row, new[name]) == same, name
        assert cosine(row, new[name]) > 0.99, name
    # `why` in both directions.
    call("why", *photo_job())
    for path, asked, told in ((exact.path, "fast", "exact"), (fast.path, "exact", "fast")):
        kept = Path(path).with_suffix(".away")
        Path(exact.path if path == fast.path else fast.path).rename(kept)
        said = call("why", *photo_job("--decode", asked)).err
        kept.rename(exact.path if path == fast.path else fast.path)
        line = next(line for line in said.splitlines() if "--decode" in line)
        assert line.split() == ["--decode", asked, told]
    # Verified by a witness that decodes for itself; the difference is said.
    for options in ((), ("--rows", "16")):
        done = call("verify", fast.path, *options, "--reports-dir", tmp_path / "none")
        assert done.code == 0, done.err
    assert "8 of these 16 images at a reduced scale" in done.err
    assert "lowest cosine 0.9" in done.err and "median 0.9" in done.err
    assert "of 16 predictions would flip with exact decoding, of the nearest mean" in done.err
    kept = read_rechecked(fast.path, header.key, header.n_features)
    assert EXACTLY in kept.others
    assert not np.array_equal(kept.others[EXACTLY], kept.plain)
    refused(
        call("verify", fast.path, "--decode", "exact"),
        "--decode exact", fast.path, "was made with --decode fast",
        "icebox features --decode exact",
    )  # fmt: skip
    refused(call("verify", exact.path, "--decode", "fast"), "was made with --decode exact")
    # The same files asked for one by one.
    spec, out = tmp_path / "spec.json", tmp_path / "rows.npy"
    for path, rows, other in ((fast.path, new, "exact"), (exact.path, old, "fast")):
        spec.write_text(json.dumps({"spec": read_header(path).spec, "weights_file": None}))
        files = [tmp_path / "images" / name for name in rows]
        assert call("images", "--spec", spec, "--out", out, *files).code == 0
        np.testing.assert_allclose(np.load(out), np.stack([*rows.values()]), rtol=1e-4, atol=1e-5)
        told = call("images", "--spec", spec, "--out", out, "--decode", other, *files)
        refused(told, f"--decode {other}", "leave the option out")


def test_verify_notices_rows_that_were_not_decoded_fast(call, photo_job, refused, monkeypatch):
    """The witness reads the files itself: a decoder that gives something else is found out."""

    def coarse(settings):  # an eighth of the pixels of before
        return lambda height, width: (1, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.shards.loading.wanted_of", coarse)
        done = call(*photo_job("--decode", "fast"))
    assert done.code == 0, done.err
    refused(call("verify", done.path), "not what this backbone gives")


def test_workers_of_a_cluster_decode_alike(call, photo_job):
    from extract.cluster.coordinator import settings_of
    from extract.cluster.worker import _first_images
    from extract.request import Request

    parser = Parser()
    add_options(parser, run=True)
    words = [str(word) for word in photo_job("--decode", "fast", "--max-pixels", "200000")]
    options = to_options(parser.parse_args(words))
    made = job.prepare(options, Request(options), job.read_dataset(options))
    images = made.dataset.train.images
    assert images.max_pixels == images.take(np.array([0])).max_pixels == 200_000
    settings = Preprocessing.from_spec(json.loads(settings_of(made).spec)["preprocessing"])
    assert settings == made.backbone.preprocessing and settings.decode == "fast"
    [given, *_] = _first_images(settings_of(made), images, settings)
    image = decode_file(images.path(0), wanted=wanted_of(settings))
    assert image.reduction is not None
    np.testing.assert_array_equal(
        given.pixels, prepared(settings, image.pixels, image.reduction).pixels
    )


@pytest.mark.parametrize("mode", CROP_MODES)
def test_fast_input_is_close_to_timms(tmp_path, mode):
    """All modes, sizes and interpolations, and images that are long or no multiple of the scale."""
    path, reduced = tmp_path / "x.jpg", 0
    for number, (height, width) in enumerate([(333, 501), (700, 253), (256, 256), (40, 4000)]):
        exif = Image.Exif()
        exif[0x0112] = (1, 6, 3, 8)[number]
        photograph(height, width).save(path, quality=95, exif=exif)
        exact = decode_file(path).pixels
        for size, crop_pct, interpolation in (
            ((32, 32), 0.875, "bicubic"), ((24, 40), 0.9, "bilinear"), ((40, 24), 1.0, "lanczos"),
            ((32, 32), 1.2, "box"), ((32, 32), 5.0, "hamming"), ((16, 16), 0.875, "bicubic"),
        ):  # fmt: skip
            settings = replace(
                FAST,
                image_size=size,
                crop_pct=crop_pct,
                crop_mode=mode,
                interpolation=interpolation,
            )
            image = decode_file(path, wanted=wanted_of(settings))
            reduced += image.reduction is not None
            found = prepared(settings, image.pixels, image.reduction)
            if image.reduction is None:
                continue
            transform = create_transform(
                (3, *size), is_training=False, crop_pct=crop_pct, crop_mode=mode,
                interpolation=interpolation, mean=MEAN, std=STD, normalize=False,
            )  # fmt: skip
            if mode == "border" and height == 40:  # timm would leave no pixel of a side
                assert found.pixels.shape == (*settings.size, 3)
                continue
            by_timm = np.asarray(transform(Image.fromarray(exact))).transpose(1, 2, 0)
            assert found.pixels.shape == by_timm.shape == (*settings.size, 3)
            apart = np.abs(found.pixels.astype(int) - by_timm.astype(int))
            assert apart.mean() < 3, (height, width, size, crop_pct, interpolation)
    assert reduced > 8
    assert set(INTERPOLATIONS) > {"bicubic"}


def test_a_resumed_run_does_not_mix_decoders(call, photo_job, monkeypatch):
    """Versions of Pillow and of its JPEG library are in the plan, as torch's is."""

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.computing._join", stop)
        assert call(*photo_job()).code == 130
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.computing._join", stop)
        assert "starting over" not in call(*photo_job()).err
    monkeypatch.setattr("extract.shards.plan.decoder", lambda: "Pillow 99")
    done = call(*photo_job())
    assert done.code == 0, done.err
    assert "starting over: the interrupted run decoded with Pillow " in done.err
    assert "this one has Pillow 99" in done.err


# Flips


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("normalize", [None, "l2"])
def test_a_trained_head_answers_as_stage_two_does(tmp_path, classes, normalize):
    rng = np.random.default_rng(classes)
    rows = rng.normal(size=(50, 7)).astype(np.float32)
    rows[0] = 0.0
    store = SimpleNamespace(key="k", train=SimpleNamespace(features=rows))
    assert decoding.trained_head(store, tmp_path / "none") is None
    for number, strategy in enumerate(("ovr", "multinomial")):
        n = n_heads(strategy, classes)
        coef = rng.normal(size=(n, 7)).astype(np.float32)
        head = SavedHead(
            strategy, tuple("abcdefg"[:classes]), coef, coef[:, 0].copy(), {}, "k", 1.0,
            normalize=normalize,
        )  # fmt: skip
        path = tmp_path / "reports" / "store" / str(number) / "heads" / f"{strategy}.safetensors"
        path.parent.mkdir(parents=True)
        save_head(path, head)
        os.utime(path.parent, (number, number))
        found = decoding.trained_head(store, tmp_path / "reports")
        assert str(path) in found.name, "the newest"
        np.testing.assert_array_equal(found.predict(rows), head.predict(rows))
    other = SimpleNamespace(key="l", train=store.train)
    assert decoding.trained_head(other, tmp_path / "reports") is None
    path.write_bytes(path.read_bytes()[:100])
    assert "ovr" in decoding.trained_head(store, tmp_path / "reports").name


def test_what_verify_finds_is_counted_by_stage_two(call, photo_job, tmp_path):
    from classify.__main__ import main as classify

    fast = call(*photo_job("--decode", "fast"))
    assert call("verify", fast.path, "--rows", "8", "--reports-dir", tmp_path).code == 0
    only = ["--strategy", "multinomial", "--c", "1", "--no-few-shot"]
    classify(["fit", fast.path, *only, "--reports-dir", str(tmp_path / "reports")])
    [results] = (tmp_path / "reports").rglob("results.json")
    cases = json.loads(results.read_text())["numerics"]["cases"]
    assert EXACTLY in [case["features"] for case in cases]
    # Now there is a head.
    done = call("verify", fast.path, "--rows", "8", "--reports-dir", tmp_path / "reports")
    assert f"would flip with exact decoding, of the head {results.parent}/heads/multi" in done.err


def test_nearest_mean_is_the_nearest():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(40, 5)).astype(np.float32), rng.integers(0, 4, 40)
    labels[labels == 2] = 3  # a class without rows is no answer
    store = SimpleNamespace(
        train=SimpleNamespace(features=features, labels=labels), class_names=list("abcd")
    )
    rows = rng.normal(size=(30, 5)).astype(np.float32)
    means = {k: features[labels == k].mean(axis=0) for k in (0, 1, 3)}
    expected = [min(means, key=lambda k: np.linalg.norm(row - means[k])) for row in rows]
    assert decoding.nearest_mean(store).predict(rows).tolist() == expected


# The limit of pixels


def test_images_above_the_limit(call, photo_job, tmp_path, refused):
    large = tmp_path / "images" / "train" / "a" / "large.png"
    Image.new("RGB", (500, 400), (9, 99, 200)).save(large)
    refused(
        call(*photo_job("--max-pixels", "199999")),
        large, "500 x 400 are 200,000 pixels", "limit of 199,999", "--max-pixels 200000",
        "--skip-bad-images",
    )  # fmt: skip
    without = call(*photo_job("--max-pixels", "199999", "--skip-bad-images"))
    assert without.code == 0, without.err
    header = read_header(without.path)
    assert header.provenance["skipped_images"] == ["a/large.png"]
    assert header.provenance["max_pixels"] == 199_999
    assert header.spec["dataset"]["max_pixels"] == 199_999
    assert call("verify", without.path, "--rows", "4").code == 0
    # Which rows there are depends on the limit, so this is another store.
    whole = call(*photo_job())
    assert whole.code == 0, whole.err
    assert whole.path != without.path
    assert "found" not in whole.err
    assert len(rows_of(whole.path)) == len(rows_of(without.path)) + 1
    assert call(*photo_job("--max-pixels", "200000")).path == whole.path, "no other numbers"
    said = call("why", *photo_job("--max-pixels", "150000", "--skip-bad-images")).err
    assert "--max-pixels" in said and "199999" in said
    # A store without images that were too large once says how they come in again.
    header = read_header(whole.path)
    left_out = replace(header, provenance=header.provenance | {"skipped_images": ["a/large.png"]})
    for limit, told in ((MAX_PIXELS, "a/large.png"), (10**9, "--force --max-pixels 1000000000")):
        with pytest.raises(UserError, match=told) as caught:
            announce(left_out, Options(max_pixels=limit))
        assert ("--force" in str(caught.value)) == (limit != MAX_PIXELS)
    # Of one image, there is nothing to be left out.
    spec, out = tmp_path / "spec.json", tmp_path / "rows.npy"
    spec.write_text(json.dumps({"spec": header.spec, "weights_file": None}))
    arguments = ("images", "--spec", spec, "--out", out, large)
    refused(
        call(*arguments, "--max-pixels", "1000"), large, "--max-pixels 200000", "or leave it out"
    )
    assert call(*arguments).code == 0


@pytest.mark.parametrize("value", ["0", "-5", "many", "1.5", "nan", ""])
def test_a_limit_that_makes_no_sense(call, small, tmp_path, refused, value):
    for word in ((), ("why",)):
        refused(small(f"--max-pixels={value}", word=word), "--max-pixels", f"'{value}'", "such as")
    refused(call("verify", tmp_path / "x.h5", f"--max-pixels={value}"), "--max-pixels", "such as")
