"""Python processes that find only some of the installed packages, as on a machine with fewer."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

# Read by `site` at the start of every process, and so of those that it starts.
HIDE = """\
import importlib.machinery
import importlib.metadata

HIDDEN_MODULES = frozenset({modules!r})
HIDDEN_DISTRIBUTIONS = frozenset({distributions!r})
_find = importlib.machinery.PathFinder.find_spec
_distribution = importlib.metadata.distribution


def find_spec(cls, name, path=None, target=None):
    if name.partition(".")[0] in HIDDEN_MODULES:
        return None
    return _find(name, path, target)


def distribution(name):
    if name.lower().replace("_", "-") in HIDDEN_DISTRIBUTIONS:
        raise importlib.metadata.PackageNotFoundError(name)
    return _distribution(name)


importlib.machinery.PathFinder.find_spec = classmethod(find_spec)
importlib.metadata.distribution = distribution
"""


def closure(names):
    """What is installed with some distributions: themselves and what they need, without extras."""
    found, waiting = set(), [name.lower() for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needed = requires(name) or []
        except PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        plain = [line for line in needed if "extra ==" not in line]
        waiting += [re.match(r"[\w.-]+", line).group().lower().replace("_", "-") for line in plain]
    return found


def bare_environment(folder: Path, *names: str) -> dict[str, str]:
    """Make the environment of processes that find these distributions, what they need, and no more.

    The repository is found, and is not installed.
    """
    seen, modules, distributions = closure(names), set(), set()
    for module, owners in packages_distributions().items():
        owners = {owner.lower().replace("_", "-") for owner in owners}
        distributions |= owners - seen
        if not owners & seen:
            modules.add(module)
    ours = {"data", "extract", "classify", "icebox", "benchmarks"}
    text = HIDE.format(modules=sorted(modules - ours), distributions=sorted(distributions))
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(root)])}
