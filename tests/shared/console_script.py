"""The command `icebox` as an installer writes it to its folder of programs; not a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """#!{python}
# -*- coding: utf-8 -*-
import re
import sys
from icebox.__main__ import console
if __name__ == "__main__":
    sys.argv[0] = re.sub(r"(-script\\.pyw|\\.exe)?$", "", sys.argv[0])
    sys.exit(console())
"""


def write_script(folder: Path) -> Path:
    """Write the console script of pyproject.toml's entry point, as pip does."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "icebox"
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(0o755)
    return script


def typed(*words, cwd, path=(ROOT,), **environment):
    """Run words as a user would type them in a folder; `path` is PYTHONPATH."""
    return subprocess.run(
        list(map(str, words)),
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
