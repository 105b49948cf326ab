"""Two processes and one store, with locks that lock and with locks that only say so."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from command_lines import content, extraction, files_of, finish

# What some network file systems do: everyone is told to have the lock.
NO_LOCKS = "skip:fcntl.flock"


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()


LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`
JOINING = "data.writing.reserve@1"
EMBEDDING = "extract.engines.embed.Embedder.embed@3"


@pytest.mark.parametrize("step", [EMBEDDING, JOINING] if LONG else [JOINING])
def test_the_second_waits_for_the_first_and_takes_its_store(step, tmp_path, expected):
    first = extraction(tmp_path, "pause", step)
    assert first.stdout.readline() == "there\n"
    second = extraction(tmp_path)
    said = ""
    while "waiting for it" not in said:
        said = second.stderr.readline()
        assert said, "it did not wait"
    assert second.poll() is None
    go_on(first)
    out, _ = finish(first)
    path, err = finish(second)
    assert path == out
    assert "found" in err
    assert content(path.strip()) == expected
    assert files_of(tmp_path) == [str(Path(path.strip()).relative_to(tmp_path))]


def test_the_second_takes_over_the_shards_of_a_first_that_is_killed(tmp_path, expected):
    first = extraction(tmp_path, "halt", "extract.engines.embed.Embedder.embed@5")
    assert first.stdout.readline() == "there\n"
    second = extraction(tmp_path)
    while "waiting for it" not in second.stderr.readline():
        assert second.poll() is None
    first.kill()
    first.communicate()
    path, err = finish(second)
    assert "going on: 32 of 125 images are done" in err
    assert content(path.strip()) == expected
    assert files_of(tmp_path) == [str(Path(path.strip()).relative_to(tmp_path))]


STEPS = ["extract.shards.plan.write_json@1", "os.replace@3", JOINING, "data.writing.verify_store@1"]


@pytest.mark.parametrize("step", [EMBEDDING, *STEPS] if LONG else [EMBEDDING, JOINING])
def test_where_locks_do_not_lock_a_run_is_overtaken_and_takes_the_others_store(
    step, tmp_path, expected
):
    slow = extraction(tmp_path, "pause", NO_LOCKS, step)
    assert slow.stdout.readline() == "there\n"
    path, _ = finish(extraction(tmp_path, "halt", NO_LOCKS))
    assert content(path.strip()) == expected
    go_on(slow)
    out, _ = finish(slow)
    assert out == path
    assert content(path.strip()) == expected
    assert files_of(tmp_path) == [str(Path(path.strip()).relative_to(tmp_path))]


def test_where_locks_do_not_lock_several_at_once_leave_one_store(tmp_path, expected):
    runs = []
    for _ in range(3):
        runs.append(extraction(tmp_path, "halt", NO_LOCKS))
        time.sleep(0.2)
    paths = {finish(run)[0].strip() for run in runs}
    assert len(paths) == 1
    assert content(paths.pop()) == expected
    assert len(files_of(tmp_path)) == 1
