"""Data sets of Hugging Face's ``datasets``, ``hf:NAME_OR_FOLDER[:config]``.

A folder may hold class folders of images, Parquet files with images in them, or what
``save_to_disk`` wrote; it needs no network. A name is downloaded once. Columns are found by their
features (Image, ClassLabel). Images are taken as the files they were, undecoded, so that they give
the rows that the files give. What ``datasets`` keeps lies in ``--data-dir``.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.common.cli import log
from data.common.errors import UserError, nearest
from data.common.files import stat_stamp
from data.common.packages import install_extra, package_folder, package_version
from data.images.arrays import EncodedImages, FileImages, RawDataset, RecordImages
from data.images.sources.assembly import Listed, Rows, assemble, file_images
from data.images.sources.registry import SourceRequest, absolute
from data.images.splits import split_of
from data.images.tables.columns import split_choice
from data.images.tables.features import feature_columns

if TYPE_CHECKING:
    import datasets

PREFIX = "hf:"
CACHE = "huggingface"  # below --data-dir
BLOCK = 10_000  # rows whose names are read at once


class HubImages:
    """The images of all parts of a data set, one part after another: what workers get."""

    def __init__(self, parts: Mapping[str, datasets.Dataset], column: str, where: str) -> None:
        self.names, self.parts = list(parts), list(parts.values())
        self.column, self.where = column, where
        self.starts = [0, *itertools.accumulate(map(len, self.parts))]

    def read(self, row: int) -> bytes:
        """Read the file of an image."""
        part = bisect.bisect_right(self.starts, row) - 1
        cell = self.parts[part][row - self.starts[part]][self.column]
        if cell is None:
            raise UserError(f"{self.name(row)} has no image; leave the row out")
        if cell["bytes"] is not None:
            content: bytes = cell["bytes"]
            return content
        try:
            return Path(cell["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise UserError(
                f"{self.name(row)} has no bytes, only the path {cell['path']}, which cannot be "
                "read; write the data set again with the images in it (save_to_disk)"
            ) from error

    def name(self, row: int) -> str:
        """Name an image by its split and row."""
        part = bisect.bisect_right(self.starts, row) - 1
        return f"{self.where}: row {row - self.starts[part]} of {self.names[part]}"


def fingerprint(asked: SourceRequest) -> dict[str, str] | None:
    """Tell what lies in the folder, or in the cache of a name; None where it was not fetched."""
    name, _ = split_name(asked.dataset)
    folder = absolute(name)
    if folder.is_dir():
        # Not the stamp of the folder as a folder of images: that has other ids.
        stat = hashlib.sha256(f"hf {stat_stamp(folder, _files(folder))}".encode()).hexdigest()
        return {"path": str(folder), "stat": stat}
    cache = absolute(asked.data_dir) / CACHE
    wanted = _plain(name.replace("/", "___"))
    kept = [e for e in _entries(cache) if e.is_dir() and _plain(e.name) == wanted]
    if not kept:
        return None
    files = [f"{entry.name}/{file}" for entry in kept for file in _files(Path(entry.path))]
    return {"path": str(cache), "stat": stat_stamp(cache, files)}


def source_sha256(_: SourceRequest) -> None:
    """Leave it to the digests of the images."""


def read(asked: SourceRequest) -> RawDataset:
    """Open a data set, find its columns, and list its rows."""
    if package_folder("datasets") is None:
        raise UserError(
            f"--dataset {asked.dataset} needs the package datasets, which is not installed; "
            f"{install_extra('hf')} installs it"
        )
    name, config = split_name(asked.dataset)
    parts = _open(asked, name, config)
    features = next(iter(parts.values())).features
    columns = feature_columns(asked.dataset, asked.columns, features)
    log(f"{asked.dataset}: " + ", ".join(f"{kind}s from {name}" for kind, name in columns.items()))
    column = columns["image"]
    images = _images(parts, column)
    folder = absolute(name) if absolute(name).is_dir() else None
    listed = _list(asked, columns, parts, HubImages(images, column, asked.dataset), folder)
    first = next(iter(parts.values()))
    names = getattr(features[columns["label"]], "names", None)
    origin = {
        "source": asked.dataset if folder is None else f"{PREFIX}{folder}{_suffix(config)}",
        "columns": columns,
        "config": config,
        "datasets": package_version("datasets"),
        "fingerprint": getattr(first, "_fingerprint", None),
    }
    if any(isinstance(rows.images, FileImages) for rows in listed.values()):
        origin["files"] = str(folder)  # what ids count from
    path = str(folder or absolute(asked.data_dir) / CACHE)
    return assemble(asked, Listed(listed, path, class_names=names, origin=origin), kind="hf")


def images_of(origin: Mapping[str, Any], ids: Sequence[str]) -> RecordImages:
    """Find images of a store by their ids, as they lie now; nothing is downloaded."""
    if package_folder("datasets") is None:
        raise UserError("the package datasets is not installed")
    import datasets

    word, column = str(origin["source"]), str(origin["columns"]["image"])
    path = Path(origin["path"])
    asked = SourceRequest(word, path.parent if path.name == CACHE else path)
    if path.name != CACHE and not path.is_dir():
        raise UserError(f"the folder {path} is not there")
    with _offline(datasets):
        parts = _open(asked, *split_name(word))
    records = HubImages(_images(parts, column), column, word)
    rows = []
    for name in ids:
        part, _, row = name.rpartition("/")
        count = len(parts[part]) if part in parts else 0
        if not row.isdecimal() or int(row) >= count:
            raise UserError(f"{word} has no image {name}")
        rows.append(records.starts[records.names.index(part)] + int(row))
    return RecordImages(records, np.array(rows, dtype=np.int64))


@contextlib.contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """Keep ``datasets`` from the network."""
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _images(parts: Mapping[str, datasets.Dataset], column: str) -> dict[str, datasets.Dataset]:
    """Leave the images alone of each part, undecoded."""
    import datasets

    return {
        name: part.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        for name, part in parts.items()
    }


def split_name(dataset: str) -> tuple[str, str | None]:
    """Split ``hf:NAME[:config]``; a folder whose name has a colon keeps it."""
    word = dataset.removeprefix(PREFIX)
    if not word:
        raise UserError(f"--dataset {dataset} names nothing; give hf:OWNER/NAME or hf:FOLDER")
    if absolute(word).is_dir() or ":" not in word:
        return word, None
    name, _, config = word.rpartition(":")
    return name, config or None


def _suffix(config: str | None) -> str:
    return "" if config is None else f":{config}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(folder) as listing:
        return sorted(listing, key=lambda entry: entry.name)
    return []


def _files(folder: Path) -> list[str]:
    """Name what lies below a folder, without what is hidden and without locks."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        below = Path(place).relative_to(folder)
        found += [
            (below / name).as_posix()
            for name in files
            if name[0] != "." and not name.endswith(".lock")
        ]
    return found


