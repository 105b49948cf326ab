"""Rotations: applied wherever they can be read, told where they cannot, and never in the way."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin, features

from data.images.decode import decode_file
from data.images.orientation import turn

WHOLE = b"\x00\x00\x00\x00"
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF"]
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}


@pytest.fixture
def stored():
    return np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)


def tiff(*entries, order="<"):
    """An EXIF block with one directory; an entry is (tag, type, count, bytes of the value)."""
    first = 8 + 2 + 12 * len(entries) + 4
    head = b"II*\0" if order == "<" else b"MM\0*"
    block = head + struct.pack(order + "I", 8) + struct.pack(order + "H", len(entries))
    tail = b""
    for tag, kind, count, value in entries:
        if len(value) > 4:
            value, tail = struct.pack(order + "I", first + len(tail)), tail + value
        block += struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")
    return block + WHOLE + tail


def orientation(value=6, kind=3, count=1, order="<"):
    code = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 16: "Q"}.get(kind)
    if kind in (5, 10):
        content = struct.pack(order + "II", value, 1) * count
    elif code is None:
        content = str(value).encode()
    else:
        content = struct.pack(order + code, value) * count
    return (0x0112, kind, count, content)


def save(path, pixels, format, exif=b"", **options):
    prefix = b"Exif\0\0" if format == "JPEG" else b""
    options |= {"lossless": True} if format == "WEBP" else {}
    options |= {"exif": prefix + exif} if exif else {}
    Image.fromarray(pixels).save(path, format=format, **options)
    return path


def by_pillow(path):
    """Pillow's own answer; None where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            try:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            except Exception:
                return None


def plain(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))


def decoded(path):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        found = decode_file(path)
    assert shown == []
    return found


@pytest.mark.parametrize("format", [*FORMATS, "AVIF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_all_orientations_are_those_of_pillow(tmp_path, stored, format, value):
    if format == "AVIF" and not ("avif" in features.modules and features.check("avif")):
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(stored).save(tmp_path / "x", format=format, exif=exif)
    found = decoded(tmp_path / "x")
    assert found.unread_rotation is None
    np.testing.assert_array_equal(found.pixels, by_pillow(tmp_path / "x"))


def test_turning_is_what_the_standard_says(stored):
    """Row 0 and column 0 of what is stored: top left, top right, bottom right, ..., left bottom."""
    top, left, bottom, right = (0, slice(None)), (slice(None), 0), (-1, slice(None)), None
    right = (slice(None), -1)
    sides = {1: (top, left), 2: (top, right), 3: (bottom, right), 4: (bottom, left),
             5: (left, top), 6: (right, top), 7: (right, bottom), 8: (left, bottom)}  # fmt: skip
    for value, (row, column) in sides.items():
        upright = turn(stored, value)
        for side, line in ((row, stored[0]), (column, stored[:, 0])):
            assert np.array_equal(upright[side], line) or np.array_equal(upright[side][::-1], line)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [*SIZES, 99])
def test_types_and_counts_are_read_as_pillow_reads_them(tmp_path, stored, format, order, kind):
    for value, count in ((6, 1), (8, 2), (0, 1), (9, 1)):
        exif = tiff(orientation(value, kind, count, order), order=order)
        path = save(tmp_path / "x", stored, format, exif)
        found, expected = decoded(path), by_pillow(path)
        if expected is not None:
            np.testing.assert_array_equal(found.pixels, expected)
        turned = found.pixels.shape != stored.shape
        assert turned == (found.unread_rotation is None), (value, count)
        if kind in (3, 4):
            assert turned == (value in (6, 8))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("other", [(0x011A, 2, 4, b"abc\0"), (0x0131, 5, 1, b"\0" * 8)])
def test_a_tag_that_cannot_be_written_again_does_not_matter(tmp_path, stored, format, other):
    """XResolution as text: ``exif_transpose`` fails when it writes the block again."""
    path = save(tmp_path / "x", stored, format, tiff(orientation(6), other))
    found = decoded(path)
    assert found.unread_rotation is None
    np.testing.assert_array_equal(found.pixels, np.rot90(plain(path), -1))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [b"no TIFF at all", b"II", b"\xff" * 30, b"II*\0\xff\xff\xff\xff", tiff(orientation())[:12]],
)
def test_broken_blocks_are_told(tmp_path, stored, format, exif):
    path = save(tmp_path / "x", stored, format, exif)
    found = decoded(path)
    np.testing.assert_array_equal(found.pixels, plain(path))
    assert "EXIF" in found.unread_rotation


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_blocks_cut_anywhere(tmp_path, stored, format):
    """Wherever Pillow still finds the rotation it is applied; else it is told."""
    whole = tiff((0x010F, 2, 12, b"a camera..!\0"), orientation(6), (0x0131, 2, 8, b"a phone\0"))
    for length in range(1, len(whole)):
        path = save(tmp_path / "x", stored, format, whole[:length])
        found, expected = decoded(path), by_pillow(path)
        if expected is not None:
            np.testing.assert_array_equal(found.pixels, expected)
        turned = found.pixels.shape != stored.shape
        assert turned == (found.unread_rotation is None), length


def test_sound_data_without_an_orientation_is_no_trouble(tmp_path, stored):
    for format in ("JPEG", "PNG", "WEBP"):
        path = save(tmp_path / "x", stored, format, tiff((0x010F, 2, 4, b"cam\0")))
        assert decoded(path).unread_rotation is None
        assert decoded(save(tmp_path / "x", stored, format)).unread_rotation is None


