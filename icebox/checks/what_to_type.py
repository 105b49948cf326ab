"""What to type to install something into the Python that runs."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path

from icebox.checks.requirements import Installation


def pip() -> str:
    """Name the pip of this Python: as short as it can be typed here, and be no other one's."""
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip install --python {shlex.quote(_short(Path(sys.executable)))}"
    beside = Path(sys.executable).with_name("pip")
    first = shutil.which("pip")
    if first is not None and Path(first) == beside:
        return "pip install"
    if beside.is_file():
        return f"{shlex.quote(_short(beside))} install"
    return f"{shlex.quote(_short(Path(sys.executable)))} -m pip install"


def install_extra(installation: Installation, extra: str) -> str:
    """Say what installs an extra: of a checkout from its folder, else beside the wheel."""
    if not installation.checkout:
        return f"{pip()} 'icebox[{extra}]'"
    folder = _short(installation.folder)
    return f"{pip()} --editable {shlex.quote(f'{folder}[{extra}]')}"


def install_all(installation: Installation) -> str:
    """Say what installs all that is required, in the ranges that are required."""
    if not installation.checkout:
        return f"{pip()} --upgrade icebox"
    return f"{pip()} --editable {shlex.quote(_short(installation.folder))}"


def _short(path: Path) -> str:
    """Give a path from the current folder where it lies below, else in full."""
    try:
        below = os.path.relpath(path)
    except (OSError, ValueError):
        return str(path)
    return str(path) if below.startswith(os.pardir) else below
