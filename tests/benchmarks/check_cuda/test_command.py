"""``python -m benchmarks.check_cuda``: its messages, its table and its file."""

import json

import pytest

from benchmarks.check_cuda import __main__ as command
from benchmarks.check_cuda.parts import all_parts
from benchmarks.check_cuda.processes import Done, Job
from benchmarks.check_cuda.sizes import FULL
from data.common.cli import run

DEVICE = {
    "name": "NVIDIA Test", "memory_bytes": 24e9, "free_bytes": 23e9, "driver": "1.2",
    "torch": "2.11.0+cu130", "cuda": "13.0", "cudnn": 91000,
}  # fmt: skip
ROW = {"what": "w", "found": "f", "goal": "g", "verdict": "ok"}


@pytest.fixture
def asked(monkeypatch):
    """Answer for the device, and do the jobs here."""
    found, done = dict(DEVICE), []

    def perform(parts, folder, *, whole, side_by_side, rehearse):
        assert 400 < whole <= 470 and side_by_side == 3 and not rehearse
        for part in parts:
            done.append(part.name)
            yield Done(Job(part, "x"), 1.0, *answers.get(part.name, ("", [ROW], "")))

    answers = {}
    monkeypatch.setattr(command, "ask", lambda folder: found)
    monkeypatch.setattr(command, "perform", perform)
    return found, done, answers


def call(tmp_path, *words):
    return run(command.main, [*words, f"--results-dir={tmp_path}"])


def test_the_table_and_the_file(asked, tmp_path, capsys):
    assert call(tmp_path) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == (
        "NVIDIA Test, 24.0 GB (23.0 GB free), driver 1.2, torch 2.11.0+cu130, CUDA 13.0, "
        "cuDNN 91000"
    )
    assert lines[-1] == str(tmp_path / "check-cuda.json") and not err
    parts = [part.name for part in all_parts(FULL)]
    assert asked[1] == parts
    assert lines[-2].startswith(f"{len(parts)} ok, 0 goals missed, 0 failed, in ")
    assert sum(line.endswith("ok") and line.split()[1] == "x" for line in lines) == len(parts)
    content = json.loads((tmp_path / "check-cuda.json").read_text())
    assert content["complete"] and content["device"]["name"] == "NVIDIA Test"
    assert [job["part"] for job in content["jobs"]] == parts
    assert content["jobs"][0]["rows"] == [ROW]


def test_some_parts_in_their_own_order(asked, tmp_path):
    assert call(tmp_path, "--part=heads", "--part=tests") == 0
    assert asked[1] == ["tests", "heads"]


@pytest.mark.parametrize(
    ("answer", "verdict", "code"),
    [
        (("", [{**ROW, "verdict": "missed"}], ""), "missed", 0),
        (("", [{**ROW, "verdict": "FAILED"}], "trace"), "FAILED", 1),
        (("ended after 9 s", [], "trace"), "FAILED", 1),
    ],
)
def test_a_missed_goal_is_no_fault(asked, tmp_path, capsys, answer, verdict, code):
    asked[2]["heads"] = answer
    try:
        found = call(tmp_path)
    except SystemExit as stop:
        found = stop.code
    assert found == code
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("heads x") and line.endswith(verdict) for line in lines)
    content = json.loads((tmp_path / "check-cuda.json").read_text())
    (heads,) = [job for job in content["jobs"] if job["part"] == "heads"]
    assert heads.get("said") == (answer[2] or None)
    assert len(asked[1]) == len(all_parts(FULL)), "the others went on"


def test_what_was_found_is_kept_when_it_is_interrupted(asked, tmp_path, capsys, monkeypatch):
    def show(done):
        if done.job.part.name == "heads":
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "show", show)
    assert call(tmp_path) == 130
    assert "what was found so far is in" in capsys.readouterr().err
    content = json.loads((tmp_path / "check-cuda.json").read_text())
    assert not content["complete"] and content["jobs"][-1]["part"] == "faults"


def test_without_a_device(asked, tmp_path, capsys):
    asked[0]["name"] = None
    assert call(tmp_path) == 2
    out, err = capsys.readouterr()
    assert err == (
        "error: there is no CUDA device (torch 2.11.0+cu130 finds none), and check-cuda checks "
        "one; `make test` and `make bench` do without\n"
    )
    assert not out and not list(tmp_path.iterdir())
    asked[0]["cuda"] = None
    assert call(tmp_path) == 2
    assert "(this torch has no CUDA)" in capsys.readouterr().err


def test_too_little_device_memory(asked, tmp_path, capsys):
    asked[0]["free_bytes"] = 0.5e9
    assert call(tmp_path, "--part=heads") == 2
    out, err = capsys.readouterr()
    assert "NVIDIA Test has 0.5 GB free of 24.0 GB, and heads need 4 GB at least" in err
    assert "end what else runs there" in err and not out


def test_a_part_for_which_there_is_too_little_memory_is_left_out(
    asked, tmp_path, capsys, monkeypatch
):
    asked[0]["free_bytes"] = 3e9
    monkeypatch.setattr(command, "EACH", 1e9)
    assert call(tmp_path) == 0
    assert "many" not in asked[1] and "tests" in asked[1]
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("many")]
    assert "left out" in line and "needs 4 GB, 3.0 GB are free" in line


def test_an_unknown_part(tmp_path, capsys):
    assert call(tmp_path, "--part=head") == 2
    err = capsys.readouterr().err
    assert "--part head is unknown" in err and "heads" in err and "peers" in err


def test_a_python_without_torch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert call(tmp_path) == 2
    assert "torch is not installed" in capsys.readouterr().err
