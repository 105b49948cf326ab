"""The store when things go wrong for real: signals, full disks, other processes."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from warm_processes import WarmProcess

from data.common.files import clean_leftovers
from data.format.records import StoreError
from data.reading import open_features
from data.shards import read_shard, write_shard

ROOT = Path(__file__).parents[2]

PRELUDE = f"""
import os, resource, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
import data.writing, data.common.files, data.shards
from data.common.errors import UserError
from data.shards import write_shard
from data.format.records import StoreError
from data.reading import open_features
from store_writer import halt, write
"""


def write(path, value):
    """Do in this process what `write` does in the others."""
    helper = Path(__file__).with_name("store_writer.py")
    spec = importlib.util.spec_from_file_location("store_writer", helper)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(path, value)


def start(code, *args, cold=False):
    """Run code in a process, which is `cold` where its end matters: HDF5 may speak at exit."""
    return (subprocess.Popen if cold else WarmProcess)(
        [sys.executable, "-c", PRELUDE + code, *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return out, err


def value_of(path):
    """The one value of a store, which is whole: every row of both splits has it."""
    found = open_features(path)
    values = {*found.train.features.flat, *found.test.features.flat, found.provenance["value"]}
    assert len(values) == 1
    return values.pop()


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "features" / "store.h5"
    write(path, 1.0)
    return path


# -- killed -----------------------------------------------------------------------------------

STEPS = {
    "reserving": "data.writing.reserve = halt",
    "rows": "n = iter([1] * 9); pause = lambda: next(n, None) or halt()",
    "arrays written": "data.writing.digest_ids = halt",
    "finishing": "data.writing.Skeleton.finish = halt",
    "reading back": "data.writing.verify_store = halt",
    "syncing": "data.common.files.sync_file = halt",
    "renaming": "os.replace = halt",
    "renamed": "data.common.files.sync_folder = halt",
}


@pytest.mark.parametrize("step", STEPS)
def test_killed_while_joining(store, step):
    pause = "pause" if step == "rows" else "lambda: None"
    writer = start(f"{STEPS[step]}\nwrite(sys.argv[1], 2.0, pause={pause})", store)
    assert writer.stdout.readline() == "there\n"
    writer.kill()
    writer.communicate()
    assert value_of(store) == (2 if step == "renamed" else 1)
    left = [path.name for path in store.parent.iterdir() if path != store]
    assert len(left) == (0 if step == "renamed" else 1)
    write(store, 3.0)
    assert value_of(store) == 3
    assert list(store.parent.iterdir()) == [store]


def test_killed_at_random_times(store):
    chance = random.Random(0)
    writes = "print('go', flush=True)\nfor n in range(2, 999): write(sys.argv[1], float(n))"
    for _ in range(8):
        writer = start(writes, store)
        writer.stdout.readline()
        time.sleep(chance.uniform(0, 0.25))
        writer.kill()
        writer.communicate()
        assert value_of(store) >= 1
    clean_leftovers(store.parent)
    assert list(store.parent.iterdir()) == [store]


def test_killed_while_writing_a_shard(tmp_path):
    path = tmp_path / "shard.h5"
    asked = {"key": "k", "split": "train", "start": 0}
    values = np.ones((4, 3), np.float32)
    write_shard(path, values, np.ones(4, bool), **asked)
    code = """
write_shard(sys.argv[1], np.full((4, 3), 2, np.float32), np.ones(4, bool), key="k", split="train",
            start=0)
"""
    for step in (
        "data.shards.reserve",
        "data.shards._read",
        "data.common.files.sync_file",
        "os.replace",
    ):
        writer = start(f"{step} = halt{code}", path)
        assert writer.stdout.readline() == "there\n"
        writer.kill()
        writer.communicate()
        features, _ = read_shard(path, **asked, stop=4)
        np.testing.assert_array_equal(features, values)
        assert len(clean_leftovers(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_leaves_no_temporary_file(store):
    code = """
try:
    write(sys.argv[1], 2.0, pause=halt)
except KeyboardInterrupt:
    sys.exit(130)
"""
    writer = start(code, store)
    assert writer.stdout.readline() == "there\n"
    writer.send_signal(signal.SIGINT)
    finish(writer, 130)
    assert value_of(store) == 1
    assert list(store.parent.iterdir()) == [store]


# -- full disks -------------------------------------------------------------------------------

# Limits from nothing to just too little. Without `reserve` the disk fills up at some write in the
# middle, as it does when others write at the same time. Nothing may come from HDF5, at exit either.
LIMITED = """
if sys.argv[2] == "late":
    data.writing.reserve = data.shards.reserve = lambda *_: None
