"""Any folder of images, one sub-folder per class.

``ROOT/train/CLASS/*`` and ``ROOT/test/CLASS/*`` (or ``ROOT/val/CLASS/*``), or ``ROOT/CLASS/*`` of
which a part is held out. Images may lie in sub-folders of a class. What is hidden (a name with a
leading dot) or has no image's suffix is passed over. Symbolic links are followed, and within one
class no folder is entered twice, so that circles end.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.cli import progress, say
from data.decode import SUFFIXES
from data.errors import UserError
from data.images import FileImages, Source, Split
from data.subset import hold_out

KINDS = "JPEG, PNG, WebP or BMP"
READ_BYTES = 1 << 18
HASH_BLOCK = 1024  # files whose digests are asked for at once
BAR_FROM = 5_000  # files; fewer are read before anyone wonders


@dataclass(frozen=True)
class Folder:
    """What lies in a folder of images.

    Parameters
    ----------
    root : pathlib.Path
        The folder; absolute.
    train : dict of str to list of str
        The training images of each class, as POSIX paths relative to ``root / train_part``,
        sorted by code point, whatever the order of the listing and the locale. Without a test
        part it holds all the images.
    test : dict of str to list of str
        The same of the test part.
    train_part, test_part : str
        ``"train"`` and ``"test"`` or ``"val"``; empty where there are no such folders.
    notes : list of str
        What the user should know.
    """

    root: Path
    train: dict[str, list[str]]
    test: dict[str, list[str]] = field(default_factory=dict)
    train_part: str = ""
    test_part: str = ""
    notes: list[str] = field(default_factory=list)

    def files(self) -> list[str]:
        """Name all the images, relative to ``root``."""
        found = []
        for part, classes in ((self.train_part, self.train), (self.test_part, self.test)):
            prefix = f"{part}/" if part else ""
            found += [prefix + name for names in classes.values() for name in names]
        return found


def scan(root: Path) -> Folder:
    """List a folder of images; no image is opened.

    Parameters
    ----------
    root : pathlib.Path
        The folder; absolute.

    Returns
    -------
    Folder
        Its classes and images.

    Raises
    ------
    UserError
        If it has neither layout, a class has no image, the test part has a class that the
        training part has not, or a name is not UTF-8.
    """
    train, test = root / "train", root / "test"
    validation = root / "val"
    if not test.is_dir() and validation.is_dir():
        test = validation
    # A class may be called "train" (of vehicles, say): it holds images, not classes.
    if train.is_dir() and (test.is_dir() or _has_folders(train)):
        if not test.is_dir():
            raise UserError(
                f"{root} has a folder train but neither test nor val; add one, or let a part of "
                f"the images be held out: --dataset {train} --test-fraction 0.2"
            )
        notes: list[str] = []
        train_classes = _classes(train, notes)
        test_classes = _classes(test, notes, may_be_empty=True)
        if test == validation:
            notes.append(f"{root} has no folder test; its folder val is the test split")
        elif validation.is_dir():
            notes.append(f"{validation} is not used; the test split is {test}")
        unknown = sorted(set(test_classes) - set(train_classes))
        if unknown:
            raise UserError(
                f"{test} has classes that {train} has not: {_some(unknown)}\n"
                "nothing could be learned of them; rename, move or remove those folders"
            )
        return Folder(root, train_classes, test_classes, "train", test.name, notes)
    if test.is_dir() and _has_folders(test):
        raise UserError(f"{root} has a folder {test.name} but no folder train; add {train}")
    notes = []
    return Folder(root, _classes(root, notes), notes=notes)


def read_folder(root: Path, name: str, *, test_fraction: float | None, seed: int) -> Source:
    """Take a folder of images as a dataset.

    Parameters
    ----------
    root : pathlib.Path
        The folder; absolute.
    name : str
        What to call the dataset.
    test_fraction : float, optional
        The share of each class to hold out where there is no test part.
    seed : int
        Of that choice.

    Returns
    -------
    Source
        Classes in the order of their names; ids are paths relative to the split's folder.

    Raises
    ------
    UserError
        As `scan`, or if ``test_fraction`` is missing or one too many.
    """
    found = scan(root)
    for note in found.notes:
        say(note)
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
    train, test = found.train, found.test
    if test_fraction is not None:
        train, test = {}, {}
        for label, names in found.train.items():
            held = hold_out(names, test_fraction, seed)
            train[label] = [name for name, out in zip(names, held, strict=True) if not out]
            test[label] = [name for name, out in zip(names, held, strict=True) if out]
    class_names = tuple(sorted(train))
    layout = f"train/{found.test_part}" if found.test_part else "classes"
    origin: dict[str, Any] = {
        "kind": "folder",
        "path": str(root),
        "layout": layout,
        "n_files": len(found.files()),
        "sha256": None,
        "verified": False,
    }
    if test_fraction is not None:
        origin |= {"test_fraction": test_fraction, "seed": seed}
    return Source(
        name,
        class_names,
        _split(root / found.train_part, class_names, train),
        _split(root / found.test_part, class_names, test),
        origin,
    )


def hash_files(root: Path, names: tuple[str, ...]) -> bytes:
    """Digest files, several at a time.

    Parameters
    ----------
    root : pathlib.Path
        The folder that the names count from.
    names : tuple of str
        Relative POSIX paths.

    Returns
    -------
    bytes
        The SHA-256 of each file, 32 bytes, in the order of the names.

    Raises
    ------
    UserError
        Naming a file that cannot be read.
    """

    def one(name: str) -> bytes:
        try:
            return _sha256(root / name)
        except OSError as error:
            raise UserError(
                f"cannot read the image {root / name}: {error.strerror}; repair or remove it"
            ) from error

    long = len(names) >= BAR_FROM
    shown: AbstractContextManager[Any] = nullcontext()
    if long:
        shown = progress(len(names), f"reading {root.name}", "file")
    digests: list[bytes] = []
    with shown as bar, ThreadPoolExecutor(min(8, 2 + (os.cpu_count() or 1))) as pool:
        for start in range(0, len(names), HASH_BLOCK):
            block = names[start : start + HASH_BLOCK]
            digests += pool.map(one, block)
            if long:
                bar.update(len(block))
    return b"".join(digests)


def _sha256(path: Path) -> bytes:
    # Most images come in one read; a large fixed buffer for each (as for archives) costs more
    # than the hashing.
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.digest()


def _split(root: Path, class_names: tuple[str, ...], classes: dict[str, list[str]]) -> Split:
    names = [name for label in class_names for name in classes.get(label, ())]
    counts = [len(classes.get(label, ())) for label in class_names]
    labels = np.repeat(np.arange(len(class_names), dtype=np.int64), counts)
    return Split(FileImages(root, tuple(names)), labels, tuple(names))


def _classes(folder: Path, notes: list[str], *, may_be_empty: bool = False) -> dict[str, list[str]]:
    """List the class folders of a split with their images."""
    classes = {}
    stray = 0
    for entry in _entries(folder):
        if not _is_folder(entry):
            stray += _is_image(entry)
            continue
        name = _utf8(folder, entry.name)
        others: Counter[str] = Counter()
        visited = {_identity(folder.stat()), _identity(folder.parent.stat())}
        images = sorted(_images(Path(entry.path), f"{name}/", visited, others))
        if images:
            classes[name] = images
            continue
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3))
        problem = f"the class folder {entry.path} holds no {KINDS} image" + (
            f" (but {kinds})" if kinds else ""
        )
        if not may_be_empty:
            raise UserError(f"{problem}; add images or remove the folder")
        notes.append(f"{problem}; no test image of {name}")
    if stray:
        notes.append(f"{stray} images directly in {folder} belong to no class and are not used")
    if not classes and not may_be_empty:
        raise UserError(
            f"{folder} holds no class folders; one sub-folder per class is expected, "
            f"such as {folder / 'cats'} with the images of cats"
        )
    return classes


def _images(
    folder: Path, prefix: str, visited: set[tuple[int, int]], others: Counter[str]
) -> Iterator[str]:
    """Name the images below a folder; count what else there is by suffix."""
    identity = _identity(folder.stat())
    if identity in visited:
        return
    visited.add(identity)
    rest = []
    for entry in _listed(folder):
        # Most entries are this; the others are looked at in an order that depends on names alone.
        if entry.name.endswith(SUFFIXES) and entry.is_file(follow_symlinks=False):
            yield prefix + _utf8(folder, entry.name)
        else:
            rest.append(entry)
    for entry in sorted(rest, key=_name_of):
        name = prefix + _utf8(folder, entry.name)
        if _is_folder(entry):
            yield from _images(Path(entry.path), f"{name}/", visited, others)
        elif _is_image(entry):
            yield name
        else:
            others[os.path.splitext(entry.name)[1] or "files without a suffix"] += 1


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """List what is not hidden, in an order that depends on the names alone."""
    return sorted(_listed(folder), key=_name_of)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    """List what is not hidden, as the file system gives it."""
    try:
        with os.scandir(folder) as listing:
            return [entry for entry in listing if entry.name[0] != "."]
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
