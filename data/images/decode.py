"""One image file in, one uint8 RGB array out."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError

# From a module that loads without numpy.
from data.format.spec import MAX_PIXELS as MAX_PIXELS
from data.format.spec import SUFFIXES as SUFFIXES
from data.images.orientation import UPRIGHT, read_orientation, turn
from data.images.pillow_warnings import no_libtiff_messages, no_pillow_limit, no_pillow_warnings
from data.images.reduced import FORMATS as REDUCIBLE
from data.images.reduced import Reduction, Wanted, reduce_scale

if TYPE_CHECKING:
    from PIL import Image

KINDS = "JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, PGM, PBM or AVIF"

# Bytes that Pillow holds for a pixel of RGB, before anything is made of it.
_BYTES_A_PIXEL = 4

# What a file is, is told by its content: a PNG that is called .jpg decodes. Other formats that
# Pillow knows (PostScript, PDF, ...) are kept out: nobody asked for their decoders to run.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
# Of a 16-bit grey image, whatever part of the range its maker has used.
_WHITE_16 = 65535
_PHOTOMETRIC, _BITS_PER_SAMPLE, _WHITE_IS_ZERO = 262, 258, 0
_FTYP_AVIF = (b"avif", b"avis")
_FTYP_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


class BadImageError(UserError):
    """A file that exists and can be read, but is no image that can be decoded."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"cannot decode the image {path}: {reason}\n"
            "replace or remove the file, or leave such files out with --skip-bad-images"
        )
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, str]]:
        # Worker processes send it home; the default would call it with the message alone.
        return (BadImageError, (self.path, self.reason))


class TooManyPixelsError(BadImageError):
    """An image with more pixels than the limit, whatever they are."""

    def __init__(self, path: str, width: int, height: int, limit: int) -> None:
        self.found = width * height
        super().__init__(
            path, f"{width} x {height} are {self.found:,} pixels, more than the limit of {limit:,}"
        )
        self._facts = (path, width, height, limit)
        self.args = (
            f"cannot decode the image {path}: {self.reason}\n"
            f"read it with --max-pixels {self.found}, make it smaller, or leave such files out "
            "with --skip-bad-images",
        )

    def __reduce__(self) -> tuple[type[BadImageError], tuple[Any, ...]]:
        return (TooManyPixelsError, self._facts)


@dataclass(frozen=True)
class DecodedImage:
    """One image, and what its file did not tell."""

    # RGB, upright. As Pillow has decoded it where nothing had to be done to it: a copy of a
    # photograph into an array, and back for Pillow to resize it, takes as long as half of decoding
    picture: npt.NDArray[np.uint8] | Image.Image
    # Why the rotation that the file may ask for could not be read; the pixels are then as they
    # are stored. None where there is none, or it was applied
    unread_rotation: str | None
    # Of a JPEG that was decoded at a reduced scale: what the pixels stand for
    reduction: Reduction | None = None

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The pixels, (height, width, 3), red first."""
        return np.array(self.picture, dtype=np.uint8)


def decode_image(
    path: str | os.PathLike[str],
    sha256: bytes | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    wanted: Wanted | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode a file as `decode_file` does, and return the pixels alone.

    Shape: (height, width, 3).
    """
    return decode_file(path, sha256, max_pixels=max_pixels, wanted=wanted).pixels


def decode_file(
    path: str | os.PathLike[str],
    sha256: bytes | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    wanted: Wanted | None = None,
) -> DecodedImage:
    """Decode an image file as people see it, in RGB.

    The orientation of EXIF, XMP or TIFF tags is applied; one that cannot be read is not, and is
    told. Palettes, grey levels and CMYK are converted to RGB, 16-bit grey levels scaled to 8
    bits. An alpha channel is dropped, which is what ``Image.convert("RGB")`` and with it
    torchvision and timm do. Of an animation the first frame is taken, of a TIFF the first page.

    An image with more than `max_pixels` pixels in its file is refused before they are decoded.
    With `wanted`, a JPEG is decoded at the smallest scale that gives at least twice that size;
    other formats are not changed by it.
    """
    name = os.fspath(path)
    if Path(name).is_dir():
        raise UserError(f"{name} is a folder, not an image file; name the images in it")
    try:
        content: str | bytes = name
        if sha256 is not None:
            with open(name, "rb") as stream:
                content = stream.read()
            _check_unchanged(content, name, sha256)
        return _decode(content, name, max_pixels, wanted)
    except OSError as error:
        raise _unreadable(name, error) from error


