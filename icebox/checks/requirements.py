"""What Icebox requires, by its own metadata, and what of it is installed."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "icebox"


@dataclass(frozen=True)
class Installation:
    """Where Icebox comes from, and what it requires there."""

    folder: Path  # that holds the packages
    checkout: bool
    editable: bool  # a checkout that pip knows
    version: str | None
    requires: tuple[str, ...]  # as metadata writes them
    extras: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Required:
    """A requirement and what is installed for it."""

    name: str
    wanted: str  # its range; empty for any
    found: str | None  # the version; None where it is missing
    fits: bool  # False for a version outside the range

    @property
    def words(self) -> str:
        """Say what is wrong with it."""
        if self.found is None:
            return f"{self.name} is missing"
        return f"{self.name} {self.found} is not {self.wanted}"


def find_installation(folder: Path | None = None) -> Installation:
    """Read pyproject.toml of a checkout, which is newer than what pip noted of it, or metadata."""
    folder = Path(__file__).parents[2] if folder is None else folder
    project = _pyproject(folder / "pyproject.toml")
    try:
        metadata: Any = importlib.metadata.distribution(NAME)
        version, lines = metadata.version, metadata.requires or []
    except importlib.metadata.PackageNotFoundError:
        version, lines = None, []
    if project is not None:
        extras = project.get("optional-dependencies", {})
        return Installation(
            folder, True, version is not None, str(project.get("version")),
            tuple(project.get("dependencies", ())),
            {name: tuple(needed) for name, needed in extras.items()},
        )  # fmt: skip
    core: list[str] = []
    named: dict[str, list[str]] = {}
    for line in lines:
        found = re.search(r"""\bextra\s*==\s*["']([^"']+)["']""", line)
        if found is None:
            core.append(line)
        else:  # wheels write open-clip for open_clip
            named.setdefault(found[1].replace("-", "_"), []).append(line)
    extras = {name: tuple(needed) for name, needed in named.items()}
    checkout = (folder / "pyproject.toml").is_file()
    return Installation(folder, checkout, checkout, version, tuple(core), extras)


def _pyproject(path: Path) -> dict[str, Any] | None:
    """Read the project table, where the file is Icebox's and this Python can (from 3.11 on)."""
    try:
        import tomllib  # type: ignore[import-not-found]  # from Python 3.11 on
    except ImportError:
        return None
    try:
        project = tomllib.loads(path.read_text("utf-8")).get("project", {})
    except (OSError, ValueError):
        return None
    return project if project.get("name") == NAME else None


def required(
    lines: Sequence[str], extra: str = "", extras: dict[str, tuple[str, ...]] | None = None
) -> Iterator[Required]:
    """Compare requirements with what is installed; those for other systems are left out."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    for line in lines:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        if canonicalize_name(wanted.name) == NAME:  # extras of its own
            for other in sorted(one.replace("-", "_") for one in wanted.extras):
                yield from required((extras or {}).get(other, ()), other, extras)
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            found = None
        fits = found is None or wanted.specifier.contains(found, prereleases=True)
        yield Required(wanted.name, str(wanted.specifier), found, fits)