def _open(asked: SourceRequest, name: str, config: str | None) -> dict[str, datasets.Dataset]:
    """Open the parts of a data set, by their own names."""
    import datasets

    folder = absolute(name)
    if not folder.is_dir() and (folder.exists() or name[0] in "./~"):
        raise UserError(
            f"--dataset {asked.dataset}: there is no folder {folder}; give a folder of class "
            "folders, of Parquet files or of save_to_disk, or the name of a data set of the Hub"
        )
    saved = folder / "dataset_dict.json", folder / "state.json"
    try:
        with _caches_in(absolute(asked.data_dir) / CACHE) as cache:
            if any(path.is_file() for path in saved):
                if config is not None:
                    raise ValueError(f"BuilderConfig {config!r} not found. Available: []")
                found = datasets.load_from_disk(str(folder))
            else:
                where = str(folder) if folder.is_dir() else name
                found = datasets.load_dataset(where, config, cache_dir=str(cache))
    except Exception as error:
        raise _explained(asked.dataset, name, config, error) from error
    return dict(found) if isinstance(found, dict) else {"train": found}


@contextlib.contextmanager
def _caches_in(folder: Path) -> Iterator[Path]:
    """Have what ``datasets`` downloads and writes in a folder, and not in the user's cache."""
    from huggingface_hub import constants

    before = constants.HF_HUB_CACHE
    constants.HF_HUB_CACHE = str(folder / "hub")
    try:
        yield folder
    finally:
        constants.HF_HUB_CACHE = before


