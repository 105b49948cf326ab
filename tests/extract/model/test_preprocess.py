"""The device's resize against timm's own transform, which is Pillow's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from data.common.errors import UserError
from extract.model.preprocess import is_small, normalise, resize_batch, resize_one
from extract.model.preprocessing import Preprocessing, resolve_preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def settings(size=96, crop_pct=0.875, mode="center", interpolation="bicubic") -> Preprocessing:
    return Preprocessing(size, crop_pct, mode, interpolation, True, MEAN, STD)


def picture(height, width, seed=0):
    """Half noise, half smooth shapes with sharp edges: what makes filters overshoot."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 127 + 127 * np.sin(x / 3.0 + y / 5.0)[..., None] * np.ones(3)
    noise = rng.integers(0, 256, (height, width, 3))
    return np.where((x > width // 2)[..., None], noise, waves).astype(np.uint8)


def by_timm(chosen, image, **kwargs):
    transform = create_transform(
        (3, chosen.image_size, chosen.image_size),
        interpolation=chosen.interpolation,
        crop_pct=chosen.crop_pct,
        crop_mode=chosen.crop_mode,
        mean=chosen.mean,
        std=chosen.std,
        **kwargs,
    )
    return transform(Image.fromarray(image))


def on_device(chosen, image):
    return resize_batch(chosen, torch.from_numpy(image)[None])[0]


@pytest.mark.parametrize(
    "chosen",
    [
        settings(224, 1.0),
        settings(224, 0.875),
        settings(128, 0.95, interpolation="bilinear"),
        settings(65, 0.9, interpolation="lanczos"),
        settings(65, 0.9, interpolation="hamming"),
        settings(65, 0.875, interpolation="box"),
        settings(65, 0.875, interpolation="nearest"),
        settings(96, 0.9, "squash"),
        settings(96, 0.9, "border"),
        settings(97, 1.0, "border", "bilinear"),
    ],
    ids=lambda s: f"{s.image_size}-{s.crop_pct}-{s.crop_mode}-{s.interpolation}",
)
@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (61, 31), (301, 200), (97, 411)])
def test_resize_is_timms(chosen, shape):
    image = picture(*shape)
    expected = by_timm(chosen, image, normalize=False).numpy().astype(int)
    device = on_device(chosen, image).numpy()
    assert np.array_equal(device, np.floor(device)), "whole grey levels"
    assert device.shape == expected.shape
    worker = resize_one(chosen, image).transpose(2, 0, 1).astype(int)
    assert np.array_equal(worker, expected), "Pillow's pixels are timm's"
    # Pillow chooses which axis comes first; in the usual crop mode that is always the same.
    largest = {"center": 2, "border": 2, "squash": 20}[chosen.crop_mode]
    assert np.abs(device - expected).max() <= largest
    assert np.abs(device - expected).mean() < (0.06 if largest == 2 else 0.4)


def test_no_resize_means_the_same_pixels():
    image = picture(64, 80)
    chosen = settings(64, 1.0)
    assert np.array_equal(on_device(chosen, image).numpy(), image[:, 8:72].transpose(2, 0, 1))
    assert np.array_equal(resize_one(chosen, image), image[:, 8:72])


