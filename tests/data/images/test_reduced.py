"""JPEG at a reduced scale: always enough pixels, never more than needed, and the same picture."""

from __future__ import annotations

import io
import itertools
import math
import pickle

import numpy as np
import pytest
from PIL import Image

from data.common.errors import UserError
from data.images.decode import BadImageError, decode_file, decode_image
from data.images.orientation import turn, turn_box
from data.images.reduced import scale_for

SUBPIXELS = 8


def smooth(height, width):
    """A picture that any scale shows alike, and that looks different in every corner."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    return np.stack([220 * x + 20, 200 * y + 30, 230 - 90 * x - 120 * y], axis=2).astype(np.uint8)


def write(path, pixels, *, orientation=1, mode="RGB", **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(pixels).convert(mode)
    image.save(path, format=options.pop("format", "JPEG"), exif=exif, quality=95, **options)
    return path


def needed_scale(height, width, wanted):
    """The definition, tried out: the most that still leaves twice the size wanted."""
    found = 1
    for scale in (1, 2, 4, 8):
        if height / scale >= 2 * wanted[0] and width / scale >= 2 * wanted[1]:
            found = scale
    return found


def test_the_scale_is_the_smallest_that_gives_twice_the_size():
    rng = np.random.default_rng(0)
    sizes = list(itertools.product([1, 2, 3, 15, 16, 17, 31, 32, 33], repeat=2))
    sizes += [tuple(map(int, row)) for row in rng.integers(1, 5000, (2000, 2))]
    seen = set()
    for height, width in sizes:
        for wanted in ((1, 1), (height, width), *map(tuple, rng.integers(1, 400, (3, 2)))):
            scale = scale_for((height, width), wanted)
            assert scale == needed_scale(height, width, wanted), (height, width, wanted)
            seen.add(scale)
    assert seen == {1, 2, 4, 8}


@pytest.mark.parametrize("mode, options", [
    ("RGB", {}), ("RGB", {"progressive": True}), ("RGB", {"subsampling": 0}), ("L", {}),
    ("CMYK", {}),
    ("RGB", {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (8, 8))]}),
])  # fmt: skip
def test_decoded_pixels_are_enough_and_show_the_same(tmp_path, mode, options):
    """Against the whole image, shrunk by averaging; a suffix does not matter."""
    sizes = [(1, 1), (7, 5), (33, 50), (64, 64), (61, 95), (127, 90), (200, 333), (18, 257)]
    scales = set()
    for number, (size, orientation) in enumerate(itertools.product(sizes, range(1, 9))):
        path = write(
            tmp_path / f"{number}.png", smooth(*size), orientation=orientation, mode=mode, **options
        )
        exact = decode_file(path)
        height, width = exact.pixels.shape[:2]
        assert (height, width) == (size if orientation < 5 else size[::-1])
        assert exact.reduction is None
        asked = []

        def wanted(high, wide, asked=asked):
            asked.append((high, wide))
            return (max(high // 9, 8), max(wide // 11, 5))

        fast = decode_file(path, wanted=wanted)
        assert asked == [(height, width)], "asked for the upright size"
        scale = needed_scale(height, width, wanted(height, width))
        scales.add(scale)
        assert fast.pixels.dtype == np.uint8 and fast.pixels.flags.c_contiguous
        if scale == 1:
            assert fast.reduction is None
            np.testing.assert_array_equal(fast.pixels, exact.pixels)
            continue
        high, wide = fast.pixels.shape[:2]
        assert (high, wide) == (math.ceil(height / scale), math.ceil(width / scale))
        assert fast.reduction.size == (height, width)
        left, top, right, bottom = fast.reduction.box
        assert (right - left, bottom - top) == (width / scale, height / scale)
        assert 0 <= left < 1 and 0 <= top < 1 and wide - 1 < right <= wide
        # The same picture: both made equally large by Pillow, from what is image of either.
        whole = Image.fromarray(exact.pixels).resize((wide, high), Image.Resampling.BOX)
        part = Image.fromarray(fast.pixels).resize(
            (wide, high), Image.Resampling.BOX, fast.reduction.box
        )
        apart = np.abs(np.asarray(whole, int) - np.asarray(part, int))
        assert apart.max() <= 12 and apart.mean() <= 3, (size, orientation, scale)
    assert scales == {1, 2, 4}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_turned_as_its_pixels_are(orientation):
    """Pixels drawn at eight times the size, turned, and looked at."""
    for width, height, scale in ((9, 6, 8), (5, 12, 4), (7, 7, 2)):
        box = (0.0, 0.0, width - 1 / scale, height - (scale - 1) / scale)
        drawn = np.zeros((height * SUBPIXELS, width * SUBPIXELS, 3), np.uint8)
        left, top, right, bottom = (int(side * SUBPIXELS) for side in box)
        drawn[top:bottom, left:right] = 1
        rows, columns = np.nonzero(turn(drawn, orientation)[..., 0])
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert turn_box(box, (width, height), orientation) == tuple(s / SUBPIXELS for s in found)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF"])
def test_other_formats_are_not_changed(tmp_path, format):
    if format == "AVIF" and format not in Image.registered_extensions().values():
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / "x.jpg"
    Image.fromarray(smooth(90, 130)).save(path, format=format)
    exact, fast = decode_file(path), decode_file(path, wanted=lambda high, wide: (1, 1))
    assert fast.reduction is None
    np.testing.assert_array_equal(fast.pixels, exact.pixels)


def test_sixteen_bits_are_not_changed(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.linspace(0, 65535, 6000).astype(np.uint16).reshape(60, 100)).save(path)
    fast = decode_image(path, wanted=lambda high, wide: (1, 1))
    np.testing.assert_array_equal(fast, decode_image(path))


def test_damaged_files_are_refused_alike(tmp_path):
    """A byte flipped or an end cut off: an image or a bad image, at either scale."""
    whole = io.BytesIO()
    Image.fromarray(smooth(64, 80)).save(whole, "JPEG")
    content, path, bad = whole.getvalue(), tmp_path / "x.jpg", 0
    changed = [content[:end] for end in range(2, len(content), 97)]
    for at in range(0, len(content), 41):
        changed.append(content[:at] + bytes([content[at] ^ 0xA5]) + content[at + 1 :])
    for broken in changed:
        path.write_bytes(broken)
        outcomes = []
        for wanted in (None, lambda high, wide: (4, 4)):
            try:
                outcomes.append(decode_image(path, wanted=wanted).ndim)
            except BadImageError:
                outcomes.append(None)
        assert outcomes[0] == outcomes[1]
        bad += outcomes[0] is None
    assert bad > 5


def test_a_rotation_that_cannot_be_read_is_told(tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(smooth(64, 80)).save(path, exif=b"Exif\0\0no TIFF")
    fast = decode_file(path, wanted=lambda high, wide: (4, 4))
    assert fast.unread_rotation == decode_file(path).unread_rotation is not None
    assert fast.reduction.size == (64, 80)


# The limit of pixels


@pytest.mark.parametrize("wanted", [None, lambda high, wide: (1, 1)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_the_limit_is_of_the_pixels_in_the_file(tmp_path, format, wanted):
    path = tmp_path / "large.jpg"
    Image.fromarray(smooth(40, 50)).save(path, format=format)
    assert decode_image(path, max_pixels=2000, wanted=wanted).ndim == 3
    with pytest.raises(BadImageError) as caught:
        decode_image(path, max_pixels=1999, wanted=wanted)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, BadImageError), "so that --skip-bad-images leaves it out"
        for word in (path, "50 x 40 are 2,000 pixels", "limit of 1,999", "--max-pixels 2000"):
            assert str(word) in str(error)
        assert error.found == 2000 and error.path == str(path)


def test_no_memory_names_the_file_and_its_pixels(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.fromarray(smooth(40, 50)).save(path)

    def full(self):
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", full)
    with pytest.raises(UserError) as caught:
        decode_image(path)
    assert not isinstance(caught.value, BadImageError), "such a file is not left out"
    for word in (
        path,
        "50 x 40 pixels",
        "GB or more to decode",
        "--jobs 1",
        "--max-pixels",
        "--decode",
    ):
        assert str(word) in str(caught.value)
