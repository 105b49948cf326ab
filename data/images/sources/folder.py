"""Any folder of images, one sub-folder per class.

``ROOT/train/CLASS/*`` and ``ROOT/test/CLASS/*`` (or ``ROOT/val/CLASS/*``), in any spelling that
`data.images.splits` knows, or ``ROOT/CLASS/*`` of which a part is held out. Images may lie in
sub-folders of a class. What is hidden (a name with a leading dot) or has no image's suffix is not
read, but counted and named. Symbolic links are followed, and within one class no folder is entered
twice, so that circles end.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.common.cli import log
from data.common.errors import UserError
from data.common.files import stat_stamp
from data.images.arrays import FileImages, RawDataset, Split
from data.images.decode import KINDS, SUFFIXES
from data.images.left_out import HIDDEN_FOLDERS, LeftOut, kind_of
from data.images.sources.registry import SourceRequest, absolute, dataset_name
from data.images.splits import find_splits


@dataclass(frozen=True)
class Folder:
    """What lies in a folder of images."""

    root: Path
    # The training images of each class, as POSIX paths relative to ``root / train_part``, sorted
    # by code point, whatever the order of the listing and the locale. Without a test part it
    # holds all the images
    train: dict[str, list[str]]
    test: dict[str, list[str]] = field(default_factory=dict)
    train_part: str = ""
    test_part: str = ""
    notes: list[str] = field(default_factory=list)
    # The same of the validation part, where there is one beside a test part
    validation: dict[str, list[str]] = field(default_factory=dict)
    validation_part: str = ""
    # What split the test part's folder is named for: ``test`` or ``validation``
    test_named: str = "test"
    left_out: LeftOut = field(default_factory=LeftOut)

    def files(self) -> list[str]:
        """Name all the images, relative to ``root``."""
        found = []
        parts = [(self.train_part, self.train), (self.test_part, self.test)]
        if self.validation_part:
            parts.append((self.validation_part, self.validation))
        for part, classes in parts:
            prefix = f"{part}/" if part else ""
            found += [prefix + name for names in classes.values() for name in names]
        return found


def scan(root: Path) -> Folder:
    """List a folder of images; no image is opened."""
    entries = [entry for entry in _entries(root) if _is_folder(entry)]
    folders = [_utf8(root, entry.name) for entry in entries]
    splits = find_splits(root, folders, [name for name in folders if _has_folders(root / name)])
    if not splits:
        found = Folder(root, {})
        found.train.update(_classes(root, found))
        return found
    if "train" not in splits:
        there = " and a folder ".join(sorted(splits.values()))
        raise UserError(f"{root} has a folder {there} but no folder train; add {root / 'train'}")
    if len(splits) == 1:
        train = root / splits["train"]
        raise UserError(
            f"{root} has a folder {train.name} but neither test nor val; add one, or let a part of "
            f"the images be held out: --dataset {train} --test-fraction 0.2"
        )
    found = _read_splits(root, splits)
    for name in folders:
        if name not in splits.values():
            found.left_out.add("folders beside the splits", name)
    return found


def _read_splits(root: Path, splits: dict[str, str]) -> Folder:
    """List the splits; without a test split that has labels the validation split is taken."""
    train, named = root / splits["train"], "test" if "test" in splits else "validation"
    notes = []
    if named == "test" and (n_flat := _flat(root / splits["test"])):
        unlabelled = (
            f"{root / splits['test']} holds {n_flat:,} images and no class folders, so it has no "
            "labels and nothing can be measured on it"
        )
        later = f"python -m classify predict HEAD.safetensors {root / splits['test']}"
        if "validation" not in splits:
            raise UserError(
                f"{unlabelled}\nhold out a part of the training images: --dataset {train} "
                f"--test-fraction 0.2; label the others afterwards: {later}"
            )
        notes.append(f"{unlabelled}; label its images with: {later}")
        named = "validation"
    test = root / splits[named]
    found = Folder(root, {}, {}, train.name, test.name, notes, test_named=named, left_out=LeftOut())
    found.train.update(_classes(train, found))
    found.test.update(_classes(test, found, may_be_empty=True))
    if named == "validation":
        which = f"no folder {splits.get('test', 'test')}" + (" with labels" if notes else "")
        notes.append(f"{root} has {which}; its folder {test.name} is the test split")
    unknown = sorted(set(found.test) - set(found.train))
    if unknown:
        advice = "nothing could be learned of them; rename, move or remove those folders"
        if len(unknown) == len(found.test):
            advice += (
                ". If they hold images without labels, move the folder away and label them with: "
                f"python -m classify predict HEAD.safetensors {test}"
            )
        raise UserError(f"{test} has classes that {train} has not: {_some(unknown)}\n{advice}")
    if named == "test" and "validation" in splits:
        return _with_validation(found, root / splits["validation"])
    return found


def _with_validation(found: Folder, folder: Path) -> Folder:
    """Add a validation split beside a test split: C and the temperature are chosen on it."""
    classes = _classes(folder, found, may_be_empty=True)
    known = {name: images for name, images in classes.items() if name in found.train}
    count = sum(map(len, known.values()))
    found.notes.append(
        f"{folder} is the validation split, of {count:,} images: settings are chosen on it; the "
        f"test split is {found.root / found.test_part}"
    )
    unknown = sorted(set(classes) - set(known))
    if unknown:
        found.notes.append(f"{folder} has classes without training images: {_some(unknown)}")
    return replace(found, validation=known, validation_part=folder.name)


def _flat(folder: Path) -> int:
    """Count the images of a folder without class folders; 0 where it has such folders."""
    entries = _entries(folder)
    return 0 if any(map(_is_folder, entries)) else sum(map(_is_image, entries))


def fingerprint(asked: SourceRequest) -> dict[str, str]:
    """Tell what lies in the folder now."""
    root = absolute(asked.dataset)
    return {"path": str(root), "stat": stat_stamp(root, scan(root).files())}


def source_sha256(_: SourceRequest) -> None:
    """Leave it to the digests of the images."""


def read(asked: SourceRequest) -> RawDataset:
    """Take a folder of images as a dataset."""
    root, test_fraction = absolute(asked.dataset), asked.test_fraction
    found = scan(root)
    if test_fraction is not None and found.test_named == "validation":
        found = _with_all_but_test(found)
    for note in found.notes:
        log(note)
    if found.left_out:
        log(found.left_out.sentence(root))
    if found.test_part and test_fraction is not None:
        raise UserError(
            f"{root} has its own test split, {found.test_part}; leave --test-fraction out"
        )
    if not found.test_part and test_fraction is None:
        raise UserError(
            f"{root} has no folders train and test, so its sub-folders are taken as classes "
            f"({_some(sorted(found.train))}), and no test split is left\n"
            "add --test-fraction 0.2 to hold out a fifth of each class"
        )
    class_names = tuple(sorted(found.train))
    parts = (found.train_part, found.test_part or found.validation_part)
    layout = "/".join(parts) if all(parts) else "classes"
    origin: dict[str, Any] = {
        "kind": "folder",
        "path": str(root),
        "layout": layout,
        "n_files": len(found.files()),
        "sha256": None,
        "verified": False,
    }
    if found.train_part:
        origin["splits"] = _describe_splits(found)
    if found.left_out:
        origin["not_read"] = found.left_out.to_json()
    return RawDataset(
        dataset_name(asked.dataset),
        class_names,
        _split(root / found.train_part, class_names, found.train),
        _split(root / found.test_part, class_names, found.test),
        origin,
        validation=_split(root / found.validation_part, class_names, found.validation)
        if found.validation_part
        else None,
    )


def _with_all_but_test(found: Folder) -> Folder:
    """Leave a validation split what it is, where the test split is held out of the training one."""
    note = (
        f"{found.root / found.test_part} is the validation split: settings are chosen on it; the "
        f"test split is held out of {found.root / found.train_part}"
    )
    return replace(
        found,
        notes=[*found.notes[:-1], note],
        test={},
        test_part="",
        test_named="test",
        validation=found.test,
        validation_part=found.test_part,
    )


def _describe_splits(found: Folder) -> dict[str, Any]:
    """Say for the provenance which folder is which split."""
    parts = {"train": (found.train_part, found.train)}
    if found.test_part:
        parts["test"] = (found.test_part, found.test)
    if found.validation_part:
        parts["validation"] = (found.validation_part, found.validation)
    described: dict[str, Any] = {
        split: {"folder": folder, "n_images": sum(map(len, classes.values()))}
        for split, (folder, classes) in parts.items()
    }
    if found.test_named != "test":
        described["test"]["named_for"] = found.test_named
    return described


def _split(root: Path, class_names: tuple[str, ...], classes: dict[str, list[str]]) -> Split:
    names = [name for label in class_names for name in classes.get(label, ())]
    counts = [len(classes.get(label, ())) for label in class_names]
    labels = np.repeat(np.arange(len(class_names), dtype=np.int64), counts)
    return Split(FileImages(root, tuple(names)), labels, tuple(names))


def _classes(folder: Path, into: Folder, *, may_be_empty: bool = False) -> dict[str, list[str]]:
    """List the class folders of a split with their images; note in ``into`` what is not read."""
    classes = {}
    for entry in _entries(folder):
        if not _is_folder(entry):
            if _is_image(entry):
                into.left_out.add("images outside class folders", _below(into.root, entry))
            continue
        name = _utf8(folder, entry.name)
        others = LeftOut()
        visited = {_identity(folder.stat()), _identity(folder.parent.stat())}
        images = sorted(_images(Path(entry.path), f"{name}/", visited, others, into))
        if images:
            classes[name] = images
            continue
        ranked = sorted(others.counts.items(), key=lambda item: -item[1])
        kinds = ", ".join(f"{count} {kind}" for kind, count in ranked[:3])
        problem = f"the class folder {entry.path} holds no {KINDS} image" + (
            f" (but {kinds})" if kinds else ""
        )
        if not may_be_empty:
            raise UserError(f"{problem}; add images or remove the folder")
        into.notes.append(f"{problem}; no test image of {name}")
    if not classes and not may_be_empty:
        raise UserError(
            f"{folder} holds no class folders; one sub-folder per class is expected, "
            f"such as {folder / 'cats'} with the images of cats"
        )
    return classes


def _images(
    folder: Path, prefix: str, visited: set[tuple[int, int]], others: LeftOut, into: Folder
) -> Iterator[str]:
    """Name the images below a folder; count what else there is by kind."""
    identity = _identity(folder.stat())
    if identity in visited:
        return
    visited.add(identity)
    rest = []
    for entry in _listed(folder):
        # Most entries are this; the others are looked at in an order that depends on names alone.
        if (
            entry.name.endswith(SUFFIXES)
            and entry.name[0] != "."
            and entry.is_file(follow_symlinks=False)
        ):
            yield prefix + _utf8(folder, entry.name)
        else:
            rest.append(entry)
    for entry in sorted(rest, key=_name_of):
        if entry.name[0] == ".":
            kind = HIDDEN_FOLDERS if _is_folder(entry) else kind_of(entry.name)
            into.left_out.add(kind, _below(into.root, entry))
            continue
        name = prefix + _utf8(folder, entry.name)
        if _is_folder(entry):
            yield from _images(Path(entry.path), f"{name}/", visited, others, into)
        elif _is_image(entry):
            yield name
        else:
            others.add(kind_of(entry.name), name)
            into.left_out.add(kind_of(entry.name), _below(into.root, entry))


def _below(root: Path, entry: os.DirEntry[str]) -> str:
    return Path(entry.path).relative_to(root).as_posix()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List what is not hidden, in an order that depends on the names alone."""
    return sorted((entry for entry in _listed(folder) if entry.name[0] != "."), key=_name_of)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder, as the file system gives it."""
    try:
        with os.scandir(folder) as listing:
            return list(listing)
    except OSError as error:
        raise UserError(f"cannot list the folder {folder}: {error.strerror}") from error


def _name_of(entry: os.DirEntry[str]) -> str:
    return entry.name


def _has_folders(folder: Path) -> bool:
    return any(_is_folder(entry) for entry in _entries(folder))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise UserError(f"cannot look at {entry.path}: {error.strerror}") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Tell by the suffix. A broken link counts: an image is missing, which reading it will say."""
    # A fingerprint asks this of every file, so the quick answers come first.
    if not entry.name.lower().endswith(SUFFIXES):
        return False
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _utf8(folder: Path, name: str) -> str:
    if name.isascii():
        return name
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"a name in {folder} is not valid UTF-8: {os.fsencode(name)!a}; rename it "
            "(convmv converts whole folders)"
        ) from error
    return name


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
