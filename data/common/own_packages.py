"""The names ``data``, ``extract`` and ``classify``: what else lies under them is found and named.

They are generic, and Python imports what it finds first: a user's ``data.py`` in the current
folder, or a package of that name of another distribution. The packages load this file by its path,
before they import anything by such a name; it needs the standard library alone.

``python own_packages.py extract ARGUMENTS`` is ``python -m extract ARGUMENTS`` of this very copy,
whatever lies in the current folder.
"""

from __future__ import annotations

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MARK = "Icebox"  # stands in the docstring of each of our packages


def program(name: str) -> list[str]:
    """Return the words that start ``python -m NAME``, but for what lies in the current folder."""
    return [sys.executable, os.path.abspath(__file__), name]


def check(*names: str, command: bool = False) -> None:
    """See that packages of these names, which are about to be imported, are those beside this file.

    Raises ``ImportError``; where a command line starts, prints the same message and ends it.
    """
    for name in names:
        message = clash(name)
        if message is None:
            continue
        # While `python -m NAME` looks for NAME, this word stands for the file that will be run.
        if not command and sys.argv[:1] != ["-m"]:
            raise ImportError(message)
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def folder_without_others() -> str:
    """Return a folder that may come first on Python's path: no other package has a name of ours."""
    return sys.prefix if _is_installed() else ROOT


def _is_installed() -> bool:
    """Tell a folder of packages, which is not to come before Python's own, from a checkout."""
    return os.path.basename(ROOT) in ("site-packages", "dist-packages")


def put_current_folder_last() -> None:
    """Have the current folder searched after all others: for modules that a user names.

    A command that is installed has its own folder first on ``sys.path``, and not the current one.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it has been removed
        return
    if _same(here, ROOT):
        return
    entries = [entry for entry in sys.path if entry not in ("", here)]
    if ROOT not in entries:  # where a hook finds our packages, it comes after the current folder
        entries.append(ROOT)
    sys.path[:] = [*entries, here]


def clash(name: str) -> str | None:
    """Say what would be imported, or has been, in place of our package; None where nothing is."""
    ours = os.path.join(ROOT, name)
    found = _find(name)
    if found is None or os.path.realpath(found) != os.path.realpath(ours):
        return _other(name, found, ours)
    try:
        with open(os.path.join(ours, "__init__.py"), encoding="utf-8", errors="replace") as file:
            is_ours = MARK in file.read(2000)
    except FileNotFoundError:  # compiled files alone
        is_ours = True
    return None if is_ours else _replaced(name, ours)


def _find(name: str) -> str | None:
    """Return the folder of a package, or the file of a module, without importing it."""
    import importlib.util

    loaded = sys.modules.get(name)
    if loaded is not None:
        return _place(getattr(loaded, "__file__", None)) or next(
            iter(getattr(loaded, "__path__", ())), None
        )
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        # A folder without an __init__.py, such as one of images, is no package: Python takes it
        # where it finds no other on its path, and an editable install may be found by a hook alone.
        sys.path.append(ROOT)
        importlib.invalidate_caches()
        spec = importlib.util.find_spec(name)
    return None if spec is None else _place(spec.origin)


def _place(file: str | None) -> str | None:
    """Return the folder of a package's file; of any other module, its file."""
    if file is None:
        return None
    folder, base = os.path.split(file)
    return folder if base.split(".")[0] == "__init__" else file


def _other(name: str, found: str | None, ours: str) -> str:
    """Say what lies under a name of ours, and what to do about it."""
    if found is None:
        return f"Icebox's package {name} is not at {ours}; install Icebox again"
    parent = os.path.dirname(found)
    variable = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    on_variable = any(entry and _same(entry, parent) for entry in variable)
    here = _same(parent, os.curdir) and not on_variable
    if on_variable:
        advice = [f"take {parent} off PYTHONPATH"]
    elif here:
        advice = ["run in another folder"]
    else:
        advice = [_without_distribution(name, parent) or f"take {parent} off Python's path"]
    if here:
        advice.append("use the command icebox, which does not look for packages in this folder")
    if os.path.exists(os.path.join(parent, "data", "common", "errors.py")):
        what = "is of another copy of Icebox, and would be mixed with"
    else:
        what = "has the name of a package of Icebox, and would be imported in place of"
        advice.insert(0, "rename it")
    return f"{found} {what} {ours}; {', or '.join(advice)}"


def _same(a: str, b: str) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)


def _without_distribution(name: str, parent: str) -> str | None:
    """Advise what to do about the distribution that a package belongs to."""
    import importlib.metadata

    owners = {
        found.metadata["Name"]
        for found in importlib.metadata.distributions(path=[parent])
        if any(file.parts[:1] in ((name,), (f"{name}.py",)) for file in found.files or ())
    }
    owners -= {"icebox"}
    if not owners:
        return None
    return (
        f"uninstall the distribution {', '.join(sorted(owners))}, or install Icebox in an "
        "environment of its own"
    )


def _replaced(name: str, ours: str) -> str:
    """Say that another distribution has written its files over ours."""
    advice = _without_distribution(name, os.path.dirname(ours))
    return (
        f"{os.path.join(ours, '__init__.py')} is no longer Icebox's: another distribution has "
        f"written its package {name} over it; {advice or 'use an environment for Icebox alone'}, "
        "and install Icebox again"
    )


def _start(name: str) -> None:
    """Run a program; Python has put the folder of this file first on its path."""
    if _is_installed():  # ROOT has its own place on the path
        del sys.path[0]
    else:
        sys.path[0] = ROOT
    check("data", name, command=True)
    put_current_folder_last()
    import importlib

    from data.common.cli import run_process

    run_process(importlib.import_module(f"{name}.__main__").main)


if __name__ == "__main__":
    _start(sys.argv.pop(1))
