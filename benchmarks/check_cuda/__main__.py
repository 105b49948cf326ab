"""Prove on a GPU what tests on a CPU cannot: rows, fits, speeds and faults, in one table.

    make check-cuda [PARTS="tests rows"]
    make check-cuda PYTHON=python3 VENV=none     # nothing is installed, and no network is used

Each job of a part runs in a process of its own with a limit of time, so that one that hangs or
crashes does not end the others. Inputs are made from a seed, and weights are random.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.check_cuda import device as devices
from benchmarks.check_cuda.parts import WHOLE, Part, all_parts
from benchmarks.check_cuda.processes import Done, end, perform, start
from benchmarks.check_cuda.sizes import FULL, TINY
from benchmarks.processes import scratch
from data.common.cli import Parser, print_result, run
from data.common.errors import UserError, nearest

RESULTS = Path(__file__).parents[1] / "results"
# Seconds to find out which device there is, and bytes of it for each job beside others.
ASKED, EACH = 90.0, 6e9
MOST_BESIDE = 8
WIDTHS, LONGEST = (26, 44, 46, 20), 140


def main(argv: Sequence[str]) -> None:
    """Run the parts that were asked for.

    Parameters
    ----------
    argv : sequence of str
        The arguments after ``python -m benchmarks.check_cuda``.
    """
    options = parser().parse_args(list(argv))
    sizes = TINY if options.rehearse else FULL
    parts = chosen(options.part, all_parts(sizes))
    begun = time.monotonic()
    with scratch() as folder:
        found = ask(folder)
        if options.rehearse:
            found |= {"name": None, "rehearsal": True}
            print("a rehearsal on the CPU with small inputs: no figure means anything", flush=True)
            beside = 1
        else:
            check(found, parts)
            print(devices.title(found), flush=True)
            beside = max(1, min(MOST_BESIDE, int(found["free_bytes"] // EACH)))
        record = Record(options.results_dir / "check-cuda.json", found)
        line("part", "what", "found", "goal", "")
        free = float("inf") if options.rehearse else found["free_bytes"]
        able = tuple(part for part in parts if part.memory <= free)
        for part in parts:
            if part not in able:
                record.left_out(part, found)
        jobs = perform(able, folder, whole=WHOLE - (time.monotonic() - begun), side_by_side=beside,
                       rehearse=options.rehearse)  # fmt: skip
        with closing(jobs):
            try:
                for done in jobs:
                    show(done)
                    record.add(done)
            except KeyboardInterrupt:
                kept = f"what was found so far is in {record.path}"
                raise KeyboardInterrupt(kept) from None
    record.finish(time.monotonic() - begun)
    print(record.summary(), flush=True)
    print_result(record.path)
    if record.failed:
        raise SystemExit(1)


def parser() -> Parser:
    """Build the parser; its errors are `UserError`."""
    names = "\n".join(f"  {part.name:<8} {part.about}" for part in all_parts(FULL))
    top = Parser(
        prog="python -m benchmarks.check_cuda", description=__doc__, epilog=f"parts:\n{names}"
    )
    top.add_argument("--part", action="append", metavar="NAME", help="one of them (all)")
    top.add_argument(
        "--results-dir", type=Path, default=RESULTS, metavar="DIR",
        help="where check-cuda.json goes (benchmarks/results)",
    )  # fmt: skip
    # For the tests: the same with small inputs, on the CPU.
    top.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)
    return top


def chosen(names: Sequence[str] | None, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Pick parts by name, in the order of all."""
    known = [part.name for part in parts]
    for name in names or ():
        if name not in known:
            hint = nearest(name, known)
            found = f"; {hint}" if hint else ""
            raise UserError(f"--part {name} is unknown{found} (there are: {', '.join(known)})")
    return tuple(part for part in parts if not names or part.name in names)


