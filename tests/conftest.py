"""What holds for all tests, and for the processes that they start."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Helpers that tests of several folders import by name.
sys.path.insert(0, str(Path(__file__).parent / "shared"))

from figures import leave_figures_empty

# Jobs in the background of some shells start with Ctrl-C ignored, and hand that on to the processes
# that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests side by side (`pytest -n 2`) share the processors: threads that wait for each other would
# cost more than they bring. Read when numpy and torch are loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@pytest.fixture
def warm_stage_one(monkeypatch):
    """Have the stage one that a command starts (`classify predict`) be a `WarmProcess`."""
    from warm_processes import run_warm

    from data.common.own_packages import program

    real = subprocess.run

    def run(args, *more, **options):
        stage_one = list(args[:3]) == program("extract")
        warm = stage_one and options.get("start_new_session")  # as the command starts it
        return (run_warm if warm else real)(args, *more, **options)

    monkeypatch.setattr(subprocess, "run", run)


@pytest.fixture
def unwritten_figures(request, monkeypatch):
    """Compute figures as always, but have matplotlib write empty ones; not in `make faults`.

    For tests of which no sentence is about a figure. Where a whole folder of tests asks for this,
    those marked `figures` have theirs all the same.
    """
    if not request.node.get_closest_marker("figures"):
        leave_figures_empty(monkeypatch)


def pytest_collection_finish():
    """Let the collector leave what was imported alone, a million objects, and look less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


# -- the order of tests, and those that need a device ------------------------------------------

# Where the longest tests are: they come first, so that no process is left with one at the end.
LONGEST = (
    "tests/test_makefile.py::test_the_demo", "tests/notebooks/",
    "tests/classify/fit/test_cluster.py", "tests/extract/cluster/",
    "tests/faults/test_interruptions.py", "tests/faults/test_same_bits.py",
    "tests/extract/model/test_sources.py", "tests/classify/report/test_page_in_chromium.py",
    "tests/benchmarks/test_parts.py", "tests/classify/solver/test_out_of_core.py",
)  # fmt: skip
NO_DEVICE = "needs a CUDA device"


def pytest_collection_modifyitems(config, items):
    def place(item):
        found = [item.nodeid.startswith(start) for start in LONGEST]
        return found.index(True) if any(found) else len(LONGEST)

    items.sort(key=place)
    waiting = [item for item in items if item.get_closest_marker("gpu")]
    if waiting and not _has_device():
        for item in waiting:
            item.add_marker(pytest.mark.skip(reason=NO_DEVICE))


def _has_device():
    import torch  # only where a test that needs one was collected

    return torch.cuda.is_available()


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    waiting = [report for report in skipped if NO_DEVICE in str(report.longrepr)]
    if waiting:
        terminalreporter.write_line(f"{len(waiting)} tests wait for a CUDA device (marker gpu)")
