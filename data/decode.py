"""One image file in, one uint8 RGB array out."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from data.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# What a file is, is told by its content: a PNG that is called .jpg decodes. Other formats that
# Pillow knows (TIFF, PostScript, ...) are kept out: nobody asked for their decoders to run.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# The warning filters are global to the process, and threads may decode side by side.
_filters = threading.Lock()


class BadImage(UserError):
    """A file that exists and can be read, but is no image that can be decoded.

    Parameters
    ----------
    path : str
        The file.
    reason : str
        What is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"cannot decode the image {path}: {reason}\n"
            "replace or remove the file, or leave such files out with --skip-bad-images"
        )
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        # Worker processes send it home; the default would call it with the message alone.
        return (BadImage, (self.path, self.reason))


def decode_image(
    path: str | os.PathLike[str], sha256: bytes | None = None
) -> npt.NDArray[np.uint8]:
    """Decode a JPEG, PNG, WebP or BMP file as people see it, in RGB.

    The EXIF orientation is applied. Palettes, grey levels and CMYK are converted to RGB, 16-bit
    grey levels scaled to 8 bits. An alpha channel is dropped, which is what
    ``Image.convert("RGB")`` and with it torchvision and timm do. Of an animation the first frame
    is taken.

    Parameters
    ----------
    path : path
        The file.
    sha256 : bytes, optional
        The digest that its bytes must have, 32 bytes: those very bytes are decoded, so that what
        was digested earlier is what is seen now.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        The pixels, red first.

    Raises
    ------
    BadImage
        If the content is not an image of these formats, is cut off or damaged, or has more
        pixels than Pillow's limit for decompression bombs.
    UserError
        If the file is not there or cannot be read, or its bytes have another digest.
    """
    from PIL import Image, ImageOps

    name = os.fspath(path)
    if Path(name).is_dir():
        raise UserError(f"{name} is a folder, not an image file; name the images in it")
    try:
        with _open(name if sha256 is None else _unchanged(name, sha256)) as image:
            limit = Image.MAX_IMAGE_PIXELS
            width, height = image.size
            if limit is not None and width * height > limit:
                raise BadImage(name, f"{width} x {height} pixels are more than the limit, {limit}")
            return _rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImage(name, _what_it_is(name)) from error
    except MemoryError:
        raise  # a full machine says nothing about the file
    except Exception as error:
        # Decoders raise what they like on damaged bytes (OSError, SyntaxError, ValueError,
        # struct.error, ...). Only an error of the system has a number: then the disk or the
        # permissions are at fault, and leaving the image out would hide that.
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f"cannot read the image {name}: {error.strerror}; repair it, or leave it out"
            ) from error
        raise BadImage(name, str(error) or type(error).__name__) from error


def _unchanged(name: str, sha256: bytes) -> io.BytesIO:
    with open(name, "rb") as stream:
        content = stream.read()
    if hashlib.sha256(content).digest() != sha256:
        raise UserError(
            f"the image {name} has changed since the dataset was read, a moment ago\n"
            "let the copying or editing end, then run the same command again: it is then "
            "another dataset, with a store of its own"
        )
    return io.BytesIO(content)


def _open(name: str | io.BytesIO) -> Image.Image:
    """Read the header; the bomb warning is silenced, since the caller checks the size itself."""
    from PIL import Image

    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(name, formats=_FORMATS)


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Of the formats above only 16-bit PNG has these modes; convert("RGB") would clip at 255.
        grey = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
        grey = (grey * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of transparent palettes
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _what_it_is(name: str) -> str:
    """Say what a file that no decoder wants looks like."""
    with open(name, "rb") as stream:
        head = stream.read(512)
    if not head:
        return "the file is empty"
    if looks_like_html(head):
        return "it is an HTML page, not an image"
    return "its content is not a JPEG, PNG, WebP or BMP image"


def looks_like_html(head: bytes) -> bool:
    """Tell a web page by its first bytes.

    Parameters
    ----------
    head : bytes
        The first bytes of a file, 512 or so.

    Returns
    -------
    bool
        Whether they begin an HTML (or XML) document.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<!--"))