def ask(folder: Path) -> dict[str, Any]:
    """Find out in another process which device there is."""
    if find_spec("torch") is None:
        raise UserError(
            f"torch is not installed for {sys.executable}; give a Python that has it: "
            "make check-cuda PYTHON=python3 VENV=none"
        )
    place = folder / "device"
    place.mkdir()
    out, said = place / "facts.json", place / "said.txt"
    child = start({"part": None, "out": str(out)}, place, said, os.cpu_count() or 1)
    deadline = time.monotonic() + ASKED
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    end(child)
    if not out.is_file():
        lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise UserError(
            "torch could not be asked for the device: "
            f"{lines[-1] if lines else f'no answer in {ASKED:g} s'}"
        )
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def check(found: dict[str, Any], parts: Sequence[Part]) -> None:
    """Refuse a machine without a device, and a device on which none of the parts has room."""
    if found["name"] is None:
        why = f"torch {found['torch']} finds none" if found["cuda"] else "this torch has no CUDA"
        raise UserError(
            f"there is no CUDA device ({why}), and check-cuda checks one; `make test` and `make "
            "bench` do without"
        )
    least = min(part.memory for part in parts)
    if found["free_bytes"] < least:
        raise UserError(
            f"{found['name']} has {found['free_bytes'] / 1e9:.1f} GB free of "
            f"{found['memory_bytes'] / 1e9:.1f} GB, and {', '.join(part.name for part in parts)} "
            f"need {least / 1e9:g} GB at least; end what else runs there, or use a larger device"
        )


def line(part: str, what: str, found: str, goal: str, verdict: str) -> None:
    """Print a line of the table."""
    found = found if len(found) <= LONGEST else f"{found[:LONGEST]}..."
    texts = zip((part, what, found, goal), WIDTHS, strict=True)
    print("  ".join([*(text.ljust(width) for text, width in texts), verdict]).rstrip(), flush=True)


def show(done: Done) -> None:
    """Print a job's rows, and what ended it."""
    for row in done.rows:
        line(done.job.name, row["what"], row["found"], row["goal"], row["verdict"])
    if done.problem:
        line(done.job.name, f"the job itself, {done.seconds:.0f} s", done.problem, "", "FAILED")


class Record:
    """The JSON file, which is written again after every job."""

    def __init__(self, path: Path, device: dict[str, Any]) -> None:
        from benchmarks.record import machine

        self.path = path
        self._jobs: list[dict[str, Any]] = []
        self._content = {"complete": False, "device": device, "machine": machine(),
                         "jobs": self._jobs}  # fmt: skip
        self.failed = False
        self._write()

    def add(self, done: Done) -> None:
        """Keep what became of a job."""
        self.failed |= done.failed
        said = {"said": done.said} if done.failed else {}
        self._jobs.append({"part": done.job.part.name, "argument": done.job.argument,
                           "seconds": done.seconds, "problem": done.problem, "rows": done.rows,
                           **said})  # fmt: skip
        self._write()

    def left_out(self, part: Part, found: dict[str, Any]) -> None:
        """Say that the device is too small for a part."""
        text = f"needs {part.memory / 1e9:g} GB, {found['free_bytes'] / 1e9:.1f} GB are free"
        line(part.name, "left out", text, "", "")
        self._jobs.append({"part": part.name, "problem": text, "left_out": True, "rows": []})
        self._write()

    def summary(self) -> str:
        """Count the verdicts."""
        verdicts = [row["verdict"] for job in self._jobs for row in job["rows"]]
        broken = [job for job in self._jobs if job["problem"] and not job.get("left_out")]
        took = ", ".join(
            f"{' '.join((job['part'], job['argument'])).strip()} {job['seconds']:.0f}"
            for job in self._jobs
            if "seconds" in job
        )
        return (
            f"seconds: {took}\n"
            f"{verdicts.count('ok')} ok, {verdicts.count('missed')} goals missed, "
            f"{verdicts.count('FAILED') + len(broken)} failed, in {self._content['seconds']:.0f} s"
        )

    def finish(self, seconds: float) -> None:
        """Mark the file as complete."""
        self._content |= {"complete": True, "seconds": seconds}
        self._write()

    def _write(self) -> None:
        from benchmarks.record import write_json

        write_json(self.path, self._content)


if __name__ == "__main__":
    sys.exit(run(main))
