"""Files written whole or not at all: atomic replace, digests, locks, leftovers.

A file under its final name is always complete. Writers work on a temporary file beside it,
``.tmp-<pid>-<random>.<suffix>``, and `atomic_path` puts it in place in the order that survives a
power cut: data to the disk, then the rename, then the folder that holds the new name. What a
killed process left behind is recognised by that name and removed by `clean_leftovers`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from data.common.errors import UserError

HASH_BLOCK = 4 << 20
STALE_SECONDS = 24 * 3600.0

# The first digits of the random part tell the machine, since process ids mean nothing elsewhere.
_HOST_DIGITS = 6
TEMPORARY_START = ".tmp-"
_TEMPORARY = re.compile(r"\.tmp-(?P<pid>\d+)-(?P<host>[0-9a-f]{6})[0-9a-f]{10}(\.|$)")

# Temporary files that this process is writing now. In a container every run may have the same
# process id, so the id alone does not tell our own live file from one of a killed predecessor.
_live: set[Path] = set()


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:_HOST_DIGITS]


def in_bytes(path: str | os.PathLike[str]) -> bytes:
    """Give a path as the system takes it, also where the locale has no such characters.

    Names come from JSON and from Python as well as from the locale's own command line; where the
    locale is ASCII, those characters are in UTF-8 on the disk.
    """
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        return os.fspath(path).encode("utf-8", "surrogateescape")


def temporary_path(final: str | os.PathLike[str]) -> Path:
    """Name a temporary file in the folder of ``final``, unique to this process and call."""
    final = Path(final)
    unique = f"{TEMPORARY_START}{os.getpid()}-{_host()}{secrets.token_hex(5)}"
    return final.parent / f"{unique}{final.suffix}"


@contextlib.contextmanager
def atomic_path(final: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name to write to, and put the file in place when the block ends well.

    The order is: sync the data, rename over the old file, sync the folder. When the block
    raises, Ctrl-C included, the temporary file is removed and the old file stays as it was.
    """
    final = Path(final)
    with temporary_file(final) as temporary:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, final)
        sync_folder(final.parent)


