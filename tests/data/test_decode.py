"""One image in: the pixels as people see them, or an error that names the file."""

from __future__ import annotations

import io
import pickle
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from data.decode import BadImage, decode_image
from data.errors import UserError

SHAPE = (6, 9, 3)


@pytest.fixture
def rgb():
    """A smooth picture, so that lossy formats keep it; no symmetry, so that turns show."""
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    return np.stack([20 * x, 30 * y, 200 - 8 * x - 5 * y], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    "suffix, options, tolerance",
    [
        (".png", {}, 0),
        (".bmp", {}, 0),
        (".webp", {"lossless": True}, 0),
        (".webp", {"quality": 100}, 30),
        (".jpg", {"quality": 100, "subsampling": 0}, 4),
        (".jpeg", {"quality": 95, "progressive": True, "subsampling": 0}, 12),
    ],
)
def test_formats(tmp_path, rgb, suffix, options, tolerance):
    path = tmp_path / f"x{suffix}"
    Image.fromarray(rgb).save(path, **options)
    found = decode_image(path)
    assert found.dtype == np.uint8
    assert found.shape == SHAPE
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - rgb).max() <= tolerance


def test_content_decides_not_the_suffix(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "x.jpg", format="PNG")
    np.testing.assert_array_equal(decode_image(tmp_path / "x.jpg"), rgb)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_exif_orientation_is_applied(tmp_path, rgb, orientation, format):
    """The definition of the EXIF standard: where the stored first row and column belong."""
    store = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(store(rgb)))
    stored.save(tmp_path / "x", format=format, exif=exif, lossless=True)
    np.testing.assert_array_equal(decode_image(tmp_path / "x"), rgb)


def test_grey_and_palette_and_one_bit(tmp_path, rgb):
    grey = rgb[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "grey.png"), np.stack([grey] * 3, 2))
    palette = Image.fromarray(rgb).quantize(54)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        decode_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB"))
    )
    bits = grey > 60
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "bits.png")[..., 1], bits * 255)


def test_transparent_palette_gives_its_colours_without_a_warning(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode="P")
    image.putpalette([250, 10, 20, 30, 240, 50])
    image.save(tmp_path / "x.png", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode_image(tmp_path / "x.png")
    assert found[0].tolist() == [[250, 10, 20], [30, 240, 50]]


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_is_dropped_as_torchvision_does(tmp_path, rgb, format):
    alpha = np.full((*SHAPE[:2], 1), 7, np.uint8)
    Image.fromarray(np.concatenate([rgb, alpha], 2)).save(
        tmp_path / "x", format=format, lossless=True, exact=True
    )
    np.testing.assert_array_equal(decode_image(tmp_path / "x"), rgb)


def test_cmyk_jpeg(tmp_path, rgb):
    flat = np.empty((16, 16, 3), np.uint8)
    flat[:] = (200, 30, 90)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "x.jpg", quality=100)
    found = decode_image(tmp_path / "x.jpg")
    assert np.abs(found.astype(int) - flat).max() <= 4


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    levels = np.array([[0, 128, 255, 32768, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "x.png")
    assert decode_image(tmp_path / "x.png")[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width, height, bits, colour, rows):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bit_colour_keeps_the_high_byte(tmp_path):
    (tmp_path / "x.png").write_bytes(png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 65535, 256, 0)))
    assert decode_image(tmp_path / "x.png").tolist() == [[[255, 1, 0]]]


@pytest.mark.parametrize("format", ["WEBP", "PNG"])
def test_first_frame_of_an_animation(tmp_path, rgb, format):
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    frames[0].save(
        tmp_path / "x", format=format, save_all=True, append_images=frames[1:], lossless=True
    )
    np.testing.assert_array_equal(decode_image(tmp_path / "x"), rgb)


def encoded(rgb, format, **options):
    stream = io.BytesIO()
    Image.fromarray(np.tile(rgb, (20, 20, 1))).save(stream, format=format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_files_are_bad_images(tmp_path, rgb, format, part):
    whole = encoded(rgb, format)
    path = tmp_path / "cut.png"
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(BadImage) as caught:
        decode_image(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    assert caught.value.reason in str(caught.value)
    assert "--skip-bad-images" in str(caught.value)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty"),
        (b"<!doctype html><html>no such picture</html>", "HTML page"),
        (b"just some text", "not a JPEG, PNG, WebP or BMP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG, PNG, WebP or BMP"),
    ],
)
def test_what_is_no_image(tmp_path, content, reason):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(BadImage, match=reason):
        decode_image(tmp_path / "x.png")


def test_other_formats_are_not_decoded(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "x.png", format="TIFF")
    with pytest.raises(BadImage, match="not a JPEG, PNG, WebP or BMP"):
        decode_image(tmp_path / "x.png")


def test_damage_gives_bad_image_or_an_image(tmp_path, rgb):
    """Whatever a flipped byte hits, no decoder's own exception comes out."""
    path = tmp_path / "x.png"
    bad = 0
    for format in ("PNG", "JPEG", "WEBP", "BMP"):
        whole = encoded(rgb, format)
        for position in range(0, len(whole), max(1, len(whole) // 50)):
            damaged = bytearray(whole)
            damaged[position] ^= 0xA5
            path.write_bytes(damaged)
            try:
                assert decode_image(path).ndim == 3
            except BadImage:
                bad += 1
    assert bad > 20


@pytest.mark.parametrize("times", [1.5, 3])
def test_decompression_bombs_are_bad_images(tmp_path, monkeypatch, times):
    """Between one and two times the limit Pillow only warns, above that it raises."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "x.png"
    Image.new("RGB", (int(100 * times), 10)).save(path)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(BadImage, match="pixels"):
            decode_image(path)
    assert shown == []


def test_a_file_that_is_missing_is_not_a_bad_image(tmp_path):
    """Else a disk that went away would look like a folder of damaged images."""
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(UserError) as caught:
            decode_image(path)
        assert not isinstance(caught.value, BadImage)
        assert str(path) in str(caught.value)


def test_bad_image_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(BadImage("cats/1.jpg", "it is empty")))
    assert (error.path, error.reason) == ("cats/1.jpg", "it is empty")
    assert "cats/1.jpg" in str(error)


def test_threads_do_not_mix_up_the_warning_filters(tmp_path, rgb, monkeypatch):
    """The filters are global: only one thread at a time may be where they are changed."""
    Image.fromarray(rgb).save(tmp_path / "x.png")
    inside, most = [], []
    real = Image.open

    def slow_open(*args, **kwargs):
        inside.append(None)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(Image, "open", slow_open)
    before = list(warnings.filters)
    workers = [threading.Thread(target=decode_image, args=(tmp_path / "x.png",)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == [1] * 4
    assert warnings.filters == before
