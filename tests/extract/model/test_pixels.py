"""``--model pixels``: rows are the images themselves."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from data.reading import open_features

DIGITS = ("--dataset", "digits", "--jobs", "1", "--model", "pixels")


def test_digits_are_stored_at_their_own_size_as_they_are(call, features):
    done = call(*DIGITS, "--features-dir", features)
    assert done.code == 0, done.err
    store = open_features(done.path)
    # From scikit-learn's own array: 17 grey levels, three times over.
    images = load_digits().images
    for split in (store.train, store.test):
        rows = [int(name.removeprefix("digits:")) for name in split.ids]
        grey = np.rint(images[rows].reshape(len(rows), 64) * (255 / 16)) / 255
        np.testing.assert_allclose(split.features, np.tile(grey, 3), atol=1e-6)
    assert store.spec["model"]["name"] == "pixels"
    assert store.spec["model"]["weights"]["source"] == "none"
    assert store.spec["preprocessing"]["image_size"] == 8
    assert store.spec["seed"] is None
    assert call(*DIGITS, "--features-dir", features).path == done.path
    sized = call(*DIGITS, "--features-dir", features, "--image-size", "8")
    assert sized.path == done.path  # the same in other words
    verified = call("verify", done.path, "--rows", "8")
    assert verified.code == 0, verified.err
    assert "8 rows embedded again" in verified.err


def test_files_are_brought_to_one_size_channel_by_channel(call, features, tmp_path):
    generator = np.random.default_rng(0)
    pixels = {}
    for label in "ab":
        for split, count in (("train", 2), ("test", 1)):
            for i in range(count):
                path = tmp_path / "set" / split / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
                Image.fromarray(image).save(path)
                # The shorter side becomes 32, and the middle is cut out.
                small = Image.fromarray(image).resize((42, 32), Image.Resampling.BICUBIC)
                pixels[split, f"{label}/{i}.png"] = np.asarray(small)[:, 5:37]
    folder = ("--dataset", tmp_path / "set", "--model", "pixels", "--jobs", "1")
    done = call(*folder, "--features-dir", features)
    assert done.code == 0, done.err
    store = open_features(done.path)
    for name, split in (("train", store.train), ("test", store.test)):
        expected = [pixels[name, identity].transpose(2, 0, 1).ravel() for identity in split.ids]
        np.testing.assert_allclose(split.features, np.stack(expected) / 255, atol=1e-6)


@pytest.mark.parametrize("engine", ["torch", "folded", "openvino"])
def test_every_engine_gives_the_same_pixels(call, features, engine):
    small = (*DIGITS, "--limit", "20", "--batch-size", "4", "--features-dir", features)
    done = call(*small, "--engine", engine)
    assert done.code == 0, done.err
    assert ("pixels computes nothing" in done.err) == (engine == "openvino")
    whole = call(*small, "--engine", "torch", "--force")
    np.testing.assert_array_equal(
        open_features(done.path).train.features, open_features(whole.path).train.features
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--weights", "random"), "--weights random: --model pixels has no weights"),
        (("--weights", "bundled"), "--weights bundled: these are the weights of"),
        (("--model-arg", "a=1"), "--model-arg a: --model pixels has no arguments"),
        (("--pool", "avg"), "its head supports only default; leave --pool out"),
    ],
)
def test_what_pixels_have_not_is_refused(call, features, options, said):
    done = call(*DIGITS, "--limit", "20", "--features-dir", features, *options)
    assert done.code == 2
    assert said in done.err


def test_a_head_on_pixels_labels_new_images(call, features, tmp_path):
    """The spec is all that ``predict`` needs."""
    import json

    done = call(*DIGITS, "--limit", "20", "--features-dir", features)
    store = open_features(done.path)
    (tmp_path / "spec.json").write_text(json.dumps({"spec": store.spec, "weights_file": None}))
    Image.fromarray(np.full((8, 8, 3), 51, dtype=np.uint8)).save(tmp_path / "grey.png")
    embedded = call(
        "images", "--spec", tmp_path / "spec.json", "--out", tmp_path / "out.npy",
        tmp_path / "grey.png",
    )  # fmt: skip
    assert embedded.code == 0, embedded.err
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), np.full((1, 192), 0.2), atol=1e-6)
