"""The control groups of Linux that this process is in, of version 1 or 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def text_of(path: Path) -> str:
    """Read a file of the system; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def group_folders(controller: str, root: Path = Path("/")) -> Iterator[tuple[int, Path]]:
    """Yield the version and folder of each group with this controller, from the inmost upwards.

    ``root`` is another folder in tests.
    """
    for line in text_of(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        kinds, _, group = rest.partition(":")
        if number == "0" and not kinds:
            version, top = 2, "sys/fs/cgroup"
        elif controller in kinds.split(","):
            version, top = 1, f"sys/fs/cgroup/{controller}"
        else:
            continue
        # In a container the path may be the host's, of which only the root is to be seen.
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield version, root.joinpath(top, *parts[:depth])