@contextlib.contextmanager
def temporary_file(final: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside ``final``, and remove what is left under it when the block ends.

    Every temporary name of Icebox comes from here or from `temporary_folder`, so that
    `clean_leftovers` knows what a killed process has left.
    """
    temporary = temporary_path(final)
    _live.add(temporary)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        _live.discard(temporary)


@contextlib.contextmanager
def temporary_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a hidden folder to fill and then to rename; what is left of it is removed at the end.

    What killed processes left of theirs in the same place is removed first.
    """
    temporary = temporary_path(Path(folder) / "folder")
    _live.add(temporary)
    try:
        temporary.mkdir(parents=True)
        clean_leftovers(folder)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _live.discard(temporary)


def put_folder(new: Path, target: Path, old: Path) -> None:
    """Rename a folder to its final name, and what is there to `old`, or leave all as it was."""
    try:
        if target.exists():
            os.rename(target, old)
        os.rename(new, target)
    except BaseException:  # Ctrl-C between the two, too
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise


def sync_file(path: str | os.PathLike[str]) -> None:
    """Wait until the content of a closed file is on the disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Wait until a folder's entries, a fresh rename among them, are on the disk."""
    if os.name != "posix":  # other systems cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and user-space file systems sync folders by themselves and say EINVAL.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    r"""Write a text file atomically, in UTF-8 with the line ends given.

    A byte of a file's name that is no UTF-8, which Python keeps as a lone surrogate, is written as
    ``\udcNN``.
    """
    # What JSON and Python read as that surrogate again; in other texts, it is legible.
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write a JSON file atomically, indented, with a final newline."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(
    path: str | os.PathLike[str], on_bytes: Callable[[int], object] | None = None
) -> str:
    """Digest a file in blocks: SHA-256, hex; ``on_bytes`` hears of each block's length."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(HASH_BLOCK))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
            if on_bytes is not None:
                on_bytes(count)
    return digest.hexdigest()


def stat_stamp(path: str | os.PathLike[str], names: Iterable[str] | None = None) -> str:
    """Fingerprint files by what the file system knows of them, without reading any.

    Two equal stamps mean the same unchanged files (size, times of change of content and of
    status, inode); a different stamp only means that the files must be read to know.
    """
    root = os.fspath(path)
    if names is None:
        names = [""] if not os.path.isdir(root) else _files_below(Path(root))
    # Whoever has 60,000 images asks this at every start: one call a file, and nothing else twice.
    stat, facts = os.stat, []
    for name in sorted(names):
        try:
            found = stat(f"{root}/{name}" if name else root)
        except FileNotFoundError:
            facts.append(f"{name}\0missing\0")
            continue
        facts.append(
            f"{name}\0{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}\0"
        )
    return hashlib.sha256("".join(facts).encode("utf-8", "surrogateescape")).hexdigest()


def _files_below(root: Path) -> list[str]:
    found = []
    for folder, _, files in os.walk(root, followlinks=True):
        below = Path(folder).relative_to(root)
        found += [(below / name).as_posix() for name in files]
    return found


@contextlib.contextmanager
def lock(
    path: str | os.PathLike[str], on_wait: Callable[[], object] | None = None
) -> Iterator[bool]:
    """Hold a lock file, so that a second process waits instead of repeating the same work.

    The lock saves work; it is not what keeps files whole (atomic renames are). So where the
    file system has no locks, the block runs without one. A lock ends with its process, however
    that ends. Its empty file is removed by who holds it; that of a killed process stays until
    the next holder is done. (Who waits looks, once it has the lock, whether the file still has a
    name, and tries again where it has none: filelock does so since 3.24.)
    """
    import filelock

    path = Path(path)
    held = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it took another way where there is no flock
            try:
                held.acquire(timeout=0)
            except filelock.Timeout:
                if on_wait is not None:
                    on_wait()
                held.acquire()
    except NotImplementedError:  # how filelock says that there is no flock
        pass
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
            raise UserError(f"cannot create the lock {path}: {_reason(path, error)}") from error
    try:
        yield held.is_locked
    finally:
        if held.is_locked:
            # While it is held, or the file could be that of the next one. One with content is a
            # lock by its existence (where there is no flock), which `release` removes itself.
            with contextlib.suppress(OSError):
                if path.stat().st_size == 0:
                    path.unlink()
        held.release()


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Tell whether another process holds a lock file; where there are no locks, none does."""
    import filelock

    if not os.path.exists(path):
        return False
    asked = filelock.FileLock(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            asked.acquire(timeout=0)
        except filelock.Timeout:
            return True
        except (OSError, NotImplementedError):
            return False
    asked.release()
    return False


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Create a folder if it is missing, and prove that a file can be written in it."""
    folder = Path(folder)
    probe = temporary_path(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                os.write(descriptor, b"icebox")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        finally:
            with contextlib.suppress(OSError):  # the reason is in the error above, if there is one
                probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write in the folder {folder}: {_reason(folder, error)}. "
            "Give another folder, or change its permissions"
        ) from error
    return folder


def _reason(path: Path, error: OSError) -> str:
    """Say why a path cannot be created: the file in its way, or the system's own words."""
    for ancestor in [path, *path.parents]:
        if os.path.lexists(ancestor):
            if not ancestor.is_dir() and error.errno in (errno.ENOTDIR, errno.EEXIST):
                return f"{ancestor} is not a folder"
            break
    return error.strerror or str(error)


def clean_leftovers(folder: str | os.PathLike[str], *, recursive: bool = False) -> list[Path]:
    """Remove the temporary files and folders of processes that are gone.

    A file of a process that runs on this machine stays, as does one of another machine (a
    shared disk) until it has not been touched for a day.
    """
    folder = Path(folder)
    removed = []
    for path in sorted(folder.rglob(".tmp-*") if recursive else folder.glob(".tmp-*")):
        if is_leftover(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def is_leftover(path: Path) -> bool:
    """Tell whether a path has a temporary name, of a process that is gone."""
    name = _TEMPORARY.match(path.name)
    if name is None or path in _live:
        return False
    try:
        age = time.time() - path.lstat().st_mtime
    except FileNotFoundError:  # its writer has just put it in place
        return False
    if age > STALE_SECONDS:
        return True
    if name["host"] != _host() or os.name != "posix":
        return False
    pid = int(name["pid"])
    return pid == os.getpid() or not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
