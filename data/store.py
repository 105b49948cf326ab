"""The feature store: one HDF5 file, whole and verified, or none. The one place that knows HDF5.

Schema 1
--------
=============================  ================================================================
object                         what
=============================  ================================================================
``/{split}/features``          little-endian float32 or float16, (n_samples, n_features); the
                               splits are ``train`` and ``test``, and where the source has them
                               ``validation`` and ``unlabelled``
``/{split}/labels``            little-endian int64, (n_samples,): indices into ``class_names``; -1
                               for all rows of ``unlabelled``
``/{split}/ids``               text of variable length, UTF-8, no NUL: which image a row is
``/{split}/groups``            optional: little-endian int64, (n_samples,): indices into
                               ``group_names``
``/{split}/weights``           optional: little-endian float64, (n_samples,), 0 or more
``/{split}/image_sha256``      optional: bytes, (n_samples, 32): SHA-256 of each image's file, or
                               of its height, width and RGB pixels where it has none
``/train/moments``             a group in older stores; no longer written, and not read
root ``schema_version``        integer, 1
root ``key``                   SHA-256, hex, of the canonical JSON of ``spec`` (`data.format.spec`)
root ``spec``                  JSON object: everything that decides the numbers
root ``provenance``            JSON object: how, where and when they were computed
root ``request``               JSON object: the options as given
root ``class_names``           JSON list of text
root ``group_names``           optional: JSON list of text
``sha256`` on each dataset     SHA-256, hex, of its bytes in C order; of ``ids``: of each id's
                               UTF-8 bytes followed by one NUL
after HDF5's end of file       the seal: a checksum of all other bytes (`data.format.seal`)
=============================  ================================================================

Where the store was joined with ``--join virtual``, the features lie in files beside it
(`data.virtual`).

Of the keys of ``provenance``, ``skipped_images`` lists the ids of images that could not be
decoded; ``unread_rotations`` (``count``, ``first``: the first ids, with their splits) tells of
images taken as stored, because the rotation that they ask for cannot be read; ``dataset`` says
where the images came from, and of a folder which sub-folder is which split (``splits``) and what
in it was not read (``not_read``: by suffix or kind, ``count`` and ``first``).

Attributes are text of variable length. Datasets are contiguous, uncompressed and hard-linked, so
that they can be read without HDF5 and mapped into memory (embeddings barely compress, and every
run reads them); metadata is in the format of HDF5 1.10, under its checksums. Rows are in the
order of the dataset, without those that have no embedding. Writing: `data.writing`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from data.common.files import in_bytes
from data.common.raw_io import raw_bytes, write_at
from data.format.loading import AGAIN, Stored
from data.format.records import StoreError
from data.format.schema import TEXT
from data.format.seal import (
    SEAL_VERSION,
    SIGNATURE,
    BrokenSealError,
    Extent,
    append_seal,
    check_seal,
    is_being_written,
)
from data.format.shard_list import Listed, locate
from data.format.sparse import SparseFile
from data.format.spec import canonical_json
from data.format.text_heaps import DamagedTextError, check_heaps, check_references

TEXT_LIMIT = 16 << 20
_ALIGN_FROM, _ALIGN = 4096, 64
# What h5py raises for damaged files.
_ODD = (OSError, LookupError, RuntimeError, ValueError, TypeError, ArithmeticError)
Answer = TypeVar("Answer")


def _guarded(method: Callable[..., Answer]) -> Callable[..., Answer]:
    """Turn whatever h5py raises for a damaged file into a `StoreError`."""

    @functools.wraps(method)
    def guarded(self: StoreFile, *args: Any) -> Answer:
        try:
            return method(self, *args)
        except _ODD as error:
            raise _damaged(self.path, error) from error

    return guarded


def _damaged(path: Path, error: Exception) -> StoreError:
    reason = " ".join(str(error).split())[:200]
    return StoreError(f"{path} is damaged: {reason}. {AGAIN}")


class StoreFile:
    """An HDF5 file open for reading, of which nothing is believed unchecked."""

    def __init__(self, path: Path, file: h5py.File, descriptor: int, seal: int | None) -> None:
        self.path = path
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self.sealed = seal == SEAL_VERSION
        self.foreign_seal = seal is not None and not self.sealed
        self._file = file

    @_guarded
    def version(self) -> object:
        """Return the root attribute ``schema_version``, or None."""
        return self._file.attrs.get("schema_version")

    @_guarded
    def says(self, name: str) -> bool:
        """Say whether the root has an attribute of this name."""
        return name in self._file.attrs

    @_guarded
    def has(self, name: str) -> bool:
        """Say whether the file has an object of this name."""
        return self._find(name) is not None

    @_guarded
    def text(self, name: str, node: Any = None) -> str:
        """Return a text attribute, of bounded size, of the root or of another object."""
        node = self._file if node is None else node
        if name not in node.attrs:
            raise StoreError(
                f"{self.path} is not a feature store: {node.name} has no {name!r}. {AGAIN}"
            )
        found = node.attrs.get_id(name)
        if found.shape != () or h5py.check_string_dtype(found.dtype) is None:
            raise StoreError(f"{self.path}: attribute {name!r} of {node.name} is not text. {AGAIN}")
        text = node.attrs[name] if found.get_storage_size() <= TEXT_LIMIT else None
        if text is None or len(text) > TEXT_LIMIT:
            raise StoreError(f"{self.path}: attribute {name!r} has more than {TEXT_LIMIT:,} bytes")
        return text.decode("utf-8") if isinstance(text, bytes) else str(text)

    @_guarded
    def number(self, name: str) -> int:
        """Return a whole number that is an attribute of the root."""
        value = self._file.attrs.get(name)
        if not isinstance(value, int | np.integer):
            raise StoreError(f"{self.path}: it has no number {name!r}. {AGAIN}")
        return int(value)

    @_guarded
    def stored(self, name: str) -> Stored:
        """Find a dataset, and make sure that it lies in this file, whole, before it is read."""
        node = self._find(name)
        if node is None:
            raise StoreError(f"{self.path} is not a feature store: it has no {name}. {AGAIN}")
        if not isinstance(node, h5py.Dataset):
            raise StoreError(f"{self.path}: {name} is not a dataset. {AGAIN}")
        layout = node.id.get_create_plist()
        if node.is_virtual and "shards" in node.attrs and node.shape is not None:
            return self._in_shards(name, node)
        if layout.get_external_count() or node.is_virtual:
            raise StoreError(f"{self.path}: {name} is kept in other files, which are not read")
        if layout.get_layout() != h5py.h5d.CONTIGUOUS or node.shape is None:
            raise StoreError(f"{self.path}: {name} is not stored contiguously, as schema 1 asks")
        text = h5py.check_string_dtype(node.dtype)
        dtype = TEXT if text is not None and text.length is None else node.dtype
        found = Stored(name, node.shape, dtype, node.id.get_offset() or 0, "")
        held = node.id.get_storage_size()
        if found.nbytes != held or found.offset + held > self.size:
            raise StoreError(
                f"{self.path} is damaged: {name} of shape {node.shape} needs {found.nbytes:,} "
                f"bytes, and the file of {self.size:,} bytes has {held:,} for it. {AGAIN}"
            )
        return replace(found, sha256=self.text("sha256", node))

    def texts(self, stored: Stored) -> list[str]:
        """Read a dataset of texts."""
        try:
            if not self.sealed:  # then nothing has proved where its references lead
                check_references(self.descriptor, stored.offset, stored.shape[0], self.size)
            return [text.decode("utf-8") for text in self._text_bytes(stored.name)]
        except (DamagedTextError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.path} is damaged: {stored.name}: {error}. {AGAIN}") from error

    @_guarded
    def _text_bytes(self, name: str) -> list[bytes]:
        found: list[bytes] = self._find(name)[()].tolist()
        return found

    def _in_shards(self, name: str, node: Any) -> Stored:
        wanted = Stored(name, node.shape, node.dtype, 0, self.text("sha256", node))
        text, key = self.text("shards", node), self.text("key")
        return replace(wanted, runs=locate(self.path, key, wanted, text, opened))

    def _find(self, name: str) -> Any:
        """Walk down the groups, link by link: h5py itself would follow links to other files."""
        node: Any = self._file
        for part in name.strip("/").encode().split(b"/"):
            if not isinstance(node, h5py.Group) or not node.id.links.exists(part):
                return None
            if node.id.links.get_info(part).type != h5py.h5l.TYPE_HARD:
                raise StoreError(
                    f"{self.path}: {name} is a link to elsewhere, which is not followed. {AGAIN}"
                )
            node = node[part]
        return node


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[StoreFile]:
    """Open an HDF5 file that may be damaged or hostile; what goes wrong becomes a `StoreError`.

    The seal is checked on the very bytes that HDF5 then reads, through one descriptor, so a
    file that is replaced meanwhile is read whole, old or new. No HDF5 lock is taken.
    """
    path = Path(path)
    try:
        stream = open(in_bytes(path), "rb", buffering=0)  # noqa: SIM115 - closed below
    except FileNotFoundError as error:
        raise StoreError(f"{path} does not exist. Write it with python -m extract") from error
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror}. Give a feature store, FEATURES_DIR/DATASET/*.h5"
        ) from error
    with stream:
        try:
            _check_start(path, stream)
            if is_being_written(stream.fileno()):
                raise StoreError(
                    f"{path} is open for writing in another program, or one ended without closing "
                    f"it. Close it there and try again; if nothing has it open: {AGAIN}"
                )
            seal = check_seal(stream.fileno())
            if seal != SEAL_VERSION:  # then HDF5 is the first to meet what may be damage
                check_heaps(stream.fileno(), os.fstat(stream.fileno()).st_size)
            try:
                file = h5py.File(stream, "r")
            except _ODD as error:
                raise _damaged(path, error) from error
            with file:
                yield StoreFile(path, file, stream.fileno(), seal)
        except (BrokenSealError, DamagedTextError) as error:
            raise StoreError(f"{path} is damaged: {error}. {AGAIN}") from error
        except MemoryError as error:
            raise StoreError(f"{path} does not fit into the memory that is free") from error
        except (OSError, EOFError) as error:  # the disk, or a writer that cuts the file
            raise _damaged(path, error) from error


@contextlib.contextmanager
def foreign_file(path: Path) -> Iterator[Any]:
    """Open an HDF5 file of another program for reading; what goes wrong becomes a `StoreError`."""
    try:
        with open(in_bytes(path), "rb", buffering=0) as stream:
            if is_being_written(stream.fileno()):
                raise StoreError(f"{path} is open for writing in another program; close it there")
            check_heaps(stream.fileno(), os.fstat(stream.fileno()).st_size)
            with h5py.File(stream, "r") as file:
                yield file
    except (DamagedTextError, *_ODD) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreError(
            f"{path} cannot be read as HDF5 ({reason}); it is damaged, cut off or something else: "
            "write it again, or give another file"
        ) from error


def _check_start(path: Path, stream: Any) -> None:
    start = stream.read(len(SIGNATURE))
    if not start:
        raise StoreError(f"{path} is empty, not a feature store. {AGAIN}")
    if start != SIGNATURE:
        raise StoreError(
            f"{path} is not an HDF5 file: it begins with {start!r}. Give the path of a feature "
            "store, FEATURES_DIR/DATASET/*.h5"
        )


class Skeleton:
    """An HDF5 file being made in memory, without the content of its arrays.

    Datasets are allocated at once, so that their content can go to its place on the disk by
    plain writes; HDF5's own bytes follow when all digests are known.
    """

    def __init__(self) -> None:
        self._bytes = SparseFile()
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_fileobj_driver(h5py.h5fd.fileobj_driver, self._bytes)
        access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
        access.set_alignment(_ALIGN_FROM, _ALIGN)
        access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
        made = h5py.h5f.create(b"in memory", h5py.h5f.ACC_TRUNC, _timeless("FILE_CREATE"), access)
        self._file = h5py.File(made)
        self.extents: dict[str, Extent] = {}

    def add(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Allocate an array of numbers."""
        early = _timeless("DATASET_CREATE")
        early.set_layout(h5py.h5d.CONTIGUOUS)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        group, _, leaf = name.strip("/").rpartition("/")
        parent = self._group(group)
        kind = h5py.h5t.py_create(np.dtype(dtype).newbyteorder("<"))
        space = h5py.h5s.create_simple(shape)
        made = h5py.h5d.create(parent.id, leaf.encode(), kind, space, early)
        self.extents[name] = (made.get_offset() or 0, made.get_storage_size())

    def add_virtual(
        self, name: str, shape: tuple[int, int], dtype: npt.DTypeLike, shards: Sequence[Listed]
    ) -> None:
        """Add a table whose rows lie in shards; NaN is read where one is missing."""
        properties = _timeless("DATASET_CREATE")
        properties.set_fill_value(np.array(np.nan, np.dtype(dtype)))
        position = 0
        for shard in shards:
            for first, count in shard.runs:
                there = h5py.h5s.create_simple((shard.stop - shard.start, shape[1]))
                there.select_hyperslab((first, 0), (count, shape[1]))
                here = h5py.h5s.create_simple(shape)
                here.select_hyperslab((position, 0), (count, shape[1]))
                properties.set_virtual(here, shard.file.encode(), b"/features", there)
                position += count
        group, _, leaf = name.strip("/").rpartition("/")
        kind = h5py.h5t.py_create(np.dtype(dtype).newbyteorder("<"))
        parent = self._group(group)
        h5py.h5d.create(parent.id, leaf.encode(), kind, h5py.h5s.create_simple(shape), properties)
        self.annotate({"shards": canonical_json([shard.to_json() for shard in shards])}, name)

    def _group(self, name: str) -> h5py.Group:
        node = self._file
        for part in name.split("/") if name else []:
            if part not in node:
                h5py.h5g.create(node.id, part.encode(), gcpl=_timeless("GROUP_CREATE"))
            node = node[part]
        return node

    def add_texts(self, name: str, texts: list[str]) -> None:
        """Add a dataset of texts, with its content."""
        self._file.create_dataset(name, data=texts, shape=(len(texts),), dtype=h5py.string_dtype())

    def annotate(self, values: Mapping[str, str | int], name: str = "/") -> None:
        """Set attributes."""
        for key, value in values.items():
            self._file[name].attrs[key] = value

    def write(self, name: str, descriptor: int, array: npt.NDArray[Any]) -> str:
        """Write an array to its place on the disk, and return its digest."""
        content = raw_bytes(np.ascontiguousarray(array))
        write_at(descriptor, self.extents[name][0], content)
        return hashlib.sha256(content).hexdigest()

    def discard(self) -> None:
        """Close the file without writing it anywhere."""
        self._file.close()

    def finish(self, descriptor: int) -> None:
        """Write HDF5's own bytes around the arrays, and the seal after them."""
        self._file.close()
        outside = sorted(extent for extent in self.extents.values() if extent[1])
        position = 0
        for offset, length in [*outside, (self._bytes.size, 0)]:
            self._bytes.seek(position)
            write_at(descriptor, position, memoryview(self._bytes.read(offset - position)))
            position = offset + length
        append_seal(descriptor, self._bytes.size, outside)


def _timeless(kind: str) -> Any:
    """Make creation properties without times, which would make equal files differ."""
    properties = h5py.h5p.create(getattr(h5py.h5p, kind))
    properties.set_obj_track_times(False)
    return properties
