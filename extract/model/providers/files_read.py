"""Which files a piece of somebody else's code opens.

A factory may read its weights from anywhere. What it has opened is noted, so that a finished store
is not taken for that of other weights.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

# Python keeps an audit hook for good, so there is one, which notes what belongs to these threads.
_noting: dict[int, list[Path]] = {}
_hooked = False
_CODE = (".py", ".pyc", ".pyi", ".so", ".pyd", ".dll", ".dylib", ".pth")
_SYSTEM = ("/proc", "/dev", "/sys", "/etc")


@contextmanager
def files_read() -> Iterator[list[Path]]:
    """Give a list to which the block's files are added; those of code and of Python are left out.

    Only what is opened through Python is seen: safetensors opens files by itself.
    """
    global _hooked
    if not _hooked:
        sys.addaudithook(_note)
        _hooked = True
    _noting[get_ident()] = opened = list[Path]()
    found: list[Path] = []
    try:
        yield found
    finally:
        del _noting[get_ident()]
        found += [path for path in dict.fromkeys(opened) if _decides(path)]


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _noting:
        return
    noted = _noting.get(get_ident())
    path, mode, flags = arguments
    writes = set("wax+") & set(mode or "") or flags & (os.O_WRONLY | os.O_RDWR)
    if noted is None or not isinstance(path, str | bytes) or writes:
        return
    noted.append(Path(path.decode(errors="surrogateescape") if isinstance(path, bytes) else path))


def _decides(path: Path) -> bool:
    """Tell a file of the user's from those of Python, of packages and of the system."""
    try:
        place = path.resolve()
        if not place.is_file() or path.suffix in _CODE:
            return False
    except OSError:
        return False
    paths = sysconfig.get_paths()
    python = [Path(paths[name]).resolve() for name in ("stdlib", "purelib", "platlib")]
    return not any(
        place.is_relative_to(folder) for folder in (*python, *(Path(name) for name in _SYSTEM))
    )
