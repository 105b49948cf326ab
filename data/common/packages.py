"""Installed packages: their files, found without running any code of theirs, and what to type."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path


def package_folder(name: str) -> Path | None:
    """Find the folder of an installed package without importing it; None where there is none.

    `importlib.resources.files` would import it.
    """
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # half imported, or removed while Python ran
        return None
    folders = list(found.submodule_search_locations or []) if found is not None else []
    return Path(folders[0]) if folders else None


def package_version(distribution: str) -> str | None:
    """Version of an installed distribution; None where it does not say."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def install_extra(extra: str) -> str:
    """Say what to type for an extra of this program.

    pip takes the name from the program that is installed, from a wheel or from a checkout; only a
    checkout that nobody has installed must be named as a folder.
    """
    this = "icebox" if package_version("icebox") else "."
    return f"pip install '{this}[{extra}]'"
