"""skops files of plain values, with at most one estimator around them: same bytes for the same.

A skops file is a zip archive of a JSON text and of numpy's arrays. Ours hold texts, numbers, lists,
tuples, dicts and arrays of numbers or texts; what `read_file` is told to expect may stand around
them. Anything else that a file holds is refused before anything of it is made, so that no code runs
and no object of a stranger's choice is built. Arrays are numbered in their order, and nothing tells
the time.
"""

from __future__ import annotations

import io
import json
import sys
import types
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data.common.errors import UserError
from data.common.files import atomic_path
from data.common.memory import free_memory

_SCHEMA = "schema.json"
# What may be in a file: how skops reads it, and as what.
_PLAIN = {
    ("DictNode", "builtins.dict"),
    ("ListNode", "builtins.list"),
    ("TupleNode", "builtins.tuple"),
    ("JsonNode", "builtins.str"),  # a text, a number, true, false or null
    ("NdArrayNode", "numpy.ndarray"),
    ("TypeNode", "builtins.str"),  # of the names in a dict
}


class SkopsFileError(ValueError):
    """A file is damaged or holds what it may not; the message does not name it."""


def plain(value: Any, where: str) -> Any:
    """Turn a state into what `_PLAIN` lists; a ``TypeError`` says what is something else."""
    if isinstance(value, Mapping) and all(type(name) is str for name in value):
        return {name: plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, where) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return np.ascontiguousarray(value)
    if isinstance(value, np.generic) and value.dtype.kind in "fiubU":
        return value.item()
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which no file of a head may hold")


def write_file(path: Path, value: Any) -> int:
    """Write a value under its final name, in a folder that exists, and return the file's bytes."""
    stored = io.BytesIO()
    with imported_skops() as skops:
        skops.dump(value, stored)
    with atomic_path(path) as temporary, zipfile.ZipFile(stored) as archive:
        _in_order(archive, temporary)
        return temporary.stat().st_size


def _in_order(archive: zipfile.ZipFile, path: Path) -> None:
    """Write what skops has written without addresses of memory and times, and compress it."""
    schema = json.loads(archive.read(_SCHEMA))
    names: dict[str, str] = {}
    for node in _nodes(schema):
        node.pop("__id__", None)  # where it lay in memory
        if "file" in node:
            node["file"] = names.setdefault(node["file"], f"{len(names)}.npy")
    text = json.dumps(schema, separators=(",", ":")).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as ordered:
        for old, new in names.items():
            with archive.open(old) as source, ordered.open(_member(new), "w") as target:
                while block := source.read(1 << 20):
                    target.write(block)
        ordered.writestr(_member(_SCHEMA), text)


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)  # of 1980
    member.compress_type = zipfile.ZIP_DEFLATED
    return member


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield everything that skops would make an object of, in the order of the text."""
    waiting = [schema]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "__loader__" in item or "__class__" in item:
                yield item
            waiting += reversed(list(item.values()))
        elif isinstance(item, list):
            waiting += reversed(item)


@contextmanager
def imported_skops() -> Iterator[Any]:
    """Import skops, which asks all of scikit-learn for its types, without torch.

    One of scikit-learn's modules loads torch, which takes seconds; nothing of it is needed here.
    """
    bridge = "sklearn.externals.array_api_compat.torch"
    absent = bridge not in sys.modules and "torch" not in sys.modules
    if absent:
        sys.modules[bridge] = types.ModuleType(bridge)
    try:
        import skops.io
    except ImportError as error:
        raise UserError(
            f"heads that are not linear, and estimators, are kept in skops files, and skops is "
            f"missing ({error}); install it: pip install skops"
        ) from error
    finally:
        if absent:
            del sys.modules[bridge]
    yield skops.io


def is_zip(path: Path) -> bool:
    """Tell a zip archive, as skops files are, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


@contextmanager
def damage_told(path: Path, wanted: str) -> Iterator[None]:
    """Turn what a damaged file brings about into a `UserError` with what is `wanted` instead."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise UserError(
            f"{path} cannot be read as skops ({error}); it is damaged or something else: {wanted}"
        ) from error


def root_type(path: Path, wanted: str) -> str:
    """Return the name of the type that a file holds, such as ``builtins.dict``; loads nothing."""
    with damage_told(path, wanted), zipfile.ZipFile(path) as archive:
        return _name(_schema(path, archive, wanted))


def read_file(path: Path, wanted: str, roots: Collection[str] = ()) -> Any:
    """Read what a file holds: plain values, or one of the types `roots` made of plain values.

    A `UserError` says that it is no skops file or holds something else, with what is `wanted`; a
    `SkopsFileError` what is wrong with one that may be ours.
    """
    with zipfile.ZipFile(path) as archive:
        schema = _schema(path, archive, wanted)
        needed, free = sum(member.file_size for member in archive.infolist()), free_memory()
        if 2 * needed > free:
            raise SkopsFileError(f"it needs {2 * needed:,} bytes of memory, and {free:,} are free")
        trusted = [name for name in roots if name == _name(schema)]
        _check_types(path, schema, trusted)
    with imported_skops() as skops:
        try:
            return skops.load(path, trusted=trusted)
        except (MemoryError, OSError, zipfile.BadZipFile, zlib.error, EOFError):
            raise
        except Exception as error:  # what numpy and skops raise of a changed file has no list
            raise SkopsFileError(f"skops finds fault with it ({error})") from error


def _schema(path: Path, archive: zipfile.ZipFile, wanted: str) -> dict[str, Any]:
    if _SCHEMA not in archive.namelist():
        raise UserError(f"{path} is a zip archive but not a skops file; {wanted}")
    try:
        schema = json.loads(archive.read(_SCHEMA))
    except (ValueError, RecursionError) as error:
        raise SkopsFileError(f"its {_SCHEMA} is not JSON ({error})") from error
    if not isinstance(schema, dict):
        raise SkopsFileError(f"its {_SCHEMA} is no object")
    return schema


def _name(node: Mapping[str, Any]) -> str:
    return f"{node.get('__module__')}.{node.get('__class__')}"


def _check_types(path: Path, schema: dict[str, Any], roots: Collection[str]) -> None:
    """Refuse what a head does not hold before skops makes anything of the file."""
    for node in _nodes(schema):
        loader, kind = node.get("__loader__"), _name(node)
        if node is schema and loader == "ObjectNode" and kind in roots:
            continue
        numbers = node.get("type") == "numpy" or loader != "NdArrayNode"
        if (loader, kind) not in _PLAIN or not numbers:
            raise UserError(
                f"{path} holds a {kind} ({loader}), and heads of Icebox hold "
                "texts, numbers and arrays only; it was made by something else or changed, and "
                "nothing of it has been loaded: fit again to get a new one"
            )
