"""Preprocessing as a torch module against timm's own transform, and against Pillow by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from extract.exporting.input_module import InputModule
from extract.model.preprocess import is_small, normalise, resize_batch, resize_one
from extract.model.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Height and width: upwards, downwards, both, one axis alone, none; tall ones whose height Pillow
# resizes first, and one pixel.
SHAPES = (
    (1, 1), (1, 9), (7, 1), (33, 47), (61, 31), (64, 65), (65, 64), (110, 64), (64, 110), (65, 65),
    (301, 200), (97, 411), (411, 97), (640, 480), (480, 640), (5, 400), (400, 5), (300, 300),
)  # fmt: skip


def settings(size=64, crop_pct=0.875, mode="center", interpolation="bicubic") -> Preprocessing:
    return Preprocessing(size, crop_pct, mode, interpolation, True, MEAN, STD)


def picture(height, width):
    """Half noise, half smooth shapes with sharp edges: what makes filters overshoot."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    waves = 127 + 127 * np.sin(x / 3.0 + y / 5.0)[..., None] * np.ones(3)
    noise = rng.integers(0, 256, (height, width, 3))
    return np.where((x > width // 2)[..., None], noise, waves).astype(np.uint8)


def by_timm(chosen, image):
    transform = create_transform(
        (3, *chosen.size),
        interpolation=chosen.interpolation,
        crop_pct=chosen.crop_pct,
        crop_mode=chosen.crop_mode,
        mean=chosen.mean,
        std=chosen.std,
    )
    return transform(Image.fromarray(image))


@pytest.mark.parametrize(
    "chosen",
    [
        settings(),
        settings(65, 1.0),
        settings(65, 0.9, interpolation="bilinear"),
        settings(65, 0.9, interpolation="lanczos"),
        settings(65, 0.9, interpolation="hamming"),
        settings(65, interpolation="box"),
        settings(65, interpolation="nearest"),
        settings(64, 0.9, "squash"),
        settings(64, 0.9, "border"),
        settings(33, 1.0, "border", "bilinear"),
        settings((48, 80), 0.95),
        settings((80, 48), 1.0, "squash", "lanczos"),
        settings(20, 1.5),  # padded
        settings(1, 1.0),
    ],
    ids=lambda s: f"{s.image_size}-{s.crop_pct}-{s.crop_mode}-{s.interpolation}",
)
def test_images_of_any_size_as_timm_prepares_them(chosen):
    module = InputModule(chosen)
    for shape in SHAPES:
        if chosen.crop_mode == "border" and max(shape) > 60 * min(shape):
            continue  # timm asks Pillow for a side of no pixel
        image = picture(*shape)
        found = module(torch.from_numpy(image)[None])[0]
        expected = by_timm(chosen, image)
        assert found.dtype == torch.float32 and found.shape == expected.shape
        if is_small(chosen, *shape):  # in the device's arithmetic, to the bit
            batch = torch.from_numpy(image)[None]
            expected = normalise(chosen, resize_batch(chosen, batch))[0]
        elif max(shape) > 16 * min(shape):  # of which we resize a window
            levels = torch.from_numpy(resize_one(chosen, image)).permute(2, 0, 1).float()
            expected = normalise(chosen, levels[None])[0]
        # Less than a hundredth of a grey level: the same grey levels.
        assert (found - expected).abs().max() < 1e-4, shape


@pytest.mark.parametrize("size", [(31, 97), (97, 31), (41, 41), (8, 9)])
@pytest.mark.parametrize("mode", ["pad", "center-floor"])
def test_crops_of_other_libraries(mode, size):
    image = picture(*size)
    height, width = size
    if mode == "pad":
        ratio = max(height / 20, width / 20)
        shape = (round(height / ratio), round(width / ratio))
    else:
        shape = (int(23 * height / min(size)), int(23 * width / min(size)))
    whole = np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BICUBIC))
    expected = np.zeros((20, 20, 3), np.uint8)
    if mode == "pad":
        top, left = ((20 - side) // 2 for side in shape)
        expected[top : top + shape[0], left : left + shape[1]] = whole
    else:
        top, left = ((side - 20) // 2 for side in shape)
        expected = whole[top : top + 20, left : left + 20]
    chosen = settings(20, 1.0 if mode == "pad" else 20 / 23, mode)
    found = InputModule(chosen).levels(torch.from_numpy(image)[None])[0].permute(1, 2, 0)
    assert np.array_equal(found.numpy(), expected)


def test_the_images_of_a_batch_do_not_meet():
    images = np.stack([picture(50, 31), picture(50, 31)[::-1], picture(50, 31)[:, ::-1]])
    module = InputModule(settings())
    whole = module(torch.from_numpy(images))
    for image, found in zip(images, whole, strict=True):
        assert torch.equal(module(torch.from_numpy(image.copy())[None])[0], found)
    assert module(torch.from_numpy(images[:0])).shape == (0, 3, 64, 64)


def test_settings_are_not_weights():
    assert not InputModule(settings()).state_dict()