def decode_content(
    content: bytes,
    name: str,
    sha256: bytes | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    wanted: Wanted | None = None,
) -> DecodedImage:
    """Decode the bytes of an image file as `decode_file` does; `name` is for messages."""
    if sha256 is not None:
        _check_unchanged(content, name, sha256)
    return _decode(content, name, max_pixels, wanted)


def decoded_picture(
    image: Image.Image | npt.NDArray[np.uint8],
    name: str,
    sha256: bytes | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
) -> DecodedImage:
    """Take an image that somebody else has decoded: of Pillow, or (height, width[, 3]) of uint8."""
    if sha256 is not None and picture_sha256(image, name) != sha256:
        raise _changed(name)
    pixels = _pixels_of(image, name)
    _check_size(name, (pixels.shape[1], pixels.shape[0]), max_pixels)
    return DecodedImage(pixels, None)


def picture_sha256(image: Image.Image | npt.NDArray[np.uint8], name: str) -> bytes:
    """Digest the pixels of a decoded image with its height and width."""
    pixels = _pixels_of(image, name)
    digest = hashlib.sha256(struct.pack("<2Q", *pixels.shape[:2]))
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _pixels_of(image: Image.Image | npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    """Give the RGB pixels (height, width, 3) of a decoded image, upright."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
            raise BadImageError(
                name, f"it is an array of {image.dtype} {image.shape}, expected uint8 (h, w, 3)"
            )
        if image.ndim == 2 or image.shape[2] == 1:
            return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
        if image.shape[2] not in (3, 4):
            raise BadImageError(name, f"its array of shape {image.shape} has no 1, 3 or 4 channels")
        return image[:, :, :3]  # an alpha channel is dropped, as of files
    try:
        image.load()
        orientation, _ = read_orientation(image) if image.getexif() else (UPRIGHT, None)
        picture = np.asarray(_rgb(image))
        return picture if orientation == UPRIGHT else turn(picture, orientation)
    except Exception as error:
        raise BadImageError(name, str(error) or type(error).__name__) from error


def _decode(
    content: str | bytes, name: str, max_pixels: int, wanted: Wanted | None
) -> DecodedImage:
    """Decode a file by its path, or its bytes."""
    from PIL import Image

    size = None
    try:
        with (
            no_pillow_warnings(),
            no_pillow_limit(),
            Image.open(
                content if isinstance(content, str) else io.BytesIO(content), formats=_formats()
            ) as image,
        ):
            size = image.size
            _check_size(name, size, max_pixels)
            # Before loading: Pillow's TIFF decoder applies the orientation and forgets it, and the
            # scale of a JPEG depends on it.
            is_tiff = image.format == "TIFF"
            reducible = wanted is not None and image.format in REDUCIBLE
            early = is_tiff or reducible
            orientation, trouble = read_orientation(image) if early else (UPRIGHT, None)
            reduction = None
            if wanted is not None and reducible:
                reduction = reduce_scale(image, wanted, orientation)
            with no_libtiff_messages() if is_tiff else contextlib.nullcontext():
                image.load()
            _check_size(name, image.size, max_pixels)
            picture = _rgb(image)
            if not early:  # after loading: a PNG may carry its EXIF data behind the pixels
                orientation, trouble = read_orientation(image)
            if not is_tiff and orientation != UPRIGHT:
                picture = turn(np.asarray(picture), orientation)
            return DecodedImage(picture, trouble, reduction)
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        raise _unidentified(name, content) from error
    except MemoryError as error:
        # No fault of the file, which is not to be left out for it.
        raise _no_memory(name, size) from error
    except Exception as error:
        # Decoders raise what they like on damaged bytes (OSError, SyntaxError, ValueError,
        # struct.error, ...). Only an error of the system has a number: then the disk or the
        # permissions are at fault, and leaving the image out would hide that.
        if isinstance(error, OSError) and error.errno is not None:
            raise _unreadable(name, error) from error
        raise BadImageError(name, str(error) or type(error).__name__) from error


def _unreadable(name: str, error: OSError) -> UserError:
    return UserError(f"cannot read the image {name}: {error.strerror}; repair it, or leave it out")


def decoder() -> str:
    """Name what decodes image files: the versions of Pillow and of its JPEG library."""
    from PIL import __version__, features

    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return f"Pillow {__version__}, libjpeg {jpeg}"


@functools.cache
def _formats() -> tuple[str, ...]:
    """Name the formats above that the installed Pillow has a plugin for."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(name: str, size: tuple[int, int], limit: int) -> None:
    if size[0] * size[1] > limit:
        raise TooManyPixelsError(name, *size, limit)


def _no_memory(name: str, size: tuple[int, int] | None) -> UserError:
    what = ""
    if size is not None:
        needed = size[0] * size[1] * _BYTES_A_PIXEL / 1e9
        what = f" of {size[0]} x {size[1]} pixels, which takes {needed:,.1f} GB or more to decode"
    return UserError(
        f"the memory that is free does not suffice for the image {name}{what}\n"
        "let fewer processes decode with --jobs 1, refuse such images with --max-pixels, or, of "
        "a JPEG, decode less with --decode fast"
    )


def _check_unchanged(content: bytes, name: str, sha256: bytes) -> None:
    if hashlib.sha256(content).digest() != sha256:
        raise _changed(name)


def _changed(name: str) -> UserError:
    return UserError(
        f"the image {name} has changed since the dataset was read, a moment ago\n"
        "let the copying or editing end, then run the same command again: it is then "
        "another dataset, with a store of its own"
    )


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8] | Image.Image:
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        raise ValueError(
            f"it has {kind} samples, for which no white is defined; save it with 8 or 16 bits"
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        # convert("RGB") would clip at 255. Pillow scales all but TIFF to 65535.
        bits = tags.get(_BITS_PER_SAMPLE, (16,))
        white = (1 << int(bits[0] if isinstance(bits, tuple) else bits)) - 1
        grey = np.clip(np.asarray(image), 0, white).astype(np.uint32)
        grey = (grey * 255 + white // 2) // white
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow heeds for 8 bits alone
            grey = 255 - grey
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of transparent palettes
    elif image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _unidentified(name: str, content: str | bytes) -> UserError:
    """Say what a file that no decoder wants looks like."""
    if isinstance(content, bytes):
        head = content[:512]
    else:
        with open(content, "rb") as stream:
            head = stream.read(512)
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in _FTYP_AVIF:
        from PIL import __version__, features

        if "avif" not in features.modules or not features.check("avif"):
            return UserError(
                f"cannot decode the image {name}: it is an AVIF image, which Pillow {__version__} "
                "cannot read here\ninstall a newer one, pip install 'pillow>=11.3', or convert "
                "the image"
            )
    if not head:
        reason = "the file is empty"
    elif looks_like_html(head):
        reason = "it is an HTML page, not an image"
    elif brand in _FTYP_HEIC:
        reason = "it is a HEIC image, which is not read; convert it to JPEG or PNG"
    else:
        reason = f"its content is not a {KINDS} image"
    return BadImageError(name, reason)


def looks_like_html(head: bytes) -> bool:
    """Tell an HTML (or XML) document by its first bytes, 512 or so."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<!--"))
