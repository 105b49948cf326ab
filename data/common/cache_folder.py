"""Where caches go: the user's cache folder, or another one where there is no home to write in.

In containers and on clusters a process may have no ``HOME`` and a user id without an entry in the
password database, or a home that it cannot write in. ``Path.home()`` then raises, and libraries
warn or fail. Nothing of a cache is worth that.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from data.common.errors import UserError

# Everything that libraries of ours keep for a user, below a folder of this variable's.
_LIBRARIES = {
    "XDG_CACHE_HOME": "",  # ours, torch.hub's, huggingface_hub's, matplotlib's
    "XDG_CONFIG_HOME": "config",
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",  # else below the name of the user
    "TRITON_CACHE_DIR": "triton",
}


def user_cache() -> Path | None:
    """Return the user's own cache folder, where there is one that can be written."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given)
    try:
        folder = Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder if _can_be_written(folder) else None


def cache_folder(features_dir: Path | None = None) -> Path:
    """Choose the folder for caches; nothing is created but a folder for temporary use.

    It is the user's cache folder, or ``FEATURES_DIR/.cache``, or without a features folder one of
    this user's in the system's folder for temporary files.
    """
    found = user_cache()
    if found is not None:
        return found
    if features_dir is not None and _can_be_written(Path(features_dir).absolute()):
        return Path(features_dir).absolute() / ".cache"
    return _temporary()


def use_cache_folder(features_dir: Path | None = None) -> None:
    """Show libraries the folder for caches, where the user has none: for a command line.

    Only variables of the environment that are not set are set, for this process and its children.
    """
    if user_cache() is not None and _has_home() and _has_name():
        return
    folder = cache_folder(features_dir)
    for name, below in _LIBRARIES.items():
        os.environ.setdefault(name, str(folder / below))
    if not _has_name():  # torch asks for one when it compiles
        os.environ["LOGNAME"] = f"uid{_uid()}"


def expand_user(text: str | os.PathLike[str]) -> Path:
    """Put the home folder in place of ``~``, also where no shell saw it."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{os.fspath(text)}: there is no home folder to put in place of ~ (HOME is not set, or "
            "there is no such user); give the path in full"
        ) from error


def _has_home() -> bool:
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def _has_name() -> bool:
    import getpass

    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        return False
    return True


def _uid() -> int:
    getuid: Callable[[], int] | None = getattr(os, "getuid", None)
    return 0 if getuid is None else getuid()


def _can_be_written(folder: Path) -> bool:
    """Tell whether files can be made there, or the folder itself where it is missing."""
    for place in (folder, *folder.parents):
        if os.path.lexists(place):
            return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return False


def _temporary() -> Path:
    """Make a folder that is this user's alone, the same one each time, if nobody is in its way."""
    folder = Path(tempfile.gettempdir()) / f"icebox-cache-{_uid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == _uid() and not found.st_mode & 0o022:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="icebox-cache-"))