def by_hand(image, size, resized, mode):
    """Resize with Pillow, and crop or pad pixel by pixel, as open_clip and transformers say."""
    height, width = image.shape[:2]
    if mode == "pad":
        ratio = max(height / size, width / size)
        shape = (round(height / ratio), round(width / ratio))
    else:
        short = min(height, width)
        shape = (int(resized * height / short), int(resized * width / short))
    whole = np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BICUBIC))
    top, left = ((side - size) // 2 for side in shape)  # rounded down, also below zero
    if mode == "pad":
        top, left = (-((size - side) // 2) for side in shape)
    found = np.zeros((size, size, 3), np.uint8)
    for row in range(size):
        for column in range(size):
            if 0 <= row + top < shape[0] and 0 <= column + left < shape[1]:
                found[row, column] = whole[row + top, column + left]
    return found


@pytest.mark.parametrize("shape", [(40, 43), (40, 61), (59, 40), (23, 71), (90, 31), (17, 20)])
@pytest.mark.parametrize("mode", ["pad", "center-floor"])
def test_crops_of_other_libraries(mode, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    pct = 1.0 if mode == "pad" else 20 / 23
    settings = Preprocessing(20, pct, mode, "bicubic", True, (0.5,) * 3, (0.5,) * 3)
    assert np.array_equal(resize_one(settings, image), by_hand(image, 20, 23, mode))


def test_timm_has_no_crops_of_other_libraries():
    with pytest.raises(UserError, match="'pad' is not one of timm's"):
        resolve_preprocessing({"crop_mode": "pad", "input_size": (3, 8, 8)}, {})


def test_a_constant_image_stays_constant():
    for level in (0, 1, 127, 254, 255):
        image = np.full((37, 53, 3), level, np.uint8)
        for interpolation in ("bicubic", "bilinear", "lanczos"):
            resized = on_device(settings(96, interpolation=interpolation), image)
            assert torch.all(resized == level)


def test_pixels_do_not_depend_on_the_batch():
    images = torch.from_numpy(np.stack([picture(32, 40, seed) for seed in range(9)]))
    chosen = settings(224, 0.9)
    whole = resize_batch(chosen, images)
    alone = torch.cat([resize_batch(chosen, images[i : i + 1]) for i in range(9)])
    assert torch.equal(whole, alone)
    # The sums are exact, so another order of summation, in double, gives the same bits.
    flipped = resize_batch(chosen, images.flip(2)).flip(3)
    assert (flipped - whole).abs().max() <= 1


def test_normalised_as_timm_does():
    image = picture(64, 64)
    chosen = settings(64, 1.0)
    ours = normalise(chosen, on_device(chosen, image)[None])[0]
    torch.testing.assert_close(ours, by_timm(chosen, image), rtol=0, atol=2e-6)


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(4000, 16), (3000, 20), (1300, 8), (2000, 5), (20, 3000)])
def test_very_long_images_are_timms(shape, interpolation):
    image = picture(*shape)
    chosen = settings(8, 0.875, interpolation=interpolation)
    expected = by_timm(chosen, image, normalize=False).numpy().transpose(1, 2, 0)
    assert np.array_equal(resize_one(chosen, image), expected)


def test_very_long_images_cost_little():
    chosen = settings(64, 1.0)
    assert not is_small(chosen, 2, 1000)
    image = picture(4, 20_000)  # the whole resized image would be 64 x 320,000
    assert resize_one(chosen, image).shape == (64, 64, 3)
    assert is_small(chosen, 64, 64)
    assert not is_small(chosen, 65, 64)


def test_resolve_takes_the_models_own_and_the_overrides():
    config = {"input_size": (3, 160, 160), "crop_pct": 0.95, "interpolation": "bilinear"}
    own = resolve_preprocessing(config, {})
    assert (own.image_size, own.crop_pct, own.interpolation) == (160, 0.95, "bilinear")
    changed = resolve_preprocessing(
        config, {"image_size": 64, "mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": None}
    )
    assert (changed.image_size, changed.mean, changed.std) == (64, (0.5,) * 3, (0.25,) * 3)
    assert changed.crop_pct == 0.95
    assert Preprocessing.from_spec(changed.to_spec()) == changed


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"crop_pct": 7.5}, "--crop-pct 7.5"),
        ({"crop_pct": 4.0, "image_size": 3}, "--crop-pct 4.0"),
        ({"interpolation": "bicubical"}, "bicubic"),
        ({"std": (0.5, 0.0, 0.5)}, "--std"),
    ],
)
def test_settings_without_meaning_are_refused(overrides, named):
    with pytest.raises(UserError, match=named):
        resolve_preprocessing({"input_size": (3, 64, 64)}, overrides)


def test_a_model_that_is_not_square():
    own = resolve_preprocessing({"input_size": (3, 1024, 768)}, {})
    assert (own.image_size, own.size) == ((1024, 768), (1024, 768))
    assert own.to_spec()["image_size"] == [1024, 768]
    assert Preprocessing.from_spec(own.to_spec()) == own
    square = resolve_preprocessing({"input_size": (3, 1024, 768)}, {"image_size": (64, 64)})
    assert (square.image_size, square.size) == (64, (64, 64))
    assert square.to_spec()["image_size"] == 64


@pytest.mark.parametrize("size", [[64], [64, 48, 3], [64, 48.5], ["64", "48"], 64.5, "64", [0, 9]])
def test_a_spec_with_an_odd_size_is_refused(size):
    with pytest.raises(UserError):
        Preprocessing.from_spec({**settings().to_spec(), "image_size": size})


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings().image_size = 3
