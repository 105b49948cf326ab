"""The sources by kind, and how a user's word for a dataset chooses one.

A source is a module of this folder with three functions, and a line here:

``read(asked)``
    Read the dataset: names, labels, where the images are. Images themselves are read later.
``fingerprint(asked)``
    Tell cheaply what lies there now: ``path``, and ``stat``, a digest of the names, sizes and
    times of the files. None if there is nothing yet and it would be downloaded.
``source_sha256(asked)``
    Digest what would be read, for the case that its fingerprint has changed: what ``read`` puts in
    ``origin["sha256"]``. None for images in files, of which only ``read`` can tell.

A module is imported only when it is used: the fast path of stage one pays for nothing else.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data.common.datasets import BUILT_IN
from data.common.errors import UserError, nearest


@dataclass(frozen=True)
class SourceRequest:
    """What a user asked for, as far as it decides which images and labels there are."""

    dataset: str
    data_dir: Path
    data_url: str | None = None
    data_sha256: str | None = None
    test_fraction: float | None = None  # None where the source has a test split
    seed: int = 0  # of the rows that are held out
    # Which column is what: image, label, split, group, weight; None to look for the usual names
    columns: Mapping[str, str | None] = field(default_factory=dict)
    image_root: Path | None = None  # the folder that image names count from
    class_names_file: Path | None = None  # a line a class, for labels that are numbers
    merge_classes: tuple[str, ...] = ()  # ``a=b,c``: what becomes of classes
    drop_class: tuple[str, ...] = ()  # names of classes whose rows are left out
    given: Any = None  # of a Python program: its images, already listed


def _folder_or_word(word: str) -> str:
    """Name a folder, with a configuration behind a colon or without, or take a name as it is."""
    if absolute(word).is_dir():
        return absolute(word).name
    folder, _, config = word.rpartition(":")
    return f"{absolute(folder).name}-{config}" if folder and absolute(folder).is_dir() else word


def _folder_of_pattern(pattern: str) -> str:
    """Name the folder that a pattern of file names is about."""
    plain = re.split(r"[{*?\[]|::", pattern, maxsplit=1)[0]
    path = absolute(plain)
    return path.name if plain.endswith("/") or path.is_dir() else path.parent.name


class Kind(NamedTuple):
    """A kind of source."""

    name: str
    module: str  # of this folder
    takes_test_fraction: bool  # whether it may come without a test split
    prefix: str = ""  # of the user's word, such as ``hf:``
    suffixes: tuple[str, ...] = ()  # of a file
    called: Callable[[str], str] = str  # what is behind the prefix -> a short name
    roles: tuple[str, ...] = ()  # of columns that an option may name


TABLES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
_ROLES = ("image", "label", "split", "group", "weight")
KINDS = (
    Kind("cifar10", "cifar", False),
    Kind("cifar100", "cifar", False),
    Kind("digits", "digits", False),
    Kind("elpv", "elpv", False),
    Kind("folder", "folder", True),
    Kind("table", "table", True, suffixes=TABLES, roles=_ROLES),
    Kind("hf", "hf", True, "hf:", called=_folder_or_word, roles=_ROLES),
    Kind(
        *("wds", "wds", True, "wds:"),
        called=_folder_of_pattern,
        roles=("image", "label", "group", "weight"),
    ),
    Kind("torchvision", "torchvision", True, "torchvision:", called=str.lower),
    Kind("python", "sequences", True, "python:"),
)
_BY_NAME = {kind.name: kind for kind in KINDS}


def kind_of(dataset: str) -> Kind:
    """Find the kind of what the user typed."""
    if dataset in BUILT_IN:
        return _BY_NAME[dataset]
    for kind in KINDS:
        if kind.prefix and dataset.startswith(kind.prefix):
            return kind
    path = absolute(dataset)
    if dataset and path.is_dir():
        return _BY_NAME["folder"]
    for kind in KINDS:
        if path.suffix.lower() in kind.suffixes:
            return kind
    if dataset and path.exists():
        raise UserError(
            f"--dataset {dataset} is a file; give {', '.join(BUILT_IN)}, a folder of images, or a "
            f"table ({', '.join(_BY_NAME['table'].suffixes)}); an archive goes to --data-dir"
        )
    hint = nearest(dataset, BUILT_IN)
    raise UserError(
        f"unknown dataset {dataset!r}: it is not {', '.join(BUILT_IN[:-1])} or {BUILT_IN[-1]}, "
        f"and there is no folder of that name" + (f"; {hint}" if hint else "")
    )


def source(kind: Kind) -> Any:
    """Import the module of a kind."""
    return importlib.import_module(f"data.images.sources.{kind.module}")


def dataset_name(dataset: str) -> str:
    """Turn what the user typed into a short name for files and tables."""
    kind = kind_of(dataset)
    if kind.name in BUILT_IN:
        return kind.name
    word = dataset.removeprefix(kind.prefix)
    plain = kind.called(word) if kind.prefix else absolute(word).name
    if kind.suffixes:  # labels.csv is everyone's name
        plain = f"{absolute(word).parent.name}-{Path(plain).stem}".lstrip("-")
    name = re.sub(r"[^\w.-]+", "-", plain).strip("-.") or kind.name
    # So that ./cifar10 is not taken for the dataset of that name in a list of stores.
    return f"{name}-{kind.name}" if name.lower() in BUILT_IN else name


def absolute(path: str | os.PathLike[str]) -> Path:
    """Name a file or folder from the root, with the user's home written out."""
    return Path(os.path.abspath(os.path.expanduser(path)))