for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        {action}
    except UserError as error:
        print(error)
    else:
        print("unnoticed")
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_no_room_for_the_store(store, when):
    limits = [0, 600, 5000, 63_000, 65_000, 100_000, 130_000, 160_000, 200_000]
    assert store.stat().st_size > limits[-1]
    action = "write(sys.argv[1], 2.0)"
    out, err = finish(start(LIMITED.format(action=action), store, when, *limits, cold=True))
    assert err == ""
    assert len(out.splitlines()) == len(limits)
    for line in out.splitlines():
        assert f"cannot write {store}: files of this size are not allowed" in line
        assert "it needs 0." in line
        assert "MiB free" in line
    assert value_of(store) == 1
    assert list(store.parent.iterdir()) == [store]


@pytest.mark.parametrize("when", ["early", "late"])
def test_no_room_for_a_shard(tmp_path, when):
    action = (
        "write_shard(sys.argv[1], np.ones((99, 9), np.float32), np.ones(99, bool), key='k', "
        "split='train', start=0)"
    )
    limits = [0, 500, 2000, 4000]
    path = tmp_path / "shard.h5"
    out, err = finish(start(LIMITED.format(action=action), path, when, *limits, cold=True))
    assert err == ""
    assert out.count("it needs 0.0 MiB") == len(limits)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_files(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "a.h5", Path("/proc/icebox/a.h5")):
        writer = start(
            "try: write(sys.argv[1], 2.0)\nexcept StoreError as error: sys.exit(str(error))", path
        )
        _, err = finish(writer, 1)
        assert f"cannot write {path}" in err
        assert len(err.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_no_memory_for_the_rows(tmp_path):
    path = tmp_path / "a.h5"
    code = """
write(sys.argv[1], 1.0, n=1000, width=16384)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), used + (8 << 20)))
try:
    open_features(sys.argv[1])
except UserError as error:
    print(error)
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    out, _ = finish(start(code, path))
    assert "memory" in out
    assert str(path) in out


# -- several processes ------------------------------------------------------------------------


def test_a_reader_sees_the_old_or_the_new_file_whole(store):
    code = """
until = time.monotonic() + 2
n = 1
while time.monotonic() < until:
    n += 1
    write(sys.argv[1], float(n), n=100 * (1 + n % 20))
print(n)
"""
    writer = start(code, store)
    seen = []
    while writer.poll() is None:
        seen.append(value_of(store))
    last = int(finish(writer)[0])
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert value_of(store) == last > 5


def test_several_writers_of_one_store_leave_one_whole_file(tmp_path):
    path = tmp_path / "new" / "store.h5"
    code = "for _ in range(5): write(sys.argv[1], float(sys.argv[2]))"
    writers = [start(code, path, n) for n in range(1, 5)]
    for writer in writers:
        finish(writer)
    assert value_of(path) in (1, 2, 3, 4)
    assert list(path.parent.iterdir()) == [path]


# -- order ------------------------------------------------------------------------------------


def test_verified_then_synced_then_renamed_then_the_folder_synced(store, monkeypatch):
    import data.writing
    from data.format.records import SplitSource

    calls = []

    def trace(module, name, label):
        real = getattr(module, name)

        def traced(*args):
            calls.append(label(*args))
            return real(*args)

        monkeypatch.setattr(module, name, traced)

    def synced(descriptor):
        return f"sync {'folder' if stat.S_ISDIR(os.fstat(descriptor).st_mode) else 'file'}"

    trace(data.writing, "verify_store", lambda *_: "verify")
    trace(os, "fsync", synced)
    trace(os, "replace", lambda *_: "rename")
    trace(os, "pwrite", lambda *_: "write")

    def source():
        block = (np.ones((1, 2), np.float32), np.ones(1, bool))
        return SplitSource(np.zeros(1, int), ["a"], [block])

    splits = {"train": source(), "test": source()}
    texts = {"request": {}, "provenance": {}, "class_names": ["a"]}
    data.writing.join(store, spec={"store_dtype": "float32"}, splits=splits, **texts)
    order = [call for call, before in zip(calls, [None, *calls], strict=False) if call != before]
    assert order == ["write", "verify", "sync file", "rename", "sync folder"]


def test_a_store_replaced_by_rubbish_between_two_reads_is_refused(store):
    value_of(store)
    store.write_bytes(b"rubbish")
    with pytest.raises(StoreError, match="not an HDF5 file"):
        open_features(store)
