"""Jobs as processes: started side by side or alone, and ended when their time is over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.check_cuda.parts import Part, planned
from benchmarks.processes import ROOT

TAIL = 4000
# Jobs side by side that the host's processors are shared out to.
BUSY = 4
# Seconds between two looks, and for a process that was killed to be gone.
LOOK, GONE = 0.05, 10.0


class Job(NamedTuple):
    """One argument of a part."""

    part: Part
    argument: str

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.part.name} {self.argument}".strip()


@dataclass
class Done:
    """What became of a job."""

    job: Job
    seconds: float
    problem: str  # why it did not end well; empty where it did
    rows: list[dict[str, Any]]
    said: str  # the end of its output

    @property
    def failed(self) -> bool:
        """Whether something is wrong, and not merely slow."""
        return bool(self.problem) or any(row["verdict"] == "FAILED" for row in self.rows)


class Running:
    """A job that has been started."""

    def __init__(self, job: Job, folder: Path, limit: float, threads: int, rehearse: bool) -> None:
        self.job, self.limit = job, limit
        self._folder = folder
        folder.mkdir(parents=True)
        self._out = folder / "rows.jsonl"
        self._said = folder / "said.txt"
        asked = {"part": job.part.name, "argument": job.argument, "out": str(self._out),
                 "threads": threads, "rehearse": rehearse}  # fmt: skip
        self._start = time.monotonic()
        self._child = start(asked, folder, self._said, threads)

    def ended(self) -> Done | None:
        """Say what became of it; None while it runs and has time left."""
        code = self._child.poll()
        seconds = time.monotonic() - self._start
        if code is None and seconds < self.limit:
            return None
        end(self._child)
        said = self._said.read_text(encoding="utf-8", errors="replace")[-TAIL:]
        problem = ""
        if code is None:
            problem = f"ended after {self.limit:.0f} s"
        elif code:
            lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
            problem = f"exit code {code}: {lines[-1]}"
        rows = rows_of(self._out)
        shutil.rmtree(self._folder, ignore_errors=True)  # stores, hundreds of megabytes
        return Done(self.job, seconds, problem, rows, said)

    def stop(self) -> None:
        """End it."""
        end(self._child)


def start(asked: dict[str, Any], folder: Path, said: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start a process for a job; what is compiled is shared by all jobs of this run."""
    path = folder / "job.json"
    path.write_text(json.dumps(asked), encoding="utf-8")
    caches = folder.parent / "caches"
    own = {
        "XDG_CACHE_HOME": str(caches), "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    with said.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.check_cuda.job", str(path)], cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, **own},
        )  # fmt: skip


def end(child: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started; one that the driver holds is left to itself."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=GONE)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Read the rows that a job has left; of one that was ended the last line may be cut."""
    found = []
    with suppress(FileNotFoundError):
        for line in out.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return found


def perform(
    parts: Sequence[Part], folder: Path, *, whole: float, side_by_side: int, rehearse: bool
) -> Generator[Done, None, None]:
    """Do all jobs: first those side by side, then one after the other; each as it ends.

    No job may take time that later ones are planned to need.
    """
    deadline = time.monotonic() + whole
    cores = os.cpu_count() or 1
    together = [Job(part, name) for part in parts if not part.alone for name in part.arguments]
    alone = [Job(part, name) for part in parts if part.alone for name in part.arguments]

    def open_job(job: Job, later: float, threads: int) -> Running:
        left = deadline - time.monotonic() - later
        place = folder / job.name.replace(" ", "-").replace("/", "-")
        return Running(job, place, max(min(job.part.limit, left), 0.0), threads, rehearse)

    later = planned(tuple(part for part in parts if part.alone))
    several = max(1, min(side_by_side, len(together)))
    # Most of those side by side wait for the device.
    share = max(1, cores // min(several, BUSY))
    yield from _in_turn(together, several, partial(open_job, later=later, threads=share))
    for job in alone:
        later -= job.part.planned
        yield from _in_turn([job], 1, partial(open_job, later=max(later, 0.0), threads=cores))


def _in_turn(
    jobs: Sequence[Job], several: int, open_job: Callable[[Job], Running]
) -> Iterator[Done]:
    """Keep so many jobs running until all have ended."""
    waiting, running = list(jobs), list[Running]()
    try:
        while waiting or running:
            while waiting and len(running) < several:
                running.append(open_job(waiting.pop(0)))
            for one in tuple(running):
                done = one.ended()
                if done is not None:
                    running.remove(one)
                    yield done
            time.sleep(LOOK)
    finally:
        for one in running:
            one.stop()
