"""Which images ``predict`` is to label: files, folders, and lists on standard input."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from data.common.cli import log
from data.common.errors import UserError
from data.images.decode import SUFFIXES
from data.images.left_out import HIDDEN_FOLDERS, LeftOut, kind_of

STDIN = "-"


def find_images(given: Sequence[str], stdin: TextIO) -> list[str]:
    """Turn what was named into image files that exist.

    Parameters
    ----------
    given : sequence of str
        Image files; folders, whose images are taken at any depth in the order of their names,
        and what is left out is counted and named on stderr; ``-`` for a list on standard input,
        one file or folder a line.
    stdin : text stream
        Read where ``-`` was given.

    Returns
    -------
    list of str
        At least one; a file that was named twice is there once.

    Raises
    ------
    UserError
        If a name does not exist, a folder holds no image, or the list is empty.
    """
    found: dict[str, None] = {}
    for name in given:
        if name != STDIN:
            found.update(dict.fromkeys(_files(name, "the image")))
            continue
        try:
            lines = [line.rstrip("\r\n") for line in stdin]
        except UnicodeDecodeError as error:
            raise UserError(
                f"the list on standard input is not text ({error}); give one file name a line"
            ) from error
        names = [line for line in lines if line.strip()]
        if not names:
            raise UserError(
                "the list of images on standard input is empty; give one file name a line, such "
                "as: find photos -name '*.jpg' | python -m classify predict HEAD.safetensors -"
            )
        for line in names:
            found.update(dict.fromkeys(_files(line, "standard input names")))
    return list(found)


def _files(name: str, what: str) -> list[str]:
    if os.path.isfile(name):
        return [name]
    if not os.path.isdir(name):
        raise UserError(f"{what} {name}: it does not exist; give image files or folders of them")
    found, left_out = [], LeftOut()
    for place, folders, files in os.walk(name):
        for folder in sorted(folder for folder in folders if folder.startswith(".")):
            left_out.add(HIDDEN_FOLDERS, os.path.relpath(os.path.join(place, folder), name))
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for file in sorted(files):
            path = os.path.join(place, file)
            if not file.startswith(".") and file.lower().endswith(SUFFIXES):
                found.append(path)
            else:
                left_out.add(kind_of(file), os.path.relpath(path, name))
    if left_out:
        log(left_out.sentence(name))
    if not found:
        raise UserError(f"the folder {name} holds no image ({', '.join(SUFFIXES)})")
    return found
