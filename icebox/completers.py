"""What can stand for an argument or after an option: words, names of models, files."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from classify.heads.registry import HEADS
from data.common.packages import package_folder

Completer = Callable[..., Iterable[str]]
_HEADS = (".safetensors", ".skops")
# By the name of a value in the help; of an option, where the name alone does not say it.
_SUFFIXES = {
    "FILE.h5": (".h5",),
    "HEAD.safetensors": _HEADS,
    "HEAD": _HEADS,
    "HEAD|STORE": (*_HEADS, ".h5"),
    "FILE.pt": (".pt", ".pth", ".bin"),
    "LIST.json": (".json",),
}
_FOLDERS = {"DIR", "FOLDER", "REPORT_DIR", "RUN_DIR"}
_FILES = {"FILE", "PATH", "IMAGE", "OUT"}
_DATASETS = ("cifar10", "cifar100", "digits", "elpv", "hf:", "wds:", "torchvision:")
_MODELS = ("pixels", "hf-hub:", "local-dir:", "open_clip:", "transformers:")


def attach(parser: argparse.ArgumentParser) -> None:
    """Give each argument and option of a parser its completer, where it takes a value."""
    for action in parser._actions:
        if action.nargs != 0 and not action.choices and not hasattr(action, "completer"):
            action.completer = _completer(action)  # type: ignore[attr-defined]


def _completer(action: argparse.Action) -> Completer:
    names = set(action.option_strings)
    if names & {"--head", "--strategy"}:
        return _words(HEADS)
    if "--model" in names:
        return lambda prefix, **_: _starting(prefix, [*_MODELS, *model_names()])
    if "--dataset" in names:
        return lambda prefix, **_: [*_starting(prefix, _DATASETS), *files(prefix)]
    metavar = str(action.metavar or "")
    if metavar in _SUFFIXES:
        suffixes = _SUFFIXES[metavar]
        return lambda prefix, **_: files(prefix, suffixes)
    if metavar in _FOLDERS or names & {"--data-dir", "--features-dir", "--reports-dir"}:
        return lambda prefix, **_: files(prefix, ())
    parts = metavar.split("|")
    fixed = [part for part in parts if re.fullmatch(r"[a-z][a-z0-9+]*", part)]
    if _FILES & set(parts) or action.type is Path:
        return lambda prefix, **_: [*_starting(prefix, fixed), *files(prefix)]
    return _words(fixed)


def _words(known: Iterable[str]) -> Completer:
    return lambda prefix, **_: _starting(prefix, known)


def _starting(prefix: str, known: Iterable[str]) -> list[str]:
    return [word for word in known if word.startswith(prefix)]


def files(prefix: str, suffixes: tuple[str, ...] | None = None) -> list[str]:
    """List files and folders that a path may become; of files, those with such suffixes.

    Of ``a.h5+b``, what may follow the ``+``. Where one folder is all that there is, what is in it.
    """
    before, plus, path = prefix.rpartition("+")
    if plus and not before.endswith(".h5"):
        before, plus, path = "", "", prefix
    found = _listed(path, suffixes)
    while len(found) == 1 and found[0].endswith("/"):
        inside = _listed(found[0], suffixes)
        if not inside:
            break
        found = inside
    return [f"{before}{plus}{name}" for name in found]


def _listed(path: str, suffixes: tuple[str, ...] | None) -> list[str]:
    folder, start = os.path.split(path)
    try:
        entries = list(os.scandir(os.path.expanduser(folder) or os.curdir))
    except OSError:
        return []
    found = []
    for entry in entries:
        if not entry.name.startswith(start) or (entry.name[0] == "." and start[:1] != "."):
            continue
        name = os.path.join(folder, entry.name)
        if entry.is_dir():
            found.append(f"{name}/")
        elif suffixes is None or entry.name.endswith(suffixes):
            found.append(name)
    return sorted(found)


def model_names() -> list[str]:
    """List timm's models, with tags, from its source: to import it takes seconds."""
    package = package_folder("timm")
    architectures: set[bytes] = set()
    tagged: set[bytes] = set()
    for file in (package / "models").glob("*.py") if package else ():
        source = file.read_bytes()
        architectures.update(re.findall(rb"^@register_model\s+def (\w+)\(", source, re.MULTILINE))
        tagged.update(re.findall(rb"""^ +["']([a-z]\w+\.\w+)["']: """, source, re.MULTILINE))
    tagged = {
        name
        for name in tagged
        if name.split(b".")[0] in architectures and not name.endswith(b".untrained")
    }
    return sorted(name.decode() for name in architectures | tagged)
