"""Shards of WebDataset, ``wds:PATTERN``: tar files of samples, read where they lie.

``webdataset`` groups the members of a shard into samples and splits their names into key and
extension, and ``braceexpand``, which it brings, expands patterns. Its streams are not used: rows
are embedded again after an interruption, digested and looked at, and workers share them, so the
headers of each shard are read once for the offsets, and images by offset. Nothing is unpacked.
"""

from __future__ import annotations

import glob
import json
import math
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.common.cli import progress
from data.common.errors import UserError
from data.common.files import stat_stamp
from data.common.packages import install_extra, package_folder
from data.images.arrays import RawDataset, RecordImages
from data.images.decode import KINDS, SUFFIXES
from data.images.sources.assembly import Listed, Rows, assemble
from data.images.sources.registry import SourceRequest, absolute
from data.images.sources.tars import Index, Place, broken_tar, members_of, read_at_place
from data.images.splits import split_of
from data.images.tables.features import LABEL_NAMES

PREFIX = "wds:"
MOST_SHARDS = 1_000_000
LABEL_BYTES = 1 << 20  # a label or its JSON has far fewer
_NAMED = 3


def images_of(origin: Mapping[str, Any], ids: Sequence[str]) -> RecordImages:
    """Find images of a store by their ids, in the shards as they lie now."""
    root, index = Path(origin["path"]), Index()
    by_shard: dict[Path, list[str]] = {}
    of_id = [_shard_of(root, name) for name in ids]
    for shard, member in of_id:
        by_shard.setdefault(shard, []).append(member)
    row_of = {}
    for shard, members in by_shard.items():
        index.begin(shard)
        wanted = set(members)
        for found in members_of(shard):
            if found["fname"] in wanted:
                row_of[shard, found["fname"]] = index.add(found["data"])
    for shard, member in of_id:
        if (shard, member) not in row_of:
            raise UserError(f"there is no image {member} in {shard}")
    rows = np.array([row_of[place] for place in of_id], dtype=np.int64)
    return RecordImages(index.finished(), rows)


def _shard_of(root: Path, identity: str) -> tuple[Path, str]:
    """Divide an id into the shard, which is there, and the member."""
    parts = identity.split("/")
    for cut in range(1, len(parts)):
        shard = root.joinpath(*parts[:cut])
        if ".." not in parts[:cut] and shard.is_file():
            return shard, "/".join(parts[cut:])
    raise UserError(f"there is no shard of the image {identity} in {root}")


def fingerprint(asked: SourceRequest) -> dict[str, str]:
    """Tell which shards lie there now."""
    shards = find_shards(asked.dataset)
    root = _root(shards)
    names = [os.path.relpath(shard, root) for shard in shards]
    return {"path": str(root), "stat": stat_stamp(root, names)}


def source_sha256(_: SourceRequest) -> None:
    """Leave it to the digests of the images."""


def read(asked: SourceRequest) -> RawDataset:
    """List the samples of all shards with their labels."""
    if package_folder("webdataset") is None:
        raise _missing(asked.dataset)
    shards = find_shards(asked.dataset)
    root = _root(shards)
    by_split = _splits(asked.dataset, shards, root)
    found = {name: _Found() for name in by_split}
    index = Index()
    total = sum(shard.stat().st_size for shard in shards)
    with progress(total, "listing shards", "B") as bar:
        bar.unit_scale = True
        for name, paths in by_split.items():
            for path in paths:
                _list_shard(asked, path, os.path.relpath(path, root), index, found[name])
                bar.update(path.stat().st_size)
    records = index.finished()
    splits = {
        name: Rows(
            RecordImages(records, np.array(rows.rows, dtype=np.int64)),
            rows.labels,
            rows.ids,
            rows.groups if asked.columns.get("group") else None,
            rows.weights if asked.columns.get("weight") else None,
        )
        for name, rows in found.items()
    }
    pattern = asked.dataset.removeprefix(PREFIX).split("::")
    origin = {
        "source": PREFIX + "::".join(str(absolute(part)) for part in pattern if part),
        "n_shards": len(shards),
    }
    return assemble(asked, Listed(splits, str(root), origin=origin), kind="wds")


