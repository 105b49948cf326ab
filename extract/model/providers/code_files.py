"""The source files of a user's own network, found without running any of them.

A module is looked for where Python would look, and so are the modules of the user's that it
imports. Their digests are in the key of a store, and a finished store is found by them alone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data.common.errors import UserError, nearest
from data.common.files import sha256_file

# What is this project's, though it may lie beside the user's own modules.
_OURS = ("data", "extract", "classify")
# Of an installed package; of the user's own folder there is no bound.
MOST_FILES = 300


class Code(NamedTuple):
    """The source of a module, and of what it imports of the user's own."""

    root: Path  # the folder on ``sys.path`` in which the module, or its package, lies
    file: Path  # of the module itself
    files: tuple[Path, ...]  # all of them, below the root

    def digests(self) -> dict[str, str]:
        """Digest each file, by its name below the root."""
        return {path.relative_to(self.root).as_posix(): sha256_file(path) for path in self.files}

    @property
    def is_installed(self) -> bool:
        """Whether it is part of Python or of an installed package, not of the user's own folder."""
        return _is_installed(self.root)


def find_code(module: str, model: str) -> Code:
    """Find the source of a module and of the modules of the user's that it imports."""
    file = _find(module, model)
    depth = module.count(".") + (file.name == "__init__.py")
    root = file.parents[depth]
    # Beside an installed package lie all others.
    within = (module.partition(".")[0],) if _is_installed(root) else ()
    found = _imported(root, module, file, within)
    if len(found) > MOST_FILES:
        raise UserError(
            f"--model {model}: {module} belongs to an installed package and imports more than "
            f"{MOST_FILES} files of it, all of which would be in a store's key; write the factory "
            "in a module of your own"
        )
    return Code(root, file, tuple(sorted(found)))


def digest_of(digests: dict[str, str]) -> str:
    """Make one digest of those of several files."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def check_defines(code: Code, name: str, model: str) -> None:
    """Refuse a name that a module plainly does not define; what cannot be told is left to it."""
    tree = _parsed(code.file)
    if tree is None:
        return
    known: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(part.name == "*" for part in node.names):
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            known |= {(part.asname or part.name).partition(".")[0] for part in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            known.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.add(node.id)
    if name not in known and "__getattr__" not in known:
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        near = nearest(name, functions) or f"it has {', '.join(functions) or 'no function'}"
        raise UserError(f"--model {model}: {code.file} has no function {name}; {near}")


def _is_installed(root: Path) -> bool:
    """Tell a folder of Python or of installed packages from one of the user's own."""
    paths = sysconfig.get_paths()
    python = {Path(paths[name]) for name in ("stdlib", "platstdlib")}
    packages = {"site-packages", "dist-packages"} & set(root.parts)
    return bool(packages) or bool(python & {root, *root.parents}) or any(root.glob("*.dist-info"))


def _find(module: str, model: str) -> Path:
    """Find the file of a module; packages around it are not imported."""
    first, *others = module.split(".")
    importlib.invalidate_caches()  # files may have come and gone while a program runs
    spec = importlib.machinery.PathFinder.find_spec(first)
    if spec is None:  # an editable install has a finder of its own
        try:
            spec = importlib.util.find_spec(first)
        except (ImportError, ValueError):
            spec = None
    if spec is None:
        raise _not_found(first, model)
    origin, folders = spec.origin, [Path(p) for p in spec.submodule_search_locations or []]
    name = first
    for part in others:
        name = f"{name}.{part}"
        files = [
            file
            for folder in folders
            for file in (folder / part / "__init__.py", folder / f"{part}.py")
            if file.is_file()
        ]
        folders = [folder / part for folder in folders if (folder / part).is_dir()]
        if not files and not folders:
            raise _not_found(name, model)
        origin = str(files[0]) if files else None
        if files:
            folders = [files[0].parent] if files[0].name == "__init__.py" else []
    if not origin or not origin.endswith(".py") or not Path(origin).is_file():
        raise UserError(
            f"--model {model}: {module} is no file of Python's ({origin or 'a folder'}), and the "
            "source is part of a store's key; give the module that defines the factory"
        )
    return Path(origin).absolute()


def _not_found(name: str, model: str) -> UserError:
    # The current folder first, wherever the command that was typed has it searched.
    places = sorted(sys.path, key=lambda place: place not in ("", os.getcwd()))[:2]
    places = [place or "the folder of this process" for place in places]
    return UserError(
        f"--model {model}: there is no module {name} on Python's path ({', '.join(places)}, ...); "
        "run the command in the folder that holds it, or name that folder in PYTHONPATH. Other "
        "forms are a name of timm, hf-hub:, local-dir:, open_clip: and transformers:"
    )


def _imported(root: Path, module: str, file: Path, within: tuple[str, ...]) -> set[Path]:
    """Follow the imports of a module, as far as they lead to files below the root."""
    found: set[Path] = set()
    todo = [(module, file)]
    while todo:
        name, path = todo.pop()
        if path in found:
            continue
        found.add(path)
        if within and len(found) > MOST_FILES:
            break
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        wanted = {*_parents(name), *_names_in(path, package)}
        for other in sorted(wanted):
            if other.partition(".")[0] in _OURS or (within and other.split(".")[0] not in within):
                continue
            source = _below(root, other)
            if source is not None and source not in found:
                todo.append((other, source))
    return found


def _parents(name: str) -> Iterator[str]:
    """Name the packages around a module, whose files are run before it."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _names_in(path: Path, package: str) -> Iterator[str]:
    """Name what a file imports, with the packages around it; a name may be no module."""
    tree = _parsed(path)
    for node in ast.walk(tree) if tree is not None else ():
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [part.name for part in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".") if package else []
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            names = [base, *(f"{base}.{part.name}" for part in node.names)]
        for name in names:
            yield name
            yield from _parents(name)


def _below(root: Path, name: str) -> Path | None:
    """Find the file of a module below a folder; None where there is none."""
    if not name or name.startswith("."):
        return None
    place = root.joinpath(*name.split("."))
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            return path
    return None


def _parsed(path: Path) -> ast.Module | None:
    """Parse a file; None where Python could not, which importing it will say."""
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
