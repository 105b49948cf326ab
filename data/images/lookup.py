"""The images behind rows of a store, for looking at: found by their ids, where they lie now.

Nothing is downloaded, and nothing is unpacked: images that are not at hand are a `UserError` that
says why.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from data.common.files import stat_stamp
from data.format.spec import IMPORTED
from data.images.arrays import RecordImages, Records
from data.images.decode import decode_image
from data.images.sources.registry import TABLES
from data.images.splits import folder_of_test_rows, folder_of_training_rows
from data.images.tables.columns import ROLES

Picture = npt.NDArray[np.uint8]
# Kinds of origin whose images are found by what the origin says -> the module of the source.
_BY_ORIGIN = {"hf": "hf", "wds": "wds", "torchvision": "torchvision", "python": "sequences"}


def find_pictures(
    request: Mapping[str, Any],
    ids: Sequence[str],
    data_dir: Path | None = None,
    decode: Callable[[Path], Picture] = decode_image,
    origin: Mapping[str, Any] | None = None,
) -> list[Picture]:
    """Read test images of a store; `decode` reads those that are files.

    `origin` is what the store's provenance says of its data set.

    Shape: (height, width, 3).
    """
    if origin is not None and origin.get("kind") in _BY_ORIGIN:
        return _by_origin(origin, ids, data_dir, decode)
    stamp = (request.get("files") or {}).get("dataset") or {}
    name, path = str((request.get("options") or {}).get("dataset", "")), str(stamp.get("path", ""))
    if not name or not path:
        raise UserError("the store does not say where its images came from")
    if IMPORTED in (request.get("options") or {}):
        return _of_imported(name, path, stamp, ids, data_dir, decode)
    if name == "digits":
        return _digits(ids)
    if name == "elpv":
        from data.images.sources.elpv import find_elpv

        return _folder(find_elpv(), ids, decode)
    if name in ("cifar10", "cifar100"):
        return _cifar(name, Path(path).parent if data_dir is None else data_dir, stamp, ids)
    if Path(path).suffix.lower() in TABLES:
        return _table(Path(path), request["options"], ids, data_dir, decode)
    held_out = request["options"].get("test_fraction") is not None
    return _folder(Path(path) if data_dir is None else data_dir, ids, decode, held_out)


def _by_origin(
    origin: Mapping[str, Any],
    ids: Sequence[str],
    data_dir: Path | None,
    decode: Callable[[Path], Picture],
) -> list[Picture]:
    """Read images where their source says they are: files, or a container that it opens."""
    kind = str(origin["kind"])
    if "files" in origin:
        there = None if data_dir is None else all((data_dir / name).is_file() for name in ids)
        return _files(
            Path(origin["files"]) if not there or data_dir is None else data_dir, ids, decode
        )
    module = importlib.import_module(f"data.images.sources.{_BY_ORIGIN[kind]}")
    if not hasattr(module, "images_of"):
        raise UserError(f"the images are not files: {origin.get('source')} gives them as arrays")
    try:
        images = module.images_of(origin, ids)
    except (KeyError, TypeError) as error:  # written by an older version, or by another program
        raise UserError("the store does not say where its images came from") from error
    return [images.decode(row) for row in range(len(ids))]


def _of_imported(
    name: str,
    path: str,
    stamp: Mapping[str, Any],
    ids: Sequence[str],
    data_dir: Path | None,
    decode: Callable[[Path], Picture],
) -> list[Picture]:
    """Read the images that the ids of imported features name, where the user says that they are."""
    if data_dir is None:
        raise UserError(f"the features were imported from {Path(path).name}, without images")
    if name in ("cifar10", "cifar100"):
        return _cifar(name, data_dir, stamp, ids)
    return _folder(data_dir, ids, decode)


def _digits(ids: Sequence[str]) -> list[Picture]:
    from data.images.arrays import ArrayImages
    from data.images.sources.digits import read
    from data.images.sources.registry import SourceRequest

    test = read(SourceRequest("digits", Path("."))).test
    assert isinstance(test.images, ArrayImages)
    rows = {name: row for row, name in enumerate(test.ids)}
    missing = [name for name in ids if name not in rows]
    if missing:
        raise UserError(f"scikit-learn's digits have no test image {missing[0]}")
    return [test.images.array[rows[name]] for name in ids]


def _cifar(
    name: str, data_dir: Path, stamp: Mapping[str, Any], ids: Sequence[str]
) -> list[Picture]:
    from data.images.sources.cifar import ARCHIVES, CifarReader, cifar_sha256, locate

    archive = ARCHIVES[name]
    location = locate(archive, data_dir, None, None)
    if not location.exists:
        raise UserError(f"there is no {archive.archive} or {archive.folder} in {data_dir}")
    members = archive.members if location.kind == "folder" else None
    if stat_stamp(location.path, members) != stamp.get("stat"):
        # Another copy, or another kind of copy, whose digest is of other bytes: then its labels
        # and sizes are all that can be checked, and the reader checks the sizes.
        same_kind = Path(str(stamp.get("path"))).name == location.path.name
        if same_kind and cifar_sha256(archive, location) != stamp.get("sha256"):
            raise UserError(f"{location.path} is not the file that the features were made of")
    wanted = [_record(archive.records, location.path, identity) for identity in ids]
    reader = CifarReader(archive, {member for member, _ in wanted})
    if location.kind == "folder":
        reader.read_folder(location.path)
    else:
        reader.read_archive(location.path)
    return [reader.images[member][row] for member, row in wanted]


def _record(records: Mapping[str, int], location: Path, identity: str) -> tuple[str, int]:
    member, _, row = identity.rpartition(":")
    if not row.isdecimal() or int(row) >= records.get(member, 0):
        raise UserError(f"{location} has no image {identity}")
    return member, int(row)


def _table(
    path: Path,
    options: Mapping[str, Any],
    ids: Sequence[str],
    data_dir: Path | None,
    decode: Callable[[Path], Picture],
) -> list[Picture]:
    """Read images that a table names, or holds; its names may lead anywhere."""
    if path.suffix.lower() == ".parquet":
        from data.images.tables.parquet import read_parquet

        if data_dir is not None and (data_dir / path.name).is_file():
            path = data_dir / path.name
        table = read_parquet(path, {role: options.get(f"{role}_column") for role in ROLES})
        if table.records is not None:
            return _records(table.records, table.names, ids, path)
    root = data_dir or Path(options.get("image_root") or path.parent)
    missing = [name for name in ids if not (root / name).is_file()]
    if missing:
        raise UserError(f"there is no image {missing[0]} in {root}")
    return [decode(root / name) for name in ids]


def _records(
    records: Records, names: Sequence[str], ids: Sequence[str], path: Path
) -> list[Picture]:
    rows = {name: row for row, name in enumerate(names)}
    missing = [name for name in ids if name not in rows]
    if missing:
        raise UserError(f"there is no image {missing[0]} in {path}")
    images = RecordImages(records, np.array([rows[name] for name in ids], np.int64))
    return [images.decode(i) for i in range(len(images))]


def _folder(
    root: Path, ids: Sequence[str], decode: Callable[[Path], Picture], held_out: bool = False
) -> list[Picture]:
    if not root.is_dir():
        raise UserError(f"the folder {root} is not there")
    # Ids count from the folder of the split, where there is one.
    base = folder_of_training_rows(root) if held_out else folder_of_test_rows(root)
    if ids and not (base / PurePosixPath(ids[0])).is_file():  # or from the folder itself
        base = root
    return _files(base, ids, decode)


def _files(base: Path, ids: Sequence[str], decode: Callable[[Path], Picture]) -> list[Picture]:
    pictures = []
    for name in ids:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or not (base / parts).is_file():
            raise UserError(f"there is no image {name} in {base}")
        pictures.append(decode(base / parts))
    return pictures
