"""Guards for text of variable length in HDF5 files that no seal proves whole.

A dataset of such text holds, for each element, a length, an address and an index; the characters
lie in *global heap collections* elsewhere in the file (HDF5 file format specification 3.0,
sections III.E and IV.B). None of this is under a checksum of HDF5's own, and HDF5 2.0 follows
damaged ones in an endless loop. So they are looked at before the library sees them.
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


def check_references(descriptor: int, offset: int, count: int, size: int) -> None:
    """Compare what a dataset of texts refers to with the file, before HDF5 goes there."""
    if offset + count * _REFERENCE.itemsize > size:
        raise DamagedTextError("its references reach beyond the end of the file")
    raw = bytearray(count * _REFERENCE.itemsize)
    read_at(descriptor, offset, memoryview(raw))
    references = np.frombuffer(raw, _REFERENCE)
    # Many references to one text could otherwise fill the memory from a small file.
    if int(references["length"].sum(dtype=np.uint64)) > size:
        raise DamagedTextError("its texts claim to be longer than the file")
    start = memoryview(bytearray(len(_HEAP_START)))
    for address in np.unique(references["address"][references["length"] > 0]).tolist():
        if address + _HEAP_HEADER.size > size:
            raise DamagedTextError("a reference points beyond the end of the file")
        read_at(descriptor, address, start)
        if bytes(start) != _HEAP_START:
            raise DamagedTextError("a reference points to something that is not a text heap")


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
