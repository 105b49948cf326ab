"""A fresh virtual environment for the wheel, with dependencies of the index or those that are here.

Those that are here: links to the installed distributions that the wheel declares, and to those that
these need. Nothing else of this environment is found there: neither the checkout, which may be
installed in it as editable, nor a library that is imported and not declared.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

# What would let the checkout, or this environment, into the new one.
LEAKS = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "PYTHONSAFEPATH")


class Clock:
    """Seconds since it was made: of the wall, and of processors in the processes that ended."""

    def __init__(self) -> None:
        self._started = os.times()

    def __str__(self) -> str:
        now, before = os.times(), self._started
        used = now.children_user + now.children_system
        used -= before.children_user + before.children_system
        return f"{now.elapsed - before.elapsed:7.1f} s {used:6.1f} s"


class MissingError(Exception):
    """A distribution that is needed and is not installed here."""


def clean_environment(**more: str) -> dict[str, str]:
    """Give this process's variables without those that add folders to a Python's path."""
    kept = {name: value for name, value in os.environ.items() if name not in LEAKS}
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}


def make_environment(folder: Path, *, with_pip: bool) -> None:
    """Make a virtual environment; pip may come later, among the distributions that are linked."""
    command = [sys.executable, "-m", "venv", *([] if with_pip else ["--without-pip"]), str(folder)]
    subprocess.run(command, check=True, env=clean_environment())


def normal(name: str) -> str:
    """Spell the name of a distribution in the one way that the index does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(lines: Iterable[str], extras: Iterable[str]) -> set[str]:
    """Name the distributions that requirements mean, and those that these need, here.

    `MissingError` where one is not installed.
    """
    asked = frozenset(extras)
    waiting = [(line, asked, "icebox") for line in lines]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        line, extras, by = waiting.pop()
        needed = Requirement(line)
        marker = needed.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            continue
        key = normal(needed.name), frozenset(needed.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(needed.name)
        except PackageNotFoundError as error:
            raise MissingError(f"{needed.name}, which {by} needs") from error
        waiting += [(more, key[1], key[0]) for more in found.requires or []]
    return {name for name, _ in seen}


def link_distributions(names: Iterable[str], folder: Path) -> None:
    """Link the files of installed distributions into a folder, and no others."""
    wanted = set(names)
    owners: dict[tuple[str, ...], set[str]] = {}
    places: dict[tuple[str, ...], Distribution] = {}
    for found in distributions():
        name = normal(found.metadata["Name"])
        if name in wanted and not found.files:
            raise MissingError(f"{name} as files: it is installed without a list of them")
        for file in found.files or []:
            parts = file.parts
            if parts[0] == ".." or (len(parts) == 1 and parts[0].endswith(".pth")):
                continue  # a script, or what only the folder of an environment heeds
            for depth in range(1, len(parts) + 1):
                owners.setdefault(parts[:depth], set()).add(name)
                if name in wanted:
                    places.setdefault(parts[:depth], found)
    done: set[tuple[str, ...]] = set()
    for parts in sorted(places):  # a folder before what is in it
        if any(parts[:depth] in done for depth in range(1, len(parts))):
            continue
        source = Path(str(places[parts].locate_file("/".join(parts))))
        target = folder.joinpath(*parts)
        # A folder that others share, such as that of a namespace, is made anew.
        was_shared = target.is_dir() and not target.is_symlink()
        if source.is_dir() and (was_shared or not owners[parts] <= wanted):
            target.mkdir(exist_ok=True)
            continue
        if source.exists() and not target.exists():
            target.symlink_to(source)
        done.add(parts)


def use_distributions(environment: Path, names: Iterable[str]) -> None:
    """Have an environment find these distributions of this one."""
    (site,) = environment.glob("lib/python*/site-packages")
    folder = environment / "linked"
    folder.mkdir(exist_ok=True)
    link_distributions(names, folder)
    (site / "linked.pth").write_text(f"{folder}\n", encoding="utf-8")
