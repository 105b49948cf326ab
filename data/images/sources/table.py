"""A table of images with their labels, and their splits, groups and weights where it has them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from data.common.cli import log
from data.common.files import stat_stamp
from data.images.arrays import RawDataset
from data.images.sources.registry import SourceRequest, absolute, dataset_name
from data.images.tables.build import build_dataset
from data.images.tables.columns import split_choice
from data.images.tables.files import ImageFolder
from data.images.tables.json_lines import names_in_json_lines, read_json_lines
from data.images.tables.parquet import names_in_parquet, read_parquet
from data.images.tables.records import Table
from data.images.tables.text import names_in_text, read_text

Asked = Mapping[str, str | None]


class Format(NamedTuple):
    """How a kind of table is read: whole, and for the names of its images alone."""

    read: Callable[[Path, Asked], Table]
    names: Callable[[Path, Asked], Iterator[str]]


TEXT = Format(read_text, names_in_text)
FORMATS = {
    ".csv": TEXT,
    ".tsv": TEXT,
    ".txt": TEXT,
    ".jsonl": Format(read_json_lines, names_in_json_lines),
    ".parquet": Format(read_parquet, names_in_parquet),
}


def read(asked: SourceRequest) -> RawDataset:
    """Read a table; image files are only looked for, and images in Parquet stay where they are."""
    path = absolute(asked.dataset)
    table = FORMATS[path.suffix.lower()].read(path, asked.columns)
    columns = [f"images from {table.image_column}"]
    for role in ("label", "split", "group", "weight"):
        column = getattr(table, role)
        if column is not None:
            columns.append(f"{role}s from {column.name}")
    log(f"{path.name}: {len(table):,} rows, {', '.join(columns)}")
    names = () if table.split is None else (table.split.name,)
    choice = split_choice(asked.columns.get("split"), names)
    return build_dataset(table, dataset_name(asked.dataset), _root(asked, path), choice)


def fingerprint(asked: SourceRequest) -> dict[str, str]:
    """Tell the state of the table and of the image files that it names, without pandas."""
    path, root = absolute(asked.dataset), _root(asked, absolute(asked.dataset))
    names, _ = ImageFolder(root).resolve(
        list(FORMATS[path.suffix.lower()].names(path, asked.columns))
    )
    # The order of the rows is in the table's own.
    stamps = (stat_stamp(path), stat_stamp(root, sorted({name for name in names if name})))
    return {"path": str(path), "stat": hashlib.sha256("\n".join(stamps).encode()).hexdigest()}


def source_sha256(_: SourceRequest) -> None:
    """Leave it to the digests of the images."""


def _root(asked: SourceRequest, path: Path) -> Path:
    return path.parent if asked.image_root is None else absolute(asked.image_root)