def test_large_exif(tmp_path, stored):
    note = (0x927C, 7, 60_000, b"\x7f" * 60_000)
    path = save(tmp_path / "x", stored, "JPEG", tiff(orientation(8), note))
    np.testing.assert_array_equal(decoded(path).pixels, by_pillow(path))
    note = (0x927C, 7, 3_000_000, b"\x7f" * 3_000_000)
    path = save(tmp_path / "x", stored, "PNG", tiff(orientation(8), note))
    np.testing.assert_array_equal(decoded(path).pixels, np.rot90(stored))


def xmp(value, quote='"', element=False):
    inner = f"<tiff:Orientation>{value}</tiff:Orientation>" if element else ""
    attribute = "" if element else f" tiff:Orientation={quote}{value}{quote}"
    return (
        f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description{attribute}>{inner}"
        "</rdf:Description></x:xmpmeta>"
    )


@pytest.mark.parametrize("form", [{}, {"element": True}, {"quote": "'"}])
def test_xmp_and_text_in_png(tmp_path, stored, form):
    for value, turned in ((6, True), (0, False), ("six", False)):
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp(value, **form))
        path = save(tmp_path / "x", stored, "PNG", pnginfo=text)
        found = decoded(path)
        expected = np.rot90(stored, -1) if turned else stored
        np.testing.assert_array_equal(found.pixels, expected)
        assert (found.unread_rotation is None) == turned


def test_xmp_speaks_where_exif_cannot(tmp_path, stored):
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp(3))
    path = save(tmp_path / "x", stored, "PNG", b"no TIFF", pnginfo=text)
    found = decoded(path)
    np.testing.assert_array_equal(found.pixels, stored[::-1, ::-1])
    assert found.unread_rotation is None


def test_raw_profile_of_image_magick(tmp_path, stored):
    for content, turned in ((tiff(orientation(6)).hex(), True), ("zz", False)):
        text = PngImagePlugin.PngInfo()
        text.add_text("Raw profile type exif", f"\nexif\n{len(content) // 2:8}\n{content}\n")
        found = decoded(save(tmp_path / "x", stored, "PNG", pnginfo=text))
        np.testing.assert_array_equal(found.pixels, np.rot90(stored, -1) if turned else stored)
        assert (found.unread_rotation is None) == turned


def test_exif_behind_the_pixels_of_a_png(tmp_path, stored):
    path = save(tmp_path / "x", stored, "PNG")
    content = path.read_bytes()
    exif = tiff(orientation(6))
    chunk = b"eXIf" + exif
    block = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content[:-12] + block + content[-12:])
    np.testing.assert_array_equal(decoded(path).pixels, np.rot90(stored, -1))


def retag(path, tag, old, new):
    """Change the value of a SHORT in the directory of a little-endian TIFF."""
    entries = [struct.pack("<HHIH", tag, 3, 1, value) for value in (old, new)]
    content = path.read_bytes()
    assert content.count(entries[0]) == 1
    path.write_bytes(content.replace(*entries))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_tags_of_a_tiff(tmp_path, stored, compression):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "x.tif"
    for value in (0, 6, 9, 400):
        Image.fromarray(stored).save(path, exif=exif, compression=compression)
        retag(path, 0x0112, 6, value)
        found = decoded(path)
        np.testing.assert_array_equal(found.pixels, np.rot90(stored, -1) if value == 6 else stored)
        assert (found.unread_rotation is None) == (value == 6)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("tag", [0x8769, 0x8825, 0xA005, 0x011A])
@pytest.mark.parametrize("pointer", [0, 7, 4_000_000_000])
def test_broken_metadata_of_a_tiff_does_not_matter(tmp_path, stored, compression, tag, pointer):
    """Directories that point nowhere, and a resolution that is no fraction."""
    path = tmp_path / "x.tif"
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0131] = "ab"  # Software: two letters, which the entry itself holds
    Image.fromarray(stored).save(path, exif=exif, compression=compression)
    content = path.read_bytes()
    entry = struct.pack("<HHI", 0x0131, 2, 3) + b"ab\0\0"
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, struct.pack("<HHII", tag, 4, 1, pointer)))
    found = decoded(path)
    assert found.unread_rotation is None
    np.testing.assert_array_equal(found.pixels, np.rot90(stored, -1))


def test_nothing_is_printed_without_the_name_of_the_image(tmp_path, stored):
    """In a process of its own: C libraries write to the descriptor, not to sys.stderr."""
    for number, format in enumerate(("JPEG", "PNG", "WEBP")):
        save(tmp_path / f"{number}", stored, format, tiff(orientation())[:14])
    palette = Image.fromarray(stored).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(8)))
    save(tmp_path / "a.tif", stored, "TIFF", compression="tiff_lzw")
    whole = (tmp_path / "a.tif").read_bytes()
    save(tmp_path / "b.tif", stored, "TIFF", compression="tiff_lzw", tiffinfo={0x0112: 6})
    retag(tmp_path / "b.tif", 0x0112, 6, 9)
    (tmp_path / "cut.tif").write_bytes(whole[:60] + bytes(20) + whole[80:])
    code = (
        "import sys, data.images.decode as d\n"
        "for name in sys.argv[1:]:\n"
        "    try: d.decode_file(name)\n"
        "    except d.BadImageError: pass\n"
    )
    names = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, *names], capture_output=True, text=True
    )
    lines = [line for line in done.stderr.splitlines() if "PIL" in line or "TIFF" in line]
    assert (done.returncode, lines) == (0, [])
