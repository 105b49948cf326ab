"""Reports without the time that figures take; not a test."""

from __future__ import annotations

import os
from pathlib import Path

# Most of a report's time is matplotlib writing its eighteen figures.
EMPTY_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt" viewBox="0 0 1 1"></svg>\n'
)


def leave_figures_empty(monkeypatch):
    """Have matplotlib write nothing into the figures that are drawn; not in `make faults`."""
    if os.environ.get("ICEBOX_FAULTS"):
        return
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: file.write(EMPTY_SVG))


# Read by `site` at the start of every process; matplotlib may never be imported there.
EMPTY_IN_PROCESSES = """\
import importlib.util
import sys


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "matplotlib.figure":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            module.Figure.savefig = lambda self, file, **_: file.write({svg!r})

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""


def leave_figures_empty_in_processes(monkeypatch, folder: Path):
    """Do the same in the processes that are started from now on; `folder` is for what they read."""
    if os.environ.get("ICEBOX_FAULTS"):
        return
    folder.mkdir()
    text = EMPTY_IN_PROCESSES.format(svg=EMPTY_SVG)
    (folder / "sitecustomize.py").write_text(text, encoding="utf-8")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
