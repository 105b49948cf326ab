"""`icebox doctor`: one screen, whatever is broken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bare_machine import bare_environment

import icebox.doctor
from data.common import cli
from icebox.__main__ import main
from icebox.checks import contents, devices, installation, machine
from icebox.checks.finding import FAILURE, NOTE, OK, WARNING, Finding
from icebox.checks.probes import Probe
from icebox.checks.screen import show, verdict

ROOT = Path(icebox.doctor.__file__).parents[1]
CHECKS = (
    (installation, "check_python"), (installation, "check_icebox"),
    (installation, "check_libraries"), (installation, "check_extras"),
    (installation, "check_bundled"), (machine, "check_processor"), (machine, "check_memory"),
    (machine, "check_disk"), (contents, "check_stores"), (contents, "check_runs"),
    (contents, "check_leftovers"), (contents, "check_caches"), (devices, "check_torch"),
    (devices, "check_openvino"), (devices, "start_torch"), (icebox.doctor, "find_installation"),
    (icebox.doctor, "cache_folder"),
)  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder, and no library that takes long to import."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("start_torch", "start_openvino"):
        monkeypatch.setattr(devices, name, lambda: None)
    return tmp_path


def doctor(*words):
    return cli.run(main, ["doctor", "--offline", *words])


def test_a_failure_ends_it_with_2_and_says_where(place, capsys, monkeypatch):
    monkeypatch.setattr(devices, "start_torch", lambda: Probe("raise ImportError('pretended')"))
    assert doctor() == 2
    found = capsys.readouterr()
    assert re.search(r"^FAIL torch +.*cannot be used: ImportError: pretended", found.out, re.M)
    assert "Commands will fail here: see torch" in found.out
    assert "what is marked FAIL keeps commands from running" in found.err


def test_json_has_every_line(place, capsys):
    assert doctor("--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "doctor" and found["failures"] == 1
    names = [one["name"] for one in found["findings"]]
    assert names[:3] == ["python", "icebox", "torch"] and names[-1] == "extras"
    page = (ROOT / "docs/guide/doctor-and-cache.md").read_text("utf-8")
    for one in found["findings"]:
        assert set(one) == {"name", "level", "text", "advice", "values"}
        assert f"| `{one['name']}` |" in page
        for key in () if one["name"] in ("extras", "caches") else one["values"]:
            assert f"`{key}`" in page, (one["name"], key)


@pytest.mark.parametrize(("module", "name"), CHECKS, ids=lambda value: str(value))
def test_a_check_that_breaks_is_a_line(place, capsys, monkeypatch, module, name):
    def broken(*_, **__):
        raise OSError("broken on purpose")

    monkeypatch.setattr(module, name, broken)
    assert doctor() in (0, 2)
    found = capsys.readouterr()
    assert "broken on purpose" in found.out and "Traceback" not in found.err
    assert "Icebox can run here" in found.out or "Commands will fail" in found.out


@pytest.mark.parametrize("executable", ["", None, "/no/such/python"])
def test_no_process_can_be_started(place, capsys, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(devices, "start_torch", lambda: Probe("pass"))
    assert doctor() in (0, 2)
    assert re.search(r"^! +torch +could not be looked at: ", capsys.readouterr().out, re.M)


def test_no_thread_can_be_started(place, capsys, monkeypatch):
    def full(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", full)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert cli.run(main, ["doctor"]) == 2
    assert "can't start new thread" in capsys.readouterr().out


def test_a_folder_that_is_gone_is_no_traceback(place, capsys):
    gone = place / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert doctor() == 2
    assert "Traceback" not in capsys.readouterr().err


def test_no_home(place, capsys, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    before = dict(os.environ)
    try:
        assert doctor() == 2
    finally:
        os.environ.clear()
        os.environ.update(before)
    found = capsys.readouterr()
    assert "Traceback" not in found.err and "could not be looked at" not in found.out


def test_an_interrupted_one_leaves_no_process(place, monkeypatch):
    started = []

    def start():
        started.append(Probe("import time; time.sleep(60)"))
        return started[0]

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(devices, "start_torch", start)
    monkeypatch.setattr(devices, "check_torch", interrupted)
    assert doctor() == 130
    assert started[0]._process.poll() is not None


def test_lines_fit_into_80_columns_and_commands_are_whole():
    command = f"type: pip install {'x' * 90}"
    text = show(
        [
            Finding("python", OK, "word " * 40),
            Finding("stores", WARNING, "a"),
            Finding("stores", WARNING, "\x1b[31mb", (command,)),
            Finding("hub", NOTE, ""),
        ],
        colour=False,
    )
    lines = text.splitlines()
    assert f"      {command}" in lines and "\x1b" not in text
    assert all(len(line) <= 80 for line in lines if "pip" not in line)
    assert lines[4] == "!    stores     a" and lines[5].startswith("!               ")


def test_the_verdict():
    ok, bad, odd = Finding("a", OK, ""), Finding("b", FAILURE, ""), Finding("c", WARNING, "")
    assert verdict([ok]) == "Icebox can run here."
    assert verdict([ok, odd]) == "Icebox can run here; 1 line marked ! wants a look."
    assert verdict([bad, odd, odd]) == (
        "Commands will fail here: see b; 2 lines marked ! want a look."
    )


def test_colours_are_for_terminals():
    text = show([Finding("a", FAILURE, "x"), Finding("b", OK, "y")], colour=True)
    assert text.startswith("\x1b[1;31mFAIL") and "\x1b" not in text.splitlines()[1]


def test_a_machine_with_next_to_nothing(tmp_path):
    """Only what the command itself needs to start; nothing of stage one or two."""
    environment = bare_environment(tmp_path, "packaging")
    done = subprocess.run(
        [sys.executable, "-m", "icebox", "doctor", "--offline"],
        cwd=tmp_path, env={**environment, "XDG_CACHE_HOME": str(tmp_path / "home")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "Traceback" not in done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) <= 45
    assert re.search(r"^FAIL torch +not installed", done.stdout, re.M)
    assert re.search(r"^FAIL libraries +.*missing: .*h5py", done.stdout, re.M)
    # Each extra with what to type, in one line.
    typed = [line for line in lines if "--editable" in line and "  # " in line]
    assert {line.partition("[")[2].partition("]")[0] for line in typed} >= {"cpu", "hf", "dask"}
    assert all(len(line) <= 80 for line in lines if "--editable" not in line)