def _explained(dataset: str, name: str, config: str | None, error: Exception) -> Exception:
    """Say in one message what ``datasets`` says in many ways."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for one in chain:
        if isinstance(one, MemoryError) or (
            isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        ):
            return one
    text, kinds = str(error).strip().split("\n")[0][:300], {type(one).__name__ for one in chain}
    option = f"--dataset {dataset}"
    if "BuilderConfig" in text or "Config name is missing" in text:
        known = re.findall(r"'([^']+)'", text.partition("vailable")[2])
        if not known:
            return UserError(f"{option}: it has no configurations; leave :{config} out")
        hint = nearest(config or "", known)
        asked = f"it has no configuration {config!r}" if config else "it has several configurations"
        return UserError(
            f"{option}: {asked}, but {', '.join(known[:20])}\ngive one: hf:{name}:{known[0]}"
            + (f"; {hint}" if hint else "")
        )
    if "DatasetNotFoundError" in kinds:
        return UserError(
            f"{option}: the Hugging Face Hub has no data set {name} that you may read, and there "
            f"is no folder of that name; check the name, or log in if it is private or gated: "
            "hf auth login"
        )
    if isinstance(error, ConnectionError) or kinds & {"OfflineModeIsEnabled", "ConnectError"}:
        return UserError(
            f"{option}: there is no folder {name} here, and the Hugging Face Hub cannot be reached "
            f"({text})\nconnect to a network (HF_HUB_OFFLINE must not be set), or fetch the data "
            "set elsewhere and give its folder: hf:FOLDER"
        )
    if kinds & {"EmptyDatasetError", "DataFilesNotFoundError"} or "data file" in text:
        return UserError(
            f"{option}: {text}; class folders of images, Parquet files or what save_to_disk wrote "
            "are expected in it"
        )
    last = str(chain[-1]).strip().split("\n")[0][:300]
    return UserError(
        f"{option} cannot be read by datasets {package_version('datasets')}: "
        f"{last or text or type(error).__name__}\nopen it with datasets.load_dataset to find out "
        "more, or export it to Parquet or to a folder of images"
    )


def _list(
    asked: SourceRequest,
    columns: Mapping[str, str],
    parts: Mapping[str, datasets.Dataset],
    records: HubImages,
    folder: Path | None,
) -> dict[str, Rows]:
    """List the rows by split: by the column that is named for it, or by the parts' own names."""
    values: dict[str, list[Any]] = {
        kind: [value for part in parts.values() for value in part[name]]
        for kind, name in columns.items()
        if kind not in ("image", "split")
    }
    feature = next(iter(parts.values())).features[columns["label"]]
    if type(feature).__name__ == "ClassLabel":  # -1 is that of rows without one
        values["label"] = [None if v is None or v < 0 else int(v) for v in values["label"]]
    paths = None if folder is None else _paths(records, folder)
    ids = [f"{name}/{row}" for name, part in parts.items() for row in range(len(part))]
    if paths is not None:
        ids = [Path(os.path.relpath(path, folder)).as_posix() for path in paths]
    splits: dict[str, Rows] = {}
    for split, rows in _rows_of_splits(asked, columns, parts, records).items():
        images: EncodedImages = RecordImages(records, np.array(rows, dtype=np.int64))
        if paths is not None:
            images = file_images([paths[row] for row in rows])
        picked = {kind: [column[row] for row in rows] for kind, column in values.items()}
        splits[split] = Rows(
            images,
            picked["label"],
            [ids[row] for row in rows],
            picked.get("group"),
            picked.get("weight"),
        )
    return splits


def _rows_of_splits(
    asked: SourceRequest,
    columns: Mapping[str, str],
    parts: Mapping[str, datasets.Dataset],
    records: HubImages,
) -> dict[str, Sequence[int]]:
    """Find the rows of each split."""
    found: dict[str, list[int]] = {}
    if "split" in columns:
        column, row = columns["split"], 0
        chosen = split_choice(asked.columns.get("split"), (column,))
        for part in parts.values():
            texts = getattr(part.features[column], "names", None)
            for value in part[column]:
                text = texts[value] if texts is not None else str(value)
                split = split_of(chosen.get(text, "train") if chosen else text)
                if split is None:
                    raise UserError(
                        f"{records.name(row)}; the split column {column} has the value {text!r}; "
                        "train, val or test is expected, or say which values are which: "
                        f"--split-column {column}:test={text}"
                    )
                found.setdefault(split, []).append(row)
                row += 1
        return found  # type: ignore[return-value]
    for number, name in enumerate(parts):
        split = split_of(name) or ("train" if len(parts) == 1 else None)
        if split is None:
            log(f"{asked.dataset}: its part {name} is not read: no train, val or test")
            continue
        if split in found:
            raise UserError(
                f"--dataset {asked.dataset} has two parts that are the {split} split, of which "
                f"{name} is one; write it again with one"
            )
        found[split] = list(range(records.starts[number], records.starts[number + 1]))
    return found  # type: ignore[return-value]


def _paths(records: HubImages, folder: Path) -> list[str] | None:
    """Give the files of the images, where all are files below a folder; else None."""
    found: list[str] = []
    inside = str(folder) + os.sep
    for part in records.parts:
        plain = part.with_format("arrow")
        for start in range(0, len(part), BLOCK):
            column = plain[start : start + BLOCK].column(records.column)
            for chunk in column.chunks:
                if chunk.field("bytes").null_count < len(chunk):
                    return None
                found += chunk.field("path").to_pylist()
        if not all(path and path.startswith(inside) for path in found):
            return None
    return found
