"""A run that is killed, interrupted or damaged ends with the same bits as one that is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm_processes import WarmProcess

from data.reading import verify_store
from extract.engines import embed
from extract.engines import plan as plans
from extract.shards import plan as shards

ROOT = Path(__file__).parents[3]
# The very command line, in a process of its own, cut into small shards; it can be told to kill
# itself, without any chance to tidy up, in the middle of a batch or of writing a shard.
SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs of a shell
import torch
torch.set_num_threads(1)
import extract.shards.plan, extract.engines.embed, data.shards
extract.shards.plan.SHARD_ROWS = 32
where, when, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
calls = 0
def deadly(function, name):
    def called(*args, **kwargs):
        global calls
        calls += where == name
        if calls == when:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "embed":
            import time
            time.sleep(pause)
        return function(*args, **kwargs)
    return called
extract.engines.embed.Embedder.embed = deadly(extract.engines.embed.Embedder.embed, "embed")
data.shards._read = deadly(data.shards._read, "written")
from data.common.cli import run
from extract.__main__ import main
sys.exit(run(main, sys.argv[4:]))
"""


def start(small_job, features, where="", when=-1, pause=0.0):
    command = [sys.executable, "-c", SCRIPT, where, str(when), str(pause), *small_job]
    return WarmProcess(
        [*command, "--features-dir", str(features)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def datasets(path):
    return {entry.name: entry.sha256 for entry in verify_store(path).datasets}


@pytest.fixture
def cut_small(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 32)


@pytest.fixture
def expected(call, tmp_path, cut_small, small_job):

    done = call(*small_job, "--features-dir", tmp_path / "uninterrupted")
    assert done.code == 0, done.err
    return datasets(done.path)


@pytest.mark.parametrize(("where", "when"), [("embed", 5), ("written", 2)])
def test_kill_9_at_any_moment(small_job, small, features, expected, where, when):
    process = start(small_job, features, where, when)
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    assert not list(features.glob("*/*.h5")), "nothing under a final name"
    kept = list(features.glob(".work/*/shard-*.h5"))
    # In the fifth batch, the second shard of two batches may still be being written.
    assert len(kept) in ((1, 2) if where == "embed" else (1,))
    stamps = {path: path.stat().st_ino for path in kept}
    done = small()
    assert done.code == 0, done.err
    assert f"going on: {32 * len(kept)} of 125 images are done" in done.err
    assert datasets(done.path) == expected
    assert stamps
    assert not list(features.glob(".work/*/*"))


def test_ctrl_c(small_job, small, features, expected):
    process = start(small_job, features, pause=0.3)
    deadline = time.monotonic() + 120
    while not list(features.glob(".work/*/shard-*.h5")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("interrupted: ")
    assert "of 125 images are kept" in last
    assert "same command" in last
    done = small()
    assert "going on" in done.err
    assert datasets(done.path) == expected


def interrupted(small, monkeypatch, after=3):
    original = embed.Embedder.embed
    calls = []

    def stop(self, images):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return original(self, images)

    monkeypatch.setattr(embed.Embedder, "embed", stop)
    done = small()
    assert done.code == 130
    monkeypatch.setattr(embed.Embedder, "embed", original)


def test_the_interrupted_runs_own_choices_are_kept(
    small, features, expected, monkeypatch, cut_small
):
    interrupted(small, monkeypatch)
    # The automatic choice has changed meanwhile; the batch size of the first run counts.
    monkeypatch.setattr("extract.engines.device.CPU_BATCH", 8)
    done = small("--batch-size", "auto")
    assert "going on: 32 of 125" in done.err
    assert datasets(done.path) == expected


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [("torch", "1.0", "torch 1.0"), ("device", "an abacus", "an abacus")],
)
def test_what_cannot_be_continued_is_started_over(
    small, features, expected, monkeypatch, cut_small, field, value, named
):
    interrupted(small, monkeypatch)
    plan = next(features.glob(".work/*/plan.json"))
    plan.write_text(json.dumps({**json.loads(plan.read_text()), field: value}))
    done = small()
    assert "starting over" in done.err
    assert named in done.err
    assert "going on" not in done.err
    assert datasets(done.path) == expected


def test_a_plan_that_cannot_be_read_is_started_over(
    small, features, expected, monkeypatch, cut_small
):
    interrupted(small, monkeypatch)
    next(features.glob(".work/*/plan.json")).write_text("{")
    done = small()
    assert "starting over" in done.err
    assert "plan.json" in done.err
    assert datasets(done.path) == expected


def test_shards_are_whole_batches():
    plan = plans.Plan(64, "torch", "cpu", 2, "2.0", shard_rows=1024)
    assert plan.shard_rows == 1024
    assert plan.halved().shard_rows == 1024
    assert plans.whole_batches(1024, 50) == 1000
    assert plans.whole_batches(256, 1000) == 1000
    pieces = shards.cut(Path(), {"train": 2100, "test": 5}, plan.shard_rows)
    spans = [(piece.split, piece.start, piece.stop) for piece in pieces]
    assert spans == [
        ("train", 0, 1024),
        ("train", 1024, 2048),
        ("train", 2048, 2100),
        ("test", 0, 5),
    ]


def test_another_batch_size_starts_over(small, monkeypatch, cut_small):
    interrupted(small, monkeypatch)
    assert "starting over" in small("--batch-size", "8").err


def test_a_damaged_shard_is_computed_again(small, features, expected, monkeypatch, cut_small):
    interrupted(small, monkeypatch, after=5)
    first, second = sorted(features.glob(".work/*/shard-*.h5"))
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:100])
    done = small()
    assert done.err.count("computed again") == 2
    assert datasets(done.path) == expected


def test_a_full_disk_is_said_so_and_nothing_is_lost(small, features, expected, monkeypatch):
    import errno

    from extract.shards import fill

    original = fill.write_shard
    calls = []

    def full(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "shard")
        return original(*args, **kwargs)

    monkeypatch.setattr(fill, "write_shard", full)
    done = small()
    assert done.code == 2
    assert "No space left" in done.err
    done = small()
    assert "going on: 32" in done.err
    assert datasets(done.path) == expected
