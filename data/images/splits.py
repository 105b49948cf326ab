"""Which sub-folders of a data set are its splits, by the names in use for them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from data.common.errors import UserError

SPELLINGS = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst", "tests"),
    "validation": (
        *("validation", "valid", "val", "validate", "validating", "vld"),
        *("dev", "devel", "development", "eval", "evaluation"),
    ),
}
# train_set, test-images, val2017
_BEHIND = re.compile(r"(set|data|images|imgs|split|(19|20)\d\d)$")
_CANONICAL = ("train", "test", "val")


def split_of(name: str) -> str | None:
    """Tell which split a folder is named for: train, test, validation; None for none of them."""
    plain = re.sub(r"[-_. ]", "", name.lower())
    while True:
        for split, spellings in SPELLINGS.items():
            if plain in spellings:
                return split
        shorter = _BEHIND.sub("", plain)
        if shorter == plain:
            return None
        plain = shorter


def find_splits(root: Path, folders: list[str], has_folders: list[str]) -> dict[str, str]:
    """Find the splits among the sub-folders of a data set.

    Two folders that are named for splits are splits. A single one may be a class of that name
    (``train``, of vehicles, say): it is a split if it holds folders, which are then the classes.
    """
    named: dict[str, list[str]] = {}
    for name in folders:
        split = split_of(name)
        if split is not None:
            named.setdefault(split, []).append(name)
    flat = [name for names in named.values() for name in names]
    if len(flat) == 1:
        # Of the many other spellings, one beside folders that are no splits stays a class.
        sure = flat[0] in _CANONICAL or len(folders) == 1
        return {next(iter(named)): flat[0]} if flat[0] in has_folders and sure else {}
    for split, names in named.items():
        if len(names) > 1:
            raise UserError(
                f"{root} has the folders {' and '.join(sorted(names))}, which are both named for "
                f"the {split} split; put their images into one of them, or move one away"
            )
    return {split: names[0] for split, names in named.items()}


def folder_of_test_rows(root: Path) -> Path:
    """Find the folder that the ids of a data set's test rows count from."""
    splits = _splits_in(root)
    if "train" not in splits:
        return root
    test = splits.get("test")
    if test is not None and "validation" in splits:
        with os.scandir(root / test) as listing:
            if not any(entry.is_dir() and entry.name[0] != "." for entry in listing):
                test = None  # without labels
    name = test or splits.get("validation")
    return root / name if name else root


def folder_of_training_rows(root: Path) -> Path:
    """Find the folder that the ids of training rows count from, which a test split is part of."""
    return root / _splits_in(root).get("train", "")


def _splits_in(root: Path) -> dict[str, str]:
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    folders = [name for name in folders if not name.startswith(".")]
    return find_splits(root, folders, folders)