def _missing(dataset: str) -> UserError:
    return UserError(
        f"--dataset {dataset} needs the package webdataset, which is not installed; "
        f"{install_extra('wds')} installs it"
    )


def find_shards(dataset: str) -> list[Path]:
    """Expand a pattern: braces, wildcards, several patterns with ``::`` between, or a folder."""
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise _missing(dataset) from error

    pattern = dataset.removeprefix(PREFIX)
    found: list[Path] = []
    missing = []
    for part in filter(None, pattern.split("::")):
        if "://" in part or part.startswith("pipe:"):
            raise UserError(
                f"--dataset {dataset}: shards are read from the disk, not from {part.split(':')[0]}"
                ":; fetch them first (curl -O, huggingface-cli download, rclone copy), and give "
                "their path: wds:FOLDER/train-{000..009}.tar"
            )
        ranges = re.findall(r"\{(\d+)\.\.(\d+)", part)
        # They are expanded whole, before the first name comes.
        if math.prod(abs(int(stop) - int(start)) + 1 for start, stop in ranges) > MOST_SHARDS:
            raise UserError(
                f"--dataset {dataset} names more than {MOST_SHARDS:,} shards; give those there are"
            )
        try:
            names = list(braceexpand(part))
        except ValueError as error:
            raise UserError(
                f"--dataset {dataset}: the braces are not closed ({error}); write a pattern such "
                "as wds:FOLDER/{train,test}-{000..009}.tar"
            ) from error
        for name in names:
            paths = _matching(absolute(name))
            found += paths
            if not paths:
                missing.append(name)
    if missing:
        raise _no_shards(dataset, missing, len(found))
    if not found:
        raise UserError(f"--dataset {dataset} names no shards; give wds:FOLDER/train-{{0..9}}.tar")
    return list(dict.fromkeys(found))


def _matching(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.rglob("*.tar") if p.is_file() and p.name[0] != ".")
    if glob.has_magic(str(path)):
        return sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    return [path] if path.is_file() else []


def _no_shards(dataset: str, missing: list[str], n_found: int) -> UserError:
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    what = f"{len(missing)} of its shards are missing" if n_found else "it matches no file"
    return UserError(
        f"--dataset {dataset}: {what}: {', '.join(missing[:_NAMED])}{more}\n"
        "give a folder of .tar files, or a pattern that names those there are, such as "
        "wds:FOLDER/{train,test}-{000..009}.tar"
    )


def _root(shards: list[Path]) -> Path:
    return Path(os.path.commonpath([shard.parent for shard in shards]))


def _splits(dataset: str, shards: list[Path], root: Path) -> dict[str, list[Path]]:
    """Sort shards by the split that their name or folder says; all are for training if none."""
    named = {shard: _split_of_shard(shard, root) for shard in shards}
    kinds = {split for split in named.values() if split}
    if not kinds:
        return {"train": shards}
    without = [shard for shard, split in named.items() if split is None]
    if without:
        raise UserError(
            f"--dataset {dataset}: the shard {without[0].name} says no split, and others do "
            f"({', '.join(sorted(kinds))}); put train, val or test into the name of each shard or "
            "its folder, or give a pattern without it"
        )
    return {
        split: [shard for shard in shards if named[shard] == split]
        for split in ("train", "test", "validation")
        if split in kinds
    }


def _split_of_shard(shard: Path, root: Path) -> str | None:
    """Find a split's word in a name such as ``imagenet-train-000012``, then in folders."""
    for part in (shard.stem, *reversed(shard.relative_to(root).parent.parts)):
        words = [word for word in part.replace("_", "-").replace(".", "-").split("-") if word]
        for word in (part, *words):
            split = split_of(word)
            if split is not None:
                return split
    # All shards lie in one folder: it may be the split's.
    return split_of(root.name)


@dataclass
class _Found:
    """The rows of a split, as they are found."""

    rows: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    groups: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)


