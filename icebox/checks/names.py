"""What else lies under the names of Icebox's packages, which are generic."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data.common.own_packages import MARK, ROOT, clash
from icebox.checks.finding import FAILURE, OK, WARNING, Finding

NAMES = ("data", "extract", "classify", "icebox")


def check_names() -> Iterator[Finding]:
    """Look for other packages under our names, and for files of the user's in this folder."""
    found = [message for name in NAMES if (message := clash(name)) is not None]
    for message in found:
        yield Finding("names", FAILURE, message)
    here = list(_in_current_folder())
    for path in here:
        yield Finding(
            "names",
            WARNING,
            f"{path.relative_to(Path.cwd())} has the name of a package of Icebox: python -m "
            "extract and classify do not run in this folder, the command icebox does",
            ("rename it, or run in another folder",),
            {"file": str(path)},
        )
    if not found and not here:
        names = ", ".join(NAMES)
        yield Finding("names", OK, f"nothing else is called {names}", values={"names": list(NAMES)})


def _in_current_folder() -> Iterator[Path]:
    folder = Path.cwd()
    if os.path.realpath(folder) == os.path.realpath(ROOT):
        return
    for name in NAMES:
        package, module = folder / name / "__init__.py", folder / f"{name}.py"
        if package.is_file() and not _is_ours(package):
            yield package.parent
        elif module.is_file():
            yield module


def _is_ours(package: Path) -> bool:
    """Tell another copy of Icebox, which the programs name themselves, from a user's package."""
    try:
        with open(package, encoding="utf-8", errors="replace") as file:
            return MARK in file.read(2000)
    except OSError:
        return False
