"""Whole command lines that are started, stopped, killed and given again; not a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from fault_world import TINY, call, digests
from warm_processes import LONG, WarmProcess

from data.reading import verify_store

ROOT = Path(__file__).parents[2]
HALTING = Path(__file__).with_name("halting.py")
DIGITS = ["--dataset=digits", "--limit=100", *TINY]


def start(how, steps, *words, apart=False, cold=False, **environment):
    """Start a command line that stops or is killed at the steps: see halting.py.

    What is started `apart` leads a group of processes of its own, as a command in a terminal does;
    what is started `cold` imports all that it needs, as a command of a user does.
    """
    usual = {"OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    kind = subprocess.Popen if cold else WarmProcess
    return kind(
        [sys.executable, HALTING, how, *steps, "--", *map(str, words)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **usual, **environment},
        start_new_session=apart,
    )


# Seconds of most fits, in tests that are not about figures.
NO_FIGURES = [] if LONG else ["blank:matplotlib.figure.Figure.savefig"]


def extraction(features, how="halt", *steps, cold=False):
    return start(how, steps, "extract", *DIGITS, f"--features-dir={features}", cold=cold)


def finish(process, code=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out, err


def content(path):
    """All that a store holds but how and when it was made: key, digests, request, names."""
    report = verify_store(path)
    header = report.header
    rows = {entry.name: entry.sha256 for entry in report.datasets}
    return header.key, rows, header.request, header.class_names, report.size


def files_of(features):
    """Name every file below a folder."""
    return list(digests(features))


def again(features):
    """Give the same command again, and let it end: in this process, which saves seconds."""
    import torch

    import extract.shards.plan

    threads, rows = torch.get_num_threads(), extract.shards.plan.SHARD_ROWS
    torch.set_num_threads(1)
    extract.shards.plan.SHARD_ROWS = 32
    try:
        done = call(["extract", *DIGITS, f"--features-dir={features}"])
    finally:
        torch.set_num_threads(threads)
        extract.shards.plan.SHARD_ROWS = rows
    assert done.code == 0, done.err
    return Path(done.out.strip()), done.err


def interrupt(process):
    """Send Ctrl-C when the process has said that it is there; return what it says."""
    assert process.stdout.readline() == "there\n", process.communicate()
    process.send_signal(signal.SIGINT)
    return interrupted(process)


def interrupted(process):
    """Check that a process ends as Ctrl-C must end it; return what it says."""
    out, err = finish(process, 130)
    assert out == ""
    assert "Traceback" not in err
    said = [line for line in err.splitlines() if line.startswith("interrupted: ")]
    assert len(said) == 1
    assert err.strip().splitlines()[-1] == said[0]
    return said[0]
