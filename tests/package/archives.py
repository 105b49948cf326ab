"""The wheel and the source archive: built, made reproducible, and compared with what git tracks.

Not a test: `check_package.py`, which ``make package`` runs, and the tests beside it use this.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from email.message import Message
from email.parser import Parser
from pathlib import Path

PACKAGES = ("classify", "data", "extract", "icebox")
# What a checkout has and the source archive has not, and the other way round.
ONLY_TRACKED = {".gitignore"}
MADE = ("PKG-INFO", "setup.cfg", "icebox.egg-info/")
# Zip files know no earlier date.
EARLIEST = 315_532_800

_BUILD = """\
import sys
from setuptools import build_meta

out = sys.argv[1]  # setuptools puts arguments of its own there
print(build_meta.build_sdist(out), build_meta.build_wheel(out))
"""


def build_here(source: Path, out: Path) -> tuple[Path, Path]:
    """Build both from a folder with this environment's setuptools: source archive, wheel."""
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(out)], cwd=source, capture_output=True, text=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(EARLIEST)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    archive, wheel = done.stdout.splitlines()[-1].split()
    return out / archive, out / wheel


def tracked(root: Path) -> set[str] | None:
    """Return the files that git tracks and that are there; None outside a checkout."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    return {name for name in done.stdout.split("\0") if name and (root / name).is_file()}


def in_archive(path: Path) -> set[str]:
    """Return the files of a source archive below its one folder, without those that it makes."""
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    return {name for name in names if not name.startswith(MADE)}


def in_wheel(path: Path) -> set[str]:
    """Return the files of the packages in a wheel."""
    with zipfile.ZipFile(path) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def metadata(path: Path) -> Message:
    """Read what a wheel says of itself."""
    with zipfile.ZipFile(path) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(wheel.read(name).decode("utf-8"))


def differences(root: Path, archive: Path, wheel: Path) -> list[str]:
    """Say what git tracks and an archive lacks, or the other way round."""
    known = tracked(root)
    if known is None:
        return []
    found = in_archive(archive)
    of_packages = {name for name in known if name.split("/")[0] in PACKAGES}
    said = {
        "missing in the source archive": known - found - ONLY_TRACKED,
        "in the source archive, and not tracked by git": found - known,
        "missing in the wheel": of_packages - in_wheel(wheel),
        "in the wheel, and not tracked by git": in_wheel(wheel) - of_packages,
    }
    return [f"{what}: {_some(names)}" for what, names in said.items() if names]


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def date_of(root: Path) -> int:
    """Date what is built: SOURCE_DATE_EPOCH, or that of the commit, or the earliest there is."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    command = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else EARLIEST


def repack(archive: Path, date: int) -> None:
    """Write a source archive again without the dates and names of who built it."""
    content = io.BytesIO()
    # Unpacked at once: members are not read in the order in which they lie.
    unpacked = io.BytesIO(gzip.decompress(archive.read_bytes()))
    with tarfile.open(fileobj=unpacked) as old, tarfile.open(fileobj=content, mode="w") as new:
        for member in sorted(old, key=lambda found: found.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = date, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    archive.write_bytes(gzip.compress(content.getvalue(), mtime=date))


def repack_wheel(path: Path) -> None:
    """Write a wheel again without the permissions that files had where it was built.

    Its dates are those of SOURCE_DATE_EPOCH already.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(content, "w") as new:
        # What a wheel says of itself stands at its end.
        order = sorted(old.namelist(), key=lambda name: (".dist-info/" in name, name))
        for member in map(old.getinfo, order):
            info = zipfile.ZipInfo(member.filename, member.date_time)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            new.writestr(info, old.read(member), zipfile.ZIP_DEFLATED)
    path.write_bytes(content.getvalue())
