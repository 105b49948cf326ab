"""Images and labels that a Python program holds: what `extract.embed` takes.

A sequence of ``(image, label)``, or a torch ``Dataset``, is read once, item after item, for labels
and digests; images are asked for again when they are embedded. Images that are all files are read
as files are everywhere.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from data.common.errors import UserError
from data.images.arrays import EncodedImages, RawDataset, RecordImages
from data.images.decode import picture_sha256
from data.images.file_digests import bar_of, sha256_bytes
from data.images.sources.assembly import (
    Listed,
    Rows,
    assemble,
    file_images,
    plain_label,
)
from data.images.sources.registry import SourceRequest

PREFIX = "python:"
ORIGIN = "python"
_EXPECTED = (
    "an image is a path, the bytes of an image file, a PIL image, or a NumPy array of uint8, "
    "(height, width, 3) or (height, width)"
)


@dataclass(frozen=True, eq=False)
class Given:
    """What a program gave: splits of items, listed once."""

    listed: Listed
    digest: str  # over what the rows are

    @staticmethod
    def of(splits: Mapping[str, Any], class_names: Sequence[str] | None) -> Given:
        """Go through the items of all splits."""
        items = Items(splits)
        listed = {name: _list(items, number) for number, name in enumerate(items.names)}
        names = (
            class_names if class_names is not None else _class_names(next(iter(splits.values())))
        )
        digest = hashlib.sha256(repr(None if names is None else list(names)).encode())
        for name, rows in listed.items():
            assert isinstance(rows.images, EncodedImages)
            digest.update(
                repr((name, list(rows.ids), list(map(plain_label, rows.labels)))).encode()
            )
            digest.update(rows.images.digests)
        return Given(Listed(listed, ORIGIN, class_names=names), digest.hexdigest())


class Item(NamedTuple):
    """An image and its label."""

    image: Any
    label: Any


class Items:
    """The items of all splits, one split after another: what workers get."""

    def __init__(self, splits: Mapping[str, Any]) -> None:
        self.names, self.splits = list(splits), list(splits.values())
        self.starts = [0, *accumulate(map(_length, self.names, self.splits))]

    def item(self, row: int) -> Item:
        """Take an item."""
        part = bisect_right(self.starts, row) - 1
        found = self.splits[part][row - self.starts[part]]
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise UserError(
                f"{self.name(row)} is {_described(found)}; (image, label) is expected, with None "
                "for an image without a label"
            )
        return Item(*found)

    def read(self, row: int) -> Any:
        """Give an image: the bytes of a file, or pixels."""
        image = self.item(row).image
        if isinstance(image, (bytearray, memoryview)):
            return bytes(image)
        if isinstance(image, (str, os.PathLike)):
            return _content(os.fspath(image), self.name(row))
        if isinstance(image, (bytes, np.ndarray)) or hasattr(image, "getexif"):
            return image
        advice = ""
        if type(image).__module__.startswith("torch"):
            advice = "\ngive the data set without a transform such as ToTensor: Icebox has its own"
        raise UserError(f"{self.name(row)} has {_described(image)} as image; {_EXPECTED}{advice}")

    def name(self, row: int) -> str:
        """Name an item by its split and place."""
        part = bisect_right(self.starts, row) - 1
        return f"item {row - self.starts[part]} of {self.names[part]}"


def fingerprint(asked: SourceRequest) -> dict[str, str]:
    """Tell what was given."""
    return {"path": ORIGIN, "stat": _given(asked).digest}


def source_sha256(asked: SourceRequest) -> str:
    """Give the digest of what was given."""
    return _given(asked).digest


def read(asked: SourceRequest) -> RawDataset:
    """Take what was given as a dataset."""
    given = _given(asked)
    splits = set(given.listed.splits)
    if asked.test_fraction is None and not splits & {"test", "validation"}:
        raise UserError(
            "embed() was given no test split; give test=..., or hold out a fifth of each class: "
            "test_fraction=0.2"
        )
    if asked.test_fraction is not None and "test" in splits:
        raise UserError("embed() was given a test split and test_fraction; leave one of them out")
    raw = assemble(asked, given.listed, kind=ORIGIN)
    raw.origin["sha256"] = given.digest
    return raw


def _given(asked: SourceRequest) -> Given:
    if not isinstance(asked.given, Given):
        raise UserError(
            f"--dataset {asked.dataset}: images of a Python program are embedded there, with "
            "extract.embed; give a folder, a table or another source here"
        )
    return asked.given


def _length(name: str, items: Any) -> int:
    try:
        count = len(items)
    except TypeError as error:
        raise UserError(
            f"the {name} split is {_described(items)}, which has no length; give a sequence of "
            "(image, label), such as list(items), or a torch Dataset with __len__ and __getitem__"
        ) from error
    if not count:
        raise UserError(f"the {name} split is empty; give (image, label) pairs, or leave it out")
    return count


def _list(items: Items, number: int) -> Rows:
    """Read the labels and digests of one split."""
    start, stop = items.starts[number], items.starts[number + 1]
    labels, digests, files = [], [], []
    with bar_of(stop - start, f"reading {items.names[number]}") as bar:
        for row in range(start, stop):
            item = items.item(row)
            content = items.read(row)
            if isinstance(item.image, (str, os.PathLike)):
                files.append(os.path.abspath(os.fspath(item.image)))
            labels.append(item.label)
            digests.append(
                sha256_bytes(content)
                if isinstance(content, bytes)
                else picture_sha256(content, items.name(row))
            )
            if bar is not None:
                bar.update(1)
    ids = [f"{items.names[number]}/{row}" for row in range(stop - start)]
    known = b"".join(digests)
    if files and len(files) == len(labels):
        images = file_images(files)
        # One file may be two rows.
        unique = len(set(files)) == len(files)
        return Rows(_with(images, known), labels, list(images.names) if unique else ids)
    return Rows(_with(RecordImages(items, np.arange(start, stop)), known), labels, ids)


def _with(images: EncodedImages, digests: bytes) -> EncodedImages:
    return replace(images, digests=digests)


def _content(path: str, name: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise UserError(
            f"{name}: cannot read the image {path}: {error.strerror}; repair or leave it out"
        ) from error


def _class_names(items: Any) -> list[str] | None:
    """Give the names of the classes where a data set has them, as those of torchvision do."""
    names = getattr(items, "classes", None)
    if not isinstance(names, (list, tuple)) or not names:
        return None
    texts = [str(name) for name in names]
    return texts if len(set(texts)) == len(texts) else None


def _described(value: Any) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    shape = getattr(value, "shape", None)
    return f"{kind} of shape {tuple(shape)}" if shape is not None else kind
