"""Text of variable length in HDF5 files, read without the HDF5 library.

A dataset of such text holds, for each element, a length, an address and an index; the characters
lie in *global heap collections* elsewhere in the file (HDF5 file format specification 3.0,
sections III.E and IV.B). None of this is under a checksum of HDF5's own, and HDF5 2.0 follows a
damaged reference into an endless loop. The reader here trusts nothing: every length and address
is compared with the file before it is used.
"""

from __future__ import annotations

import struct

import numpy as np

from data.common.raw_io import read_at

_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
_HEAP_HEADER = struct.Struct("<4sB3xQ")
_HEAP_OBJECT = struct.Struct("<HH4xQ")
_HEAP_START = b"GCOL\x01"
_SCAN_BYTES = 4 << 20


class DamagedTextError(Exception):
    """References or heaps do not fit together; the message says what was found."""


def read_texts(descriptor: int, offset: int, count: int, size: int) -> list[bytes]:
    """Read ``count`` texts whose references begin at ``offset``, in a file of ``size`` bytes."""
    if offset + count * _REFERENCE.itemsize > size:
        raise DamagedTextError("its references reach beyond the end of the file")
    raw = bytearray(count * _REFERENCE.itemsize)
    read_at(descriptor, offset, memoryview(raw))
    references = np.frombuffer(raw, _REFERENCE)
    # Many references to one text could otherwise fill the memory from a small file.
    if int(references["length"].sum(dtype=np.uint64)) > size:
        raise DamagedTextError("its texts claim to be longer than the file")

    heaps: dict[int, dict[int, bytes]] = {}
    texts = []
    heap: dict[int, bytes] = {}
    last = -1
    for length, address, index in references.tolist():
        if length == 0:
            texts.append(b"")
            continue
        if address != last:
            if address not in heaps:
                heaps[address] = _read_heap(descriptor, address, size)
            heap, last = heaps[address], address
        text = heap.get(index, b"")
        if len(text) != length:
            if len(text) < length:
                raise DamagedTextError(f"text {index} of a heap is missing or too short")
            text = text[:length]
        texts.append(text)
    if any(b"\0" in text for text in texts):  # some writers count the closing NUL
        return [text.partition(b"\0")[0] for text in texts]
    return texts


def _read_heap(descriptor: int, address: int, size: int) -> dict[int, bytes]:
    header = bytearray(_HEAP_HEADER.size)
    if address + len(header) > size:
        raise DamagedTextError("a reference points beyond the end of the file")
    read_at(descriptor, address, memoryview(header))
    signature, version, length = _HEAP_HEADER.unpack(header)
    if signature != b"GCOL" or version != 1 or address + length > size or length < len(header):
        raise DamagedTextError("a reference points to something that is not a text heap")
    heap = bytearray(length)
    read_at(descriptor, address, memoryview(heap))

    objects = {}
    position = _HEAP_HEADER.size
    while position + _HEAP_OBJECT.size <= length:
        index, _, extent = _HEAP_OBJECT.unpack_from(heap, position)
        if index == 0:  # the free space at the end
            break
        start = position + _HEAP_OBJECT.size
        if start + extent > length:
            raise DamagedTextError("a text is longer than the heap that holds it")
        objects[index] = bytes(heap[start : start + extent])
        position = start + (extent + 7) // 8 * 8
    return objects


def check_heaps(descriptor: int, size: int) -> None:
    """Look through a whole file for text heaps that HDF5 would not come out of again.

    In a heap, the library goes from one object to the next by the lengths that the objects state:
    a length of zero, or one beyond 64 bits, keeps it in place for ever. Needed for files without
    a seal only, before the library sees them.
    """
    overlap = len(_HEAP_START) - 1
    block = bytearray(min(size, _SCAN_BYTES + overlap))
    for start in range(0, size, _SCAN_BYTES):
        part = memoryview(block)[: min(len(block), size - start)]
        read_at(descriptor, start, part)
        at = block.find(_HEAP_START, 0, len(part))
        while at >= 0:
            _check_heap(descriptor, start + at, size)
            at = block.find(_HEAP_START, at + 1, len(part))


def _check_heap(descriptor: int, address: int, size: int) -> None:
    header = bytearray(_HEAP_HEADER.size)
    if address + len(header) > size:
        return
    read_at(descriptor, address, memoryview(header))
    length = _HEAP_HEADER.unpack(header)[2]
    if not len(header) <= length <= size - address:
        raise DamagedTextError("a text heap is larger than the file")
    heap = bytearray(length)
    read_at(descriptor, address, memoryview(heap))
    position = len(header)
    while position + _HEAP_OBJECT.size <= length:
        index, _, extent = _HEAP_OBJECT.unpack_from(heap, position)
        step = extent if index == 0 else _HEAP_OBJECT.size + (extent + 7) // 8 * 8
        if not 0 < step <= length - position:
            raise DamagedTextError("the objects of a text heap do not follow one another")
        position += step