def _list_shard(asked: SourceRequest, path: Path, called: str, index: Index, found: _Found) -> None:
    """Add the samples of a shard."""
    from webdataset.tariterators import group_by_keys

    index.begin(path)
    first = len(found.ids)
    try:
        for sample in group_by_keys(members_of(path)):
            place, facts = _image_of(asked, path, sample), _Facts(path, sample)
            found.rows.append(index.add(place))
            found.ids.append(f"{called}/{place.member}")
            found.labels.append(facts.label(asked.columns.get("label")))
            for column, values in (("group", found.groups), ("weight", found.weights)):
                name = asked.columns.get(column)
                values.append(facts.field(name, f"--{column}-column") if name else None)
    except (tarfile.TarError, EOFError) as error:
        raise broken_tar(path, str(error)) from error
    except ValueError as error:  # of webdataset: two members of one name
        what = str(error.args[0]).partition(" in tar file")[0]
        raise UserError(f"{path}: {what}; write the shard with each name once") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if len(found.ids) == first:
        raise UserError(
            f"{path} holds no sample: a key with the extension of a {KINDS} image and one of a "
            "label (.cls or .json), such as 000001.jpg and 000001.cls, is expected"
        )


def _image_of(asked: SourceRequest, path: Path, sample: dict[str, Any]) -> Place:
    """Find the image among the members of a sample."""
    there = [key for key in sample if not key.startswith("__")]
    named = asked.columns.get("image")
    images = [
        key
        for key in there
        if (key == named if named else f".{key.rpartition('.')[2]}" in SUFFIXES)
    ]
    if len(images) == 1:
        place: Place = sample[images[0]]
        return place
    has = ", ".join(f".{key}" for key in there)
    if not images:
        wanted = f"no .{named}" if named else "no image"
        raise UserError(
            f"{path}: the sample {sample['__key__']} has {wanted}, only {has}; give it a {KINDS} "
            "image, or name the extension of the images with --image-column"
        )
    raise UserError(
        f"{path}: the sample {sample['__key__']} has {len(images)} images, {has}; name the "
        f"extension to take, such as --image-column {images[0]}"
    )


class _Facts:
    """What a sample says of its image, beside it."""

    def __init__(self, path: Path, sample: dict[str, Any]) -> None:
        self.path, self.sample = path, sample

    def label(self, named: str | None) -> Any:
        """Read the label: of ``.cls``, of ``.json``, or of the extension or field that is named."""
        if named is not None and named in self.sample:
            return self._text(named)
        if named is not None:
            return self.field(named, "--label-column")
        if "cls" in self.sample:
            return self._text("cls")
        if "json" not in self.sample:
            raise self._problem("no label: neither .cls nor .json")
        fields = self._json()
        if not isinstance(fields, dict):
            return fields
        lowered = {name.lower(): name for name in fields}
        for name in LABEL_NAMES:
            if name in lowered:
                return fields[lowered[name]]
        raise self._problem(
            f"no label in its .json: the fields are {', '.join(fields) or 'none'}, and none is "
            f"called {', '.join(LABEL_NAMES[:4])}",
            "name one with --label-column",
        )

    def field(self, name: str, option: str) -> Any:
        """Read a field of the sample's JSON."""
        fields = self._json() if "json" in self.sample else {}
        if not isinstance(fields, dict) or name not in fields:
            there = ", ".join(fields) if isinstance(fields, dict) and fields else "none"
            has = ", ".join(f".{key}" for key in self.sample if not key.startswith("__"))
            raise self._problem(
                f"no {name} ({option}): its members are {has}, the fields of its .json {there}",
                "give the name of one of them",
            )
        return fields[name]

    def _text(self, extension: str) -> str:
        try:
            return self._content(extension).decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise self._problem(f"a .{extension} that is not UTF-8 text") from error

    def _json(self) -> Any:
        try:
            return json.loads(self._content("json"))
        except ValueError as error:
            raise self._problem(f"a .json that cannot be read ({error})") from error

    def _content(self, extension: str) -> bytes:
        place = self.sample[extension]
        if place.size > LABEL_BYTES:
            raise self._problem(f"a .{extension} of {place.size:,} bytes, too many for a label")
        with open(self.path, "rb", buffering=0) as stream:
            return read_at_place(stream.fileno(), place.offset, place.size)

    def _problem(self, what: str, advice: str = "mend the sample, or leave it out") -> UserError:
        return UserError(f"{self.path}: the sample {self.sample['__key__']} has {what}; {advice}")
