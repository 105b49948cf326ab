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

from data.common.errors import UserError
from data.images.decode import MAX_PIXELS, BadImageError, decode_image

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
        (".jpe", {"quality": 100, "subsampling": 0, "format": "JPEG"}, 4),
        (".jfif", {"quality": 100, "subsampling": 0, "format": "JPEG"}, 4),
        (".tif", {}, 0),
        (".tiff", {"compression": "tiff_lzw"}, 0),
        (".gif", {}, 0),
        (".ppm", {}, 0),
        (".pnm", {}, 0),
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


def tiff_tag(path, tag, old, new):
    """Change a number in the directory of a little-endian TIFF."""
    entries = [struct.pack("<HHIH", tag, 3, 1, value) for value in (old, new)]
    content = path.read_bytes()
    assert content.count(entries[0]) == 1
    path.write_bytes(content.replace(*entries))


@pytest.mark.parametrize("format", ["TIFF", "PPM"])
def test_sixteen_bit_grey_of_other_formats(tmp_path, format):
    levels = np.array([[0, 128, 255, 32768, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "x", format=format)
    assert decode_image(tmp_path / "x")[0, :, 2].tolist() == [0, 0, 1, 128, 255]


def test_grey_levels_of_a_pgm_count_from_its_own_white(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 3 1 1023\n" + struct.pack(">3H", 0, 512, 1023))
    assert decode_image(tmp_path / "x.pgm")[0, :, 0].tolist() == [0, 128, 255]
    (tmp_path / "x.pgm").write_bytes(b"P2 3 1 15\n0 8 15\n")
    assert decode_image(tmp_path / "x.pgm")[0, :, 0].tolist() == [0, 136, 255]
    (tmp_path / "x.pbm").write_bytes(b"P1 2 1\n0 1\n")
    assert decode_image(tmp_path / "x.pbm")[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white(tmp_path, bits):
    top = (1 << bits) - 1
    levels = np.array([[0, top // 4, top]], np.uint8 if bits == 8 else np.uint16)
    Image.fromarray(levels).save(tmp_path / "x.tif")
    assert decode_image(tmp_path / "x.tif")[0, :, 0].tolist() == [0, 63 if bits == 8 else 64, 255]
    tiff_tag(tmp_path / "x.tif", 262, 1, 0)
    assert decode_image(tmp_path / "x.tif")[0, :, 0].tolist() == [255, 192 - (bits == 16), 0]


def test_a_tiff_of_twelve_bits(tmp_path):
    Image.fromarray(np.zeros((1, 2), np.uint16)).save(tmp_path / "x.tif")
    tiff_tag(tmp_path / "x.tif", 258, 16, 12)
    content = tmp_path.joinpath("x.tif").read_bytes()
    with Image.open(tmp_path / "x.tif") as image:
        (place,) = image.tag_v2[273]
    packed = bytes([0xFF, 0xF8, 0x00])  # 4095 and 2048
    (tmp_path / "x.tif").write_bytes(content[:place] + packed + content[place + 3 :])
    assert decode_image(tmp_path / "x.tif")[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("dtype, kind", [(np.float32, "floating-point"), (np.int32, "integer")])
def test_samples_without_a_white_are_refused(tmp_path, dtype, kind):
    Image.fromarray(np.ones((2, 2), dtype)).save(tmp_path / "x.tif")
    with pytest.raises(BadImageError, match=f"{kind} samples.*8 or 16 bits"):
        decode_image(tmp_path / "x.tif")
    (tmp_path / "x.pfm").write_bytes(b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 1.0))
    with pytest.raises(BadImageError, match="floating-point"):
        decode_image(tmp_path / "x.pfm")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate"])
def test_modes_of_a_tiff(tmp_path, rgb, mode, compression):
    image = Image.fromarray(rgb).convert(mode)
    image.save(tmp_path / "x.tif", compression=compression)
    expected = np.asarray(image.convert("RGBA" if mode == "P" else "RGB"))[..., :3]
    np.testing.assert_array_equal(decode_image(tmp_path / "x.tif"), expected)


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


@pytest.mark.parametrize("format", ["WEBP", "PNG", "GIF", "TIFF"])
def test_first_frame_of_an_animation(tmp_path, rgb, format):
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    options = {"lossless": True} if format == "WEBP" else {}
    frames[0].save(
        tmp_path / "x", format=format, save_all=True, append_images=frames[1:], **options
    )
    np.testing.assert_array_equal(decode_image(tmp_path / "x"), rgb)


def encoded(rgb, format, **options):
    stream = io.BytesIO()
    Image.fromarray(np.tile(rgb, (20, 20, 1))).save(stream, format=format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_files_are_bad_images(tmp_path, rgb, format, part):
    whole = encoded(rgb, format)
    path = tmp_path / "cut.png"
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(BadImageError) as caught:
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
        (b"just some text", "not a JPEG, PNG, WebP, BMP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG, PNG, WebP, BMP"),
    ],
)
def test_what_is_no_image(tmp_path, content, reason):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(BadImageError, match=reason):
        decode_image(tmp_path / "x.png")


def test_other_formats_are_not_decoded(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "x.png", format="ICNS")
    with pytest.raises(BadImageError, match="not a JPEG, PNG, WebP, BMP"):
        decode_image(tmp_path / "x.png")


def box(brand):
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + brand + bytes(40)


def test_avif(tmp_path, rgb, monkeypatch):
    from PIL import features

    if "avif" in features.modules and features.check("avif"):
        Image.fromarray(np.repeat(np.repeat(rgb, 8, 0), 8, 1)).save(
            tmp_path / "x.avif", quality=95, subsampling="4:4:4"
        )
        found = decode_image(tmp_path / "x.avif")
        assert np.abs(found[4::8, 4::8].astype(int) - rgb).max() <= 12
    # As a Pillow without it answers: the file is not at fault, so it is not left out as bad.
    monkeypatch.setattr("data.images.decode._formats", lambda: ("PNG",))
    monkeypatch.setattr(features, "check", lambda name: False)
    (tmp_path / "y.avif").write_bytes(box(b"avif"))
    with pytest.raises(
        UserError, match=r"y\.avif: it is an AVIF image.*Pillow [\s\S]*>=11.3"
    ) as no:
        decode_image(tmp_path / "y.avif")
    assert not isinstance(no.value, BadImageError)


def test_heic_is_named(tmp_path):
    (tmp_path / "x.jpg").write_bytes(box(b"heic"))
    with pytest.raises(BadImageError, match=r"HEIC image.*convert it to JPEG"):
        decode_image(tmp_path / "x.jpg")


def test_damage_gives_bad_image_or_an_image(tmp_path, rgb):
    """Whatever a flipped byte hits, no decoder's own exception comes out."""
    path = tmp_path / "x.png"
    bad = 0
    for format in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"):
        whole = encoded(rgb, format)
        for position in range(0, len(whole), max(1, len(whole) // 50)):
            damaged = bytearray(whole)
            damaged[position] ^= 0xA5
            path.write_bytes(damaged)
            try:
                assert decode_image(path).ndim == 3
            except BadImageError:
                bad += 1
    assert bad > 20


@pytest.mark.parametrize("times", [1.5, 3])
def test_decompression_bombs_are_bad_images(tmp_path, times):
    """Between one and two times the limit Pillow only warns, above that it raises."""
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS
    width = int(times * MAX_PIXELS / 10_000)
    ihdr = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 10_000, 8, 2, 0, 0, 0))
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + ihdr + chunk(b"IEND", b""))
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(BadImageError, match=f"{width} x 10000 are .* pixels"):
            decode_image(path)
    assert shown == []
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS, "put back"


def test_a_file_that_is_missing_is_not_a_bad_image(tmp_path):
    """Else a disk that went away would look like a folder of damaged images."""
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(UserError) as caught:
            decode_image(path)
        assert not isinstance(caught.value, BadImageError)
        assert str(path) in str(caught.value)


def test_bad_image_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(BadImageError("cats/1.jpg", "it is empty")))
    assert (error.path, error.reason) == ("cats/1.jpg", "it is empty")
    assert "cats/1.jpg" in str(error)


def test_threads_put_the_warning_filters_back(tmp_path, rgb, monkeypatch):
    """The filters are global: the last thread takes away what the first one has put in."""
    Image.fromarray(rgb).save(tmp_path / "x.png")
    real = Image.open

    def slow_open(*args, **kwargs):
        warnings.warn_explicit("of Pillow", UserWarning, "Image.py", 1, module="PIL.Image")
        time.sleep(0.002)
        return real(*args, **kwargs)

    monkeypatch.setattr(Image, "open", slow_open)

    def work():
        for _ in range(20):
            decode_image(tmp_path / "x.png")

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert warnings.filters == before
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS
    assert shown == []
