"""The README's promises name tests that exist, and SECURITY.md's word on networks holds."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from fault_world import DIGITS
from warm_processes import run_warm

ROOT = Path(__file__).parents[2]


def test_every_promise_has_its_test():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## What it promises")[1].split("\n## ")[0]
    rows = [row.strip("|").split("|") for row in section.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 16
    for row in rows:
        assert len(row) == 3, row
        named = re.findall(r"`([^`]+)`", row[2])
        assert named, row
        for name in named:
            assert (ROOT / "tests" / "faults" / name).exists(), name


WATCHED = """
import json, sys
seen = set()
NAMES = ("socket.bind", "socket.connect", "socket.sendto", "os.system", "subprocess.Popen",
         "pickle.find_class")
def note(name, arguments):
    if armed and name in NAMES and arguments[0] != "uname":  # which Python's platform asks
        seen.add(name)
sys.addaudithook(note)
armed = False
import torch, sklearn, data.common.cli, extract.__main__, classify.__main__
program, *words = sys.argv[1:]
main = {"extract": extract.__main__.main, "classify": classify.__main__.main}[program]
armed = True
code = data.common.cli.run(main, words)
armed = False
print(json.dumps(sorted(seen)))
sys.exit(code)
"""


def watched(*words):
    done = run_warm(
        [sys.executable, "-c", WATCHED, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    path, seen = done.stdout.strip().splitlines()
    return Path(path), json.loads(seen)


def test_nothing_is_sent_listened_to_started_or_unpickled(tmp_path):
    """In whole runs of both stages, where data and weights are at hand."""
    store, seen = watched("extract", *DIGITS, f"--features-dir={tmp_path}/features")
    assert seen == []
    words = ["fit", store, "--c=1", "--jobs=1", "--strategy=ovr", f"--reports-dir={tmp_path}/r"]
    _, seen = watched("classify", *words)
    assert seen == []
