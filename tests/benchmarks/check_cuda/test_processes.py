"""Jobs in processes of their own: none ends another, and each has its time."""

import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.check_cuda import processes
from benchmarks.check_cuda.parts import Part
from benchmarks.check_cuda.processes import Job, perform

ROW = '{"what": "w", "found": "f", "goal": "", "verdict": "ok"}'
# What jobs do here, by the names of their parts: Python that has `out`.
SCRIPTS = {
    "good": f"open(out, 'w').write('{ROW}\\n')",
    "bad": f"open(out, 'w').write('{ROW}\\n{ROW[:9]}'); raise ValueError('a CUDA error')",
    "crash": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "hang": (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open(out, 'w').write('{ROW}\\n')\nprint(child.pid, flush=True)\ntime.sleep(600)"
    ),
    "wrong": f"open(out, 'w').write('{ROW.replace('ok', 'FAILED')}\\n')",
}


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    popen = processes.subprocess.Popen
    started = []

    def start(command, **options):
        asked = Path(command[-1]).read_text()
        name = asked.partition('"part": "')[2].partition('"')[0]
        out = asked.partition('"out": "')[2].partition('"')[0]
        started.append((name, time.monotonic()))
        return popen([sys.executable, "-c", f"out = {out!r}\n{SCRIPTS[name]}"], **options)

    monkeypatch.setattr(processes.subprocess, "Popen", start)
    return started


def part(name, planned=5.0, limit=60.0, alone=True, arguments=("",)):
    return Part(name, "", "", planned, limit, 0.0, alone, arguments)


def done(parts, folder, whole=100.0, side_by_side=2):
    jobs = perform(parts, folder, whole=whole, side_by_side=side_by_side, rehearse=True)
    return {job.job.name: job for job in jobs}


def test_no_job_ends_another(tmp_path):
    names = ("bad", "crash", "good", "wrong")
    found = done([part(name, alone=name in ("bad", "good")) for name in names], tmp_path)
    assert set(found) == set(names)
    assert found["bad"].problem == "exit code 1: ValueError: a CUDA error"
    assert len(found["bad"].rows) == 1, "what was whole of its rows"
    assert "exit code -11" in found["crash"].problem
    assert found["good"].problem == "" and not found["good"].failed
    assert found["wrong"].problem == "" and found["wrong"].failed


def test_a_job_that_hangs_is_ended_with_what_it_has_started(tmp_path):
    found = done([part("hang", limit=2.0), part("good")], tmp_path)
    hung = found["hang"]
    assert hung.problem == "ended after 2 s" and hung.rows and hung.failed
    child = int(hung.said)
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or _is_zombie(child):
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        raise AssertionError("its child is still there")
    assert not found["good"].failed


def _is_zombie(pid):
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0] == "Z"


def test_a_job_leaves_later_ones_the_time_that_they_are_planned_to_need(tmp_path):
    begun = time.monotonic()
    found = done([part("hang"), part("good", planned=97.0)], tmp_path)
    assert found["hang"].problem == "ended after 3 s"
    assert time.monotonic() - begun < 20 and not found["good"].failed


def test_what_may_run_beside_others_comes_first(tmp_path, scripts):
    together = part("good", alone=False, arguments=("a", "b", "c"))
    found = done([part("wrong"), together], tmp_path)
    assert list(found)[-1] == "wrong" and set(found) == {"good a", "good b", "good c", "wrong"}
    assert [name for name, _ in scripts] == ["good", "good", "good", "wrong"]


def test_files_of_a_job_are_removed_and_caches_shared(tmp_path):
    done([part("good")], tmp_path)
    assert not (tmp_path / "good").exists()
    assert Job(part("good"), "x").name == "good x"
