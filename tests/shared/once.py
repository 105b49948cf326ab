"""What one of the processes of a test run makes for all of them; not a test."""

from __future__ import annotations

import json
import os

from filelock import FileLock


def once_a_run(tmp_path_factory, name, make):
    """Give what `make` returns of an empty folder; it is called in one process of the run.

    What it returns is written as JSON. No test may change what is in the folder.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return make(tmp_path_factory.mktemp(name))
    shared = tmp_path_factory.getbasetemp().parent  # of the folders of all processes
    folder, told = shared / f"once-{name}", shared / f"once-{name}.json"
    with FileLock(f"{folder}.lock"):
        if not told.exists():
            folder.mkdir()
            told.write_text(json.dumps(make(folder)), encoding="utf-8")
    return json.loads(told.read_text(encoding="utf-8"))
