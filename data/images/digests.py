"""Digests of whole datasets: what decides the rows of a store, and what their images show."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Mapping

from data.images.arrays import ArrayImages, Split

# Images digested at a time.
_DIGEST_ROWS = 1024


def digest_dataset(
    class_names: tuple[str, ...], group_names: tuple[str, ...], splits: Mapping[str, Split]
) -> str:
    """Digest everything that a row can mean; each field goes in with its name and length.

    Parts that a dataset does not have leave no trace, so that those of before there were such
    parts keep their digests.
    """
    digest = hashlib.sha256(b"icebox dataset, version 1\0")

    def begin(field: str, size: int) -> None:
        name = field.encode()
        digest.update(struct.pack("<QQ", len(name), size) + name)

    def add(field: str, content: bytes) -> None:
        begin(field, len(content))
        digest.update(content)

    add("class_names", _strings(class_names))
    if group_names:
        add("group_names", _strings(group_names))
    for name, split in splits.items():
        _digest_split(name, split, begin, add, digest.update)
    return digest.hexdigest()


def _digest_split(
    name: str,
    split: Split,
    begin: Callable[[str, int], None],
    add: Callable[[str, bytes], None],
    update: Callable[[memoryview], None],
) -> None:
    add(f"{name}/ids", _strings(split.ids))
    add(f"{name}/labels", split.labels.astype("<i8").tobytes())
    if isinstance(split.images, ArrayImages):
        shape = split.images.array.shape
        add(f"{name}/shape", struct.pack("<4Q", *shape))
        # As one field, in C order, without holding all of it.
        begin(f"{name}/pixels", math.prod(shape))
        for start in range(0, len(split), _DIGEST_ROWS):
            rows = split.images.rows(start, start + _DIGEST_ROWS)
            update(rows.reshape(-1).data)
    else:
        add(f"{name}/files", split.images.digests)
    if split.groups is not None:
        add(f"{name}/groups", split.groups.astype("<i8").tobytes())
    if split.weights is not None:
        add(f"{name}/weights", split.weights.astype("<f8").tobytes())


def _strings(strings: tuple[str, ...]) -> bytes:
    encoded = [string.encode("utf-8") for string in strings]
    return b"".join(struct.pack("<Q", len(raw)) + raw for raw in encoded)


def image_digests(split: Split) -> Iterator[bytes]:
    """Give the SHA-256 of each image."""
    return (row.tobytes() for row in split.image_sha256)


def content_sha256(class_names: tuple[str, ...], splits: Mapping[str, Split]) -> str:
    """Digest which images have which labels in which split, whatever their names and order.

    The same files with the same labels give the same digest by whatever door they come.
    """
    rows = []
    for name, split in splits.items():
        for label, image in zip(split.labels.tolist(), image_digests(split), strict=True):
            called = class_names[label] if label >= 0 else ""
            rows.append(b"\0".join((name.encode(), called.encode(), image)))
    digest = hashlib.sha256(b"icebox content, version 1\0")
    for row in sorted(rows):
        digest.update(struct.pack("<Q", len(row)) + row)
    return digest.hexdigest()
