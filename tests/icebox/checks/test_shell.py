"""Completion, by the files that a shell reads when it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from icebox.checks.finding import NOTE, OK
from icebox.checks.shell import LINES, STARTUP, check_completion


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", classmethod(lambda _: tmp_path))
    return tmp_path


@pytest.mark.parametrize("shell", STARTUP)
def test_what_is_advised_is_recognised(home, monkeypatch, shell):
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    path = home / STARTUP[shell][0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {LINES[shell]}\nalias x=y\n")
    [one] = check_completion()
    assert one.level == NOTE and one.advice == (f"echo '{LINES[shell]}' >> ~/{STARTUP[shell][0]}",)
    with path.open("a") as file:
        file.write(f"{LINES[shell]}\n")
    [one] = check_completion()
    assert one.level == OK and one.values == {"shell": shell, "set_up": True}


@pytest.mark.parametrize(
    "line", ['eval "$(register-python-argcomplete icebox)"', ". /etc/x/_python-argcomplete"]
)
def test_argcomplete_s_own_ways_are_recognised(home, monkeypatch, line):
    monkeypatch.setenv("SHELL", "/bin/bash")
    (home / ".bashrc").write_text(line)
    assert next(check_completion()).level == OK


@pytest.mark.parametrize("shell", ["", "/bin/tcsh"])
def test_other_shells(monkeypatch, shell):
    monkeypatch.setenv("SHELL", shell)
    assert next(check_completion()).level == NOTE


def test_a_startup_file_that_cannot_be_read(home, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/zsh")
    (home / ".zshrc").mkdir()
    assert next(check_completion()).level == NOTE
