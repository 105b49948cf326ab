"""The version of an installed package, without what it takes to import anything."""

from __future__ import annotations

import os
import re
import sys


def installed_version(name: str) -> str:
    """Read a package's version from the name of the folder that its installer left.

    ``importlib.metadata`` gives the same, but takes as long to import as the rest of the answer
    to "is there a store?"; it is asked where the folder's name does not tell.
    """
    pattern = re.compile(
        re.sub(r"[-_.]+", "[-_.]", re.escape(name).replace("\\", "")) + r"-(\d[^-]*)\.dist-info",
        re.IGNORECASE,
    )
    for folder in sys.path:
        try:
            found = [
                match[1] for entry in os.listdir(folder) if (match := pattern.fullmatch(entry))
            ]
        except OSError:
            continue
        if len(found) == 1:
            return found[0]
        if found:
            break
    from importlib.metadata import version

    return version(name)
