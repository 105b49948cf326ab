"""Work in processes of their own: killed when they take too long, measured from outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from data.common.errors import UserError
from data.common.memory import keep_pages

ROOT = Path(__file__).parents[1]
READY = "ready"


class TooLong(Exception):
    """The process was ended because it took longer than it was given."""


class Failed(UserError):
    """The process ended with an error; the message is the end of what it said."""


SHARED = Path("/dev/shm")
# Freed pages stay with everybody's processes: how long fresh ones take depends on what the host of
# a virtual machine has done with them in the meantime. (`python -m classify fit` keeps its own.)
KEPT_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


@contextmanager
def scratch(place: Path | None = None) -> Iterator[Path]:
    """Give a folder, in the system's place for them by default, that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="icebox-bench-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def pages_kept() -> Iterator[None]:
    """Keep freed pages in this process from now on, and in those that it starts meanwhile."""
    keep_pages()
    before = {name: os.environ.get(name) for name in KEPT_PAGES}
    os.environ.update(KEPT_PAGES)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def trial(job: dict[str, Any], limit: float | None = None) -> dict[str, Any]:
    """Do a job of `benchmarks.trial` in a process of its own.

    Parameters
    ----------
    job : dict
        See `benchmarks.trial.perform`.
    limit : float, optional
        Seconds after it has loaded its rows.

    Returns
    -------
    dict
        Numbers, lists and arrays, as `perform` returned them.

    Raises
    ------
    TooLong
        If it was ended.
    Failed
        If it went wrong.
    """
    # joblib shares rows with its workers through files in /dev/shm, which must not outlive them.
    shm = SHARED if os.access(SHARED, os.W_OK) else None
    with scratch() as folder, scratch(shm) as shared:
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.trial", str(folder)]
        with open(folder / "stderr", "w+", encoding="utf-8") as errors:
            own = {**KEPT_PAGES, "JOBLIB_TEMP_FOLDER": str(shared)}
            child = _start(command, subprocess.PIPE, errors, **own)
            try:
                assert child.stdout is not None
                line = child.stdout.readline()
                while line and line.strip() != READY:  # libraries greet
                    line = child.stdout.readline()
                child.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                raise TooLong(f"{limit:g} s") from None
            finally:
                _end(child)
            if child.returncode:
                errors.seek(0)
                raise Failed(errors.read().strip()[-2000:])
        with np.load(folder / "arrays.npz") as arrays:
            result = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
            return {**result, **{key: arrays[key] for key in arrays.files}}


def measured(command: Sequence[str], **environment: str) -> dict[str, Any]:
    """Run a command of this Python and measure it.

    Parameters
    ----------
    command : sequence of str
        What follows ``python -m``.
    **environment : str
        Variables that it has beside those of this process.

    Returns
    -------
    dict
        ``seconds``, ``cpu_seconds``, ``peak_bytes`` and ``stdout``.

    Raises
    ------
    Failed
        If it went wrong.
    """
    with scratch() as folder:
        out = folder / "measured.json"
        full = [sys.executable, "-m", "benchmarks.measure", str(out)]
        said, errors = folder / "stdout", folder / "stderr"
        with open(said, "w", encoding="utf-8") as a, open(errors, "w", encoding="utf-8") as b:
            child = _start([*full, sys.executable, "-m", *command], a, b, **environment)
            try:
                child.wait()
            finally:
                _end(child)
        if child.returncode:
            raise Failed(errors.read_text(encoding="utf-8").strip()[-2000:])
        found = json.loads(out.read_text(encoding="utf-8"))
        return {**found, "stdout": said.read_text(encoding="utf-8")}


def _start(
    command: Sequence[str], stdout: IO[str] | int, stderr: IO[str], **environment: str
) -> subprocess.Popen[str]:
    # A session of its own, so that the workers that it starts can be ended with it.
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def _end(child: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
