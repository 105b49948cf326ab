"""Every temporary name that Icebox makes is one that `clean_leftovers` removes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import classify
import data
import extract
import icebox
from data.common.files import clean_leftovers, is_leftover

ROOT = Path(data.__file__).parents[1]
SOURCES = [
    path
    for package in (data, extract, classify, icebox)
    for path in sorted(Path(package.__file__).parent.rglob("*.py"))
]
# Where names in the system's own folder for temporary files are asked for, or files without a name.
OF_THE_SYSTEM = {
    "classify/export/head_file.py",
    "classify/feature_files.py",
    "classify/predict.py",
    "data/common/cache_folder.py",
    "data/images/spilled.py",
    "extract/exporting/torch_folder.py",
    "icebox/checks/machine.py",
}

FLOW = """
import os, sys
from pathlib import Path

seen = set()

def hook(event, arguments):
    if event in ("open", "os.rename", "os.link", "os.mkdir", "shutil.copyfile"):
        for argument in arguments[:2]:
            if isinstance(argument, (str, bytes, os.PathLike)):
                seen.add(os.fsdecode(argument))

sys.addaudithook(hook)

import numpy as np
from data.common.files import check_writable, temporary_folder, write_json
from data.format.records import SplitSource
from data.format.spec import spec_key
from data.writing import join
from data.shards import write_shard

folder = Path(sys.argv[1])
check_writable(folder / "features")
write_json(folder / "a.json", {})
with temporary_folder(folder) as partial:
    (partial / "x").write_text("")
for virtual in (False, True):
    spec, rng = {"store_dtype": "float32"}, np.random.default_rng(0)
    key, places, sources = spec_key(spec), {}, {}
    for split in ("train", "test"):
        rows, ok = rng.normal(size=(6, 3)).astype("f4"), np.ones(6, bool)
        path = folder / f"shard-{split}-000000000.h5"
        write_shard(path, rows, ok, key=key, split=split, start=0)
        places[split] = [(path, 0, 6)]
        ids = [f"{split}{row}" for row in range(6)]
        sources[split] = SplitSource(np.arange(6) % 2, ids, [(rows, ok)])
    join(folder / "d" / f"{virtual}.h5", spec=spec, request={}, provenance={},
         class_names=["a", "b"], splits=sources, shards=places if virtual else None)
for name in sorted(seen):
    print(name)
"""


def test_no_other_module_names_temporary_files():
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text("utf-8"))
        documents = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = ".tmp" in node.value and id(node) not in documents
                assert not named or name == "data/common/files.py", f"{name}:{node.lineno}"
            if isinstance(node, ast.Import) and any(a.name == "tempfile" for a in node.names):
                assert name in OF_THE_SYSTEM, f"{name}:{node.lineno}"


def test_names_that_are_made_are_known_to_the_cleaner(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FLOW, str(tmp_path)], capture_output=True, text=True, check=True
    )
    made = set()
    for line in done.stdout.splitlines():
        parts = Path(line).parts
        made |= {part for part in parts if part.startswith(".") and str(tmp_path) in line}
    assert len(made) >= 8
    folder = tmp_path / "left"
    folder.mkdir()
    for name in made:  # that process is gone, so each of its names is a leftover
        (folder / name).touch()
        assert is_leftover(folder / name), name
    assert len(clean_leftovers(folder)) == len(made)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_what_a_killed_process_leaves_beside_a_store_is_removed(tmp_path):
    code = FLOW.replace("for name in sorted(seen)", "for name in ()")
    killed = code.replace(
        "from data.writing import", "import data.virtual\n"
        "data.virtual.os.link = lambda a, b: (open(b, 'w').close(), os._exit(9))\n"
        "from data.writing import", 1,
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", killed, str(tmp_path)])
    assert done.returncode == 9
    assert len(list(tmp_path.rglob(".tmp-*"))) == 1
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert list(tmp_path.rglob(".tmp-*")) == []
