"""Reports without the time that figures take; not a test."""

from __future__ import annotations

import os

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
