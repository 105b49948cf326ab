"""Disks that fill up and memory that ends, under whole command lines: one message, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_lines import DIGITS, NO_FIGURES, again, content, extraction, files_of, finish, start
from fault_world import digests, write_store
from small_disk import SmallDisk

LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`


def one_message(process):
    out, err = finish(process, 2)
    assert out == ""
    assert "Traceback" not in err
    (said,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return err[err.index(said) :]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of a given size of its own; root alone may make one."""
    with SmallDisk(tmp_path / "disk") as disk:

        def mount(size, *more):
            if not disk.mount(size, *more):
                pytest.skip("a small disk cannot be mounted here")
            return disk.folder

        yield mount


def test_a_small_disk_goes_with_its_process_even_if_that_is_killed(small_disk, tmp_path):
    small_disk("64k")  # or this is skipped
    folder = tmp_path / "other"
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from small_disk import SmallDisk
with SmallDisk(Path(sys.argv[1])) as disk:
    print(disk.mount("64k"), flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"True\n"
    assert os.path.ismount(folder)
    process.kill()
    process.communicate()
    until = time.monotonic() + 20
    while os.path.ismount(folder):
        assert time.monotonic() < until, "the disk is still there"
        time.sleep(0.01)


def test_the_disk_fills_up_while_shards_are_written(small_disk, expected):
    folder = small_disk("96k")
    said = one_message(extraction(folder))
    assert "the disk is full: it needs 0." in said
    assert "MiB free" in said
    kept = files_of(folder)
    assert any("shard-train-000000000.h5" in name for name in kept)
    assert not any(".tmp-" in name for name in kept)
    small_disk("4m", "remount,")
    store, err = again(folder)
    assert "going on: " in err
    assert content(store) == expected
    assert files_of(folder) == [str(store.relative_to(folder))]


@pytest.mark.parametrize("step", ["data.shards.reserve@2", "data.writing.reserve@1"])
def test_no_file_may_grow_any_more(step, tmp_path, expected):
    said = one_message(extraction(tmp_path, "disk", step))
    assert "files of this size are not allowed here (see ulimit -f): it needs 0." in said
    store, err = again(tmp_path)
    assert "going on: " in err
    assert content(store) == expected
    assert files_of(tmp_path) == [str(store.relative_to(tmp_path))]


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "a.h5", [0, 1, 2] * 20, [0, 1, 2] * 4, ["a", "b", "c"])


def fit(store, reports, *steps):
    words = [store, f"--reports-dir={reports}", "--jobs=1", "--c=1", "--no-few-shot"]
    return start("halt", steps, "classify", "fit", *words)


def test_the_disk_fills_up_while_a_report_is_written(small_disk, store):
    reports = small_disk("48k")
    said = one_message(fit(store, reports))
    assert f"cannot write {reports}: the disk is full: it needs 4." in said
    assert digests(reports) == {}
    small_disk("8m", "remount,")
    finish(fit(store, reports, *NO_FIGURES))


def test_a_disk_without_room_for_the_heads_is_said_before_the_fit(small_disk, tmp_path):
    reports = small_disk("600k")  # 190 pairs of 1,000 features are 760,000 bytes
    y = np.arange(40) % 20
    store = write_store(tmp_path / "a.h5", y, y, [f"class {i}" for i in range(20)], d=1000)
    said = one_message(fit(store, reports, "kill:classify.fit.fit_store._fit_all"))
    assert f"cannot write {reports}: the disk is full: it needs 0." in said
    assert digests(reports) == {}


def test_no_report_may_grow_any_more(store, tmp_path):
    before = digests(tmp_path)
    said = one_message(fit(store, tmp_path / "reports", "disk:classify.fit.output.write_report"))
    assert "it needs 4." in said
    assert digests(tmp_path) == before


# Not in the middle of a fit: OpenBLAS itself, refused its buffers, may wait for ever.
MEMORY = {
    "reading the store": "classify.fit.fit_store.open_store",
    "evaluating": "classify.analysis.evaluate.evaluate",
    "drawing the report": "classify.fit.output.write_report",
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("step", MEMORY if LONG else ["reading the store"])
def test_a_fit_runs_out_of_memory(step, tmp_path):
    rows = np.random.default_rng(0).normal(size=(4000, 600))
    y = np.arange(4000) % 5
    store = write_store(tmp_path / "a.h5", y, y, "abcde", rows, rows)
    before = digests(tmp_path)
    process = fit(store, tmp_path / "reports", f"memory:{MEMORY[step]}")
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    if process.returncode == 0:  # what was left was enough
        return
    assert process.returncode == 2, err
    assert "memory" in err
    assert digests(tmp_path) == before
    assert out == ""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_an_extraction_runs_out_of_memory_and_goes_on_later(tmp_path):
    words = [w for w in DIGITS if not w.startswith(("--image-size", "--batch-size"))]
    words += ["--image-size=128", "--batch-size=64", f"--features-dir={tmp_path}"]
    steps = ["memory:extract.engines.embed.Embedder.embed@3"]
    said = one_message(start("halt", steps, "extract", *words))
    assert "batches of 64 do not fit into the memory" in said
    assert not list(tmp_path.glob("*/*.h5"))
    out, _ = finish(start("halt", [], "extract", *words))
    assert files_of(tmp_path) == [str(Path(out.strip()).relative_to(tmp_path))]
