"""How an image is to be turned, by the metadata that its file carries.

Pillow's ``ImageOps.exif_transpose`` reads the same tags, but it also writes the metadata again
without the orientation, and fails where another tag is of a type that it cannot write. Here only
one number is wanted, and pixels that decode are never lost for it.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

TAG = 0x0112
UPRIGHT = 1
_ENTRY_BYTES = 12
# Pillow reads double quotes and elements only; single quotes are XML, too.
_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)([^"'<]*)""")


def read_orientation(image: Image.Image) -> tuple[int, str | None]:
    """Read the orientation of a loaded image: 1 to 8, and why it could not be read, or None."""
    raw, trouble = _exif_bytes(image)
    found: Any = None
    if trouble is None:
        try:
            found = _known_to_pillow(image)
        except Exception as error:  # what a damaged block makes Pillow raise is not bounded
            trouble = f"its EXIF data cannot be read ({str(error) or type(error).__name__})"
    if trouble is None and found is None and raw is not None:
        trouble = _incomplete(raw)
    if found is None:
        found = _of_xmp(image)
    if found is None:
        return UPRIGHT, trouble
    with contextlib.suppress(TypeError, ValueError, OverflowError, ArithmeticError):
        # A rational number that is whole counts, as it does for Pillow; bytes and text do not.
        if not isinstance(found, bytes | str) and int(found) == found and 1 <= found <= 8:
            return int(found), None
    return UPRIGHT, f"its orientation is {_short(found)}, expected a number from 1 to 8"


def _exif_bytes(image: Image.Image) -> tuple[bytes | None, str | None]:
    """Find the EXIF block, without its headers; or what is wrong with it."""
    raw = image.info.get("exif")
    text = image.info.get("Raw profile type exif")
    if raw is None and text is not None:
        try:
            raw = bytes.fromhex("".join(str(text).split("\n")[3:]))
        except ValueError:
            return None, "its EXIF data is no hexadecimal text"
    if raw is None:
        return None, None
    if not isinstance(raw, bytes):
        return None, "its EXIF data is text"
    raw = re.sub(rb"^(Exif\x00\x00){1,2}", b"", raw)
    return raw or None, None


def _known_to_pillow(image: Image.Image) -> Any:
    exif = image.getexif()
    return exif.get(TAG)


def _incomplete(raw: bytes) -> str | None:
    """Say why a block in which Pillow found no orientation may have had one; else None."""
    order = {b"II": "little", b"MM": "big"}.get(raw[:2])
    if order is None or len(raw) < 8:
        return "its EXIF data is no TIFF"

    def number(start: int, size: int) -> int:
        return int.from_bytes(raw[start : start + size], "little" if order == "little" else "big")

    start = number(4, 4)
    if start + 2 > len(raw):
        return "its EXIF data is cut off"
    first, count = start + 2, number(start, 2)
    for entry in range(first, first + count * _ENTRY_BYTES, _ENTRY_BYTES):
        if entry + _ENTRY_BYTES > len(raw):
            return "its EXIF data is cut off"
        if number(entry, 2) == TAG:
            return f"its orientation is of type {number(entry + 2, 2)}, which is not known"
    return None


def _of_xmp(image: Image.Image) -> Any:
    """Read the orientation of XMP data: a number, the text that is none, or None."""
    for name in ("XML:com.adobe.xmp", "xmp"):
        text = image.info.get(name)
        if isinstance(text, str):
            text = text.encode("utf-8", "replace")
        match = _XMP.search(text) if isinstance(text, bytes) else None
        if match:
            value = match[1].strip().decode("utf-8", "replace")
            return int(value) if value.isascii() and value.isdecimal() else value
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def swaps_sides(orientation: int) -> bool:
    """Tell whether an image is as wide upright as it is high in its file."""
    return orientation in (5, 6, 7, 8)


def _mirrors(orientation: int) -> tuple[bool, bool]:
    """Tell whether left and right, and top and bottom, change places, once sides are swapped."""
    return orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)


def turn(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Turn pixels upright: the definition of tag 0x0112 of the EXIF standard."""
    if swaps_sides(orientation):
        pixels = pixels.transpose(1, 0, 2)
    across, down = _mirrors(orientation)
    if across:
        pixels = pixels[:, ::-1]
    if down:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def turn_box(
    box: tuple[float, float, float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """Say where a box (left, top, right, bottom) of an image lies once `turn` has turned it.

    `size` is width and height before.
    """
    left, top, right, bottom = box
    width, height = size
    if swaps_sides(orientation):
        left, top, right, bottom = top, left, bottom, right
        width, height = height, width
    across, down = _mirrors(orientation)
    if across:
        left, right = width - right, width - left
    if down:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom
