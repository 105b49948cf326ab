"""Every part runs on small data and writes its file; processes are measured and ended."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from figures import leave_figures_empty_in_processes

from benchmarks import __main__ as cli
from benchmarks import (
    closed_form,
    coupling,
    decoding,
    hundred,
    memory,
    one_c,
    path,
    peers,
    processes,
    slopes,
    svm,
)
from benchmarks.processes import ROOT, Failed, TooLong, measured, trial
from benchmarks.rows import made
from classify.__main__ import parse as classify_parse
from data.common.cli import run
from data.common.errors import UserError
from data.format.records import SplitSource
from data.reading import read_header
from data.writing import join


@pytest.fixture(autouse=True)
def _figures(monkeypatch, tmp_path):
    """Leave the figures of the reports empty that measured commands write."""
    leave_figures_empty_in_processes(monkeypatch, tmp_path / "site")


def content(settings, part):
    found = json.loads((settings.results / f"{part}.json").read_text())
    assert found["part"] == part
    assert found["complete"]
    assert {"cpu", "cores", "blas", "numpy", "scikit-learn", "date"} <= set(found["machine"])
    return found


def test_one_c_compares_at_the_same_optimum_and_searches_once(settings, jobs, capsys):
    one_c.run(settings)
    found = content(settings, "one-c")
    assert [row["strategy"] for row in found["results"]] == ["multinomial", "ovr", "ovo"]
    for row in found["results"]:
        assert abs(row["our_excess"]) < 1e-6
        assert row["peer_reached"]
        assert row["peer_excess"] < 1e-6
        assert len(row["seconds"]["icebox"]) == len(row["seconds"]["peer"]) == 2
        assert row["ratio"] > 0
    printed = capsys.readouterr().out
    assert "our excess  its excess" in printed
    assert "goal of 10x:" in printed
    assert {job["kind"] for job in jobs} == {"fit", "contest"}
    jobs.clear()
    one_c.run(settings)
    assert {job["kind"] for job in jobs} == {"contest"}


def test_a_peer_of_which_no_fit_ends_still_gets_a_bound(settings, jobs, monkeypatch, capsys):
    here = one_c.trial

    def slow(job, limit=None):
        if job["kind"] == "fit":
            raise TooLong
        return here(job)

    monkeypatch.setattr(one_c, "trial", slow)
    one_c.run(replace(settings, strategies=("ovr",), peer_limit=7.0))
    (row,) = content(settings, "one-c")["results"]
    assert row["peer_tol"] is None
    assert row["ratio_is"] == "at least"
    assert row["ratio"] == pytest.approx(7.0 / row["icebox"])
    assert "> 7 s" in capsys.readouterr().out


def test_a_peer_that_fails_does_not_stop_the_others(settings, jobs, monkeypatch, capsys):
    here = one_c.trial

    def broken(job, limit=None):
        if job["strategy"] == "ovr":
            raise Failed("Traceback\nValueError: no")
        return here(job)

    monkeypatch.setattr(one_c, "trial", broken)
    one_c.run(replace(settings, strategies=("ovr", "ovo")))
    failed, other = content(settings, "one-c")["results"]
    assert "ValueError" in failed["failed"]
    assert other["strategy"] == "ovo"
    assert "ovr at C=0.01 failed: ValueError: no" in capsys.readouterr().out


def test_missing_peers_are_named_with_how_to_get_them(settings, jobs, monkeypatch, capsys):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    one_c.run(replace(settings, peers=("scikit-learn-intelex", "snapml")))
    found = content(settings, "one-c")
    assert found["results"] == []
    printed = capsys.readouterr().out
    for peer in ("scikit-learn-intelex", "snapml"):
        line = f"{peer} is not installed: pip install '.[bench]'"
        assert line in found["remarks"]
        assert line in printed


def test_an_interrupted_part_keeps_what_it_measured(settings, jobs, monkeypatch, capsys):
    here = one_c.trial

    def interrupted(job, limit=None):
        if job["strategy"] == "ovr":
            raise KeyboardInterrupt
        return here(job)

    monkeypatch.setattr(one_c, "trial", interrupted)
    shape = ["--made-rows=200", "--made-features=10", "--made-classes=3", "--repeats=1"]
    where = f"--results-dir={settings.results}"
    code = run(cli.main, ["--part=one-c", "--peer=scikit-learn", where, *shape])
    assert code == 130
    assert "what was measured so far is in" in capsys.readouterr().err
    found = json.loads((settings.results / "one-c.json").read_text())
    assert not found["complete"]
    assert [row["strategy"] for row in found["results"]] == ["multinomial"]


def test_path(settings, jobs, store, capsys):
    path.run(replace(settings, stores=(store,), strategies=("ovr",)))
    one, whole = content(settings, "path")["results"]
    assert one["strategy"] == "ovr"
    assert set(one["peer_points"]) == {"0.01", "1"}
    assert one["C"] in one["visited"]
    assert whole["peer_estimate"] == pytest.approx(one["peer_loop"] + one["peer_refit"])
    assert 0 < whole["icebox_steps"] < whole["icebox_command"]
    steps = one["icebox"]
    assert whole["icebox_steps"] == pytest.approx(sum(steps.values()))
    assert whole["peak_bytes"] > 3e7
    assert "ESTIMATED" in capsys.readouterr().out


def test_hundred(settings, jobs, store, monkeypatch, capsys):
    monkeypatch.setattr(hundred, "cores", lambda: 1)
    hundred.run(replace(settings, stores=(store,), repeats=1))
    (row,) = content(settings, "hundred")["results"]
    assert row["pairs"] == 28
    assert len(row["sample"]) == 4
    assert row["scale"] == 7
    assert abs(row["our_excess"]) < 1e-6
    assert row["beyond_features_bytes"] > 0
    assert "SCALED UP by 7" in capsys.readouterr().out


def test_slopes(settings, capsys):
    slopes.run(settings, budget=0.0)
    found = content(settings, "slopes")["results"]
    assert [row["varied"] for row in found] == ["rows", "columns", "width"]
    assert all(np.isfinite(row["slope"]) and len(row["points"]) == 3 for row in found)
    assert "seconds ~ rows ^" in capsys.readouterr().out


def test_memory(settings, store, capsys):
    memory.run(replace(settings, stores=(store,), strategies=("ovr",)))
    (row,) = content(settings, "memory")["results"]
    assert row["features_bytes"] == 320 * 8 * 4
    assert row["limit_bytes"] == pytest.approx(1.3 * 320 * 8 * 4 + 500e6)
    assert row["peak_bytes"] > 3e7


def test_out_of_core_says_when_the_option_is_missing(settings, store, monkeypatch, capsys):
    monkeypatch.setattr(memory, "measured", lambda command: {"stdout": "usage: fit"})
    memory.out_of_core(replace(settings, stores=(store,)))
    assert content(settings, "out-of-core")["results"] == []
    assert "no option --memory" in capsys.readouterr().out


def test_out_of_core(settings, store, monkeypatch, capsys):
    commands = []

    def stand_in(command):
        """Answers as a version with the option would, and fits nothing."""
        if "--help" in command:
            return {"stdout": "--memory SIZE"}
        commands.append(list(command))
        parts = "--memory" in command
        folder = Path(command[command.index("--reports-dir") + 1]) / "toys" / "1"
        folder.mkdir(parents=True)
        fitted = {"ovr": {"certificate": {"objective": 2.0 if parts else 4.0}}}
        results = {"strategies": fitted, "timings": {}, "settings": {"out_of_core": parts}}
        (folder / "results.json").write_text(json.dumps(results))
        return {"seconds": 3.0 if parts else 1.0, "peak_bytes": 10**8}

    monkeypatch.setattr(memory, "measured", stand_in)
    memory.out_of_core(replace(settings, stores=(store,), strategies=("ovr",)))
    (row,) = content(settings, "out-of-core")["results"]
    assert classify_parse(commands[1][1:])[1].c == 0.01
    # A quarter of these few features would not do.
    least = memory.least_memory(read_header(store), ("ovr",), None)
    assert commands[0][-2:] == ["--memory", f"{-(-least // 10**6)}MB"]
    assert row["differ"] == {"ovr": 0.5}
    assert row["slower"] == 3.0
    assert "the least that the fits can do with" in capsys.readouterr().out


def test_out_of_core_runs_for_real(settings, tmp_path, capsys):
    file = tmp_path / "wide.h5"
    rng = np.random.default_rng(0)
    splits = {}
    for split, n in (("train", 20_000), ("test", 300)):
        labels = np.arange(n) % 3
        X = (rng.normal(size=(n, 400)) + labels[:, None]).astype(np.float32)
        ids = [f"{split}:{i}" for i in range(n)]
        splits[split] = SplitSource(labels, ids, [(X, np.ones(n, dtype=bool))])
    spec = {"dataset": {"name": "toys"}, "model": {"name": "toynet"}, "store_dtype": "float32"}
    join(file, spec=spec, request={}, provenance={}, class_names="abc", splits=splits)
    memory.out_of_core(replace(settings, stores=(file,), C=(0.01,), strategies=("multinomial",)))
    (row,) = content(settings, "out-of-core")["results"]
    assert row["out_of_core"]["out_of_core"] and not row["in_memory"]["out_of_core"]
    assert row["differ"]["multinomial"] < 1e-5
    capsys.readouterr()


def test_out_of_core_leaves_out_what_is_too_small_for_it(settings, store, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(
        memory, "measured", lambda command: commands.append(list(command)) or measured(command)
    )
    memory.out_of_core(replace(settings, stores=(store,), strategies=("ovr",)))
    assert content(settings, "out-of-core")["results"] == []
    assert "is too small" in capsys.readouterr().out
    assert [("--help" in words, "--memory" in words) for words in commands] == [
        (True, False),
        (False, True),
    ], "nothing is fitted that it would be compared with"


def test_closed_form(settings, capsys):
    closed_form.run(settings)
    found = content(settings, "closed-form")["results"]
    assert [row["head"] for row in found] == ["ridge", "lda", "nearest-mean", "knn"]
    assert all(row["seconds"] > 0 and row["peer_seconds"] > 0 for row in found)
    assert {row["limit"] for row in found} == {None}  # the limits are for another shape
    assert "RidgeClassifier" in capsys.readouterr().out


def test_svm(settings, capsys):
    svm.run(settings)
    found = content(settings, "svm")["results"]
    assert [row["head"] for row in found] == ["ovr", "svm-ovr", "ovo", "svm-ovo", "ecoc"]
    assert all(row["converged"] and row["fit"] > 0 for row in found)
    assert [row["ratios"]["path"] for row in found if row["head"] in ("ovr", "ovo")] == [1.0, 1.0]
    assert "svm-ovo" in capsys.readouterr().out


def test_coupling(settings):
    coupling.run(settings)
    found = content(settings, "coupling")["results"]
    assert [(row["classes"], row["limit"]) for row in found] == [(10, 0.2), (100, 20.0)]


def test_a_trial_is_done_in_a_process_and_ended_in_time(tmp_path):
    saved = str(made(200, 10, 3).save(tmp_path))
    job = {"kind": "contest", "peer": "scikit-learn", "strategy": "multinomial", "C": 0.1}
    done = trial({**job, "tol": 1e-4, "rows": saved, "repeats": 2}, limit=60)
    assert len(done["seconds"]["peer"]) == 2
    assert done["icebox_coef"].shape == done["peer_coef"].shape == (3, 10)
    started = time.monotonic()
    with pytest.raises(TooLong):
        trial({**job, "tol": 1e-4, "rows": saved, "repeats": 10**6}, limit=0.2)
    assert time.monotonic() - started < 30
    with pytest.raises(Failed, match="No such file"):
        trial({**job, "tol": 1e-4, "rows": str(tmp_path / "nothing")})


def test_memory_is_that_of_the_command_and_not_of_who_asks():
    held = np.ones(40_000_000)  # 320 MB
    assert measured(["benchmarks.measure", os.devnull, "true"])["peak_bytes"] < 1e8
    with pytest.raises(UserError, match="No module named"):
        measured(["no_such_module"])
    assert held[-1] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch.h5"], "nosuch.h5 does not exist"),
        (["--part=slope"], "did you mean slopes"),
        (["--part=memory"], "no feature store was given"),
        (["--c=0"], "--c is '0', expected a number above 0"),
        (["--repeats=1.5"], "expected a whole number above 0"),
        (["--peer=sklearn"], "scikit-learn"),
    ],
)
def test_bad_input_is_one_error(arguments, message, capsys):
    assert run(cli.main, arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error


def test_the_command_itself(tmp_path):
    """A bad store gives exit code 2; Ctrl-C gives 130 and ends the fits."""
    command = [sys.executable, "-m", "benchmarks"]
    bad = subprocess.run([*command, "no.h5"], cwd=ROOT, capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.count("\n") == 1
    slow = [*command, "--part=one-c", "--peer=scikit-learn", "--repeats=100000", "--strategy=ovo"]
    shape = ["--made-rows=500", "--made-features=10", "--made-classes=3"]
    child = subprocess.Popen(
        [*slow, *shape, f"--results-dir={tmp_path}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in child.stdout:
        if line.startswith("strategy"):
            break
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130
    assert str(Path(tmp_path) / "one-c.json") in error
    assert not json.loads((tmp_path / "one-c.json").read_text())["complete"]


def test_pages_are_kept_by_what_is_started_meanwhile(monkeypatch):
    kept = []
    monkeypatch.setattr(processes, "keep_pages", lambda: kept.append(True))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    with processes.pages_kept():
        assert {name: os.environ[name] for name in processes.KEPT_PAGES} == processes.KEPT_PAGES
    assert kept == [True]
    assert os.environ["MALLOC_TRIM_THRESHOLD_"] == "65536"
    assert "MALLOC_MMAP_MAX_" not in os.environ


def test_decoding_compares_fast_with_exact(settings, monkeypatch, capsys):
    small = (((500, 375), {}), ((1200, 900), {"progressive": True}))
    monkeypatch.setattr(decoding, "PHOTOGRAPHS", small)
    monkeypatch.setattr(decoding, "GOAL_AT", (*small[1], 224))
    decoding.run(settings)
    rows = content(settings, "decoding")["results"]
    assert [(row["width"], row["side"]) for row in rows] == [
        (500, 224), (500, 128), (1200, 224), (1200, 128),
    ]  # fmt: skip
    assert [row["mean_levels"] > 0 for row in rows] == [False, False, False, True]
    assert all(len(row["seconds"]["fast"]) == settings.repeats for row in rows)
    assert "goal of 4x:" in capsys.readouterr().out


def test_siblings_are_written_beside_one_store(settings, monkeypatch, capsys):
    from benchmarks import siblings

    words = ("--model=test_vit", "--image-size=32", "--limit=20", "--engine=torch")
    case = siblings.Case("small", words, ("--pool=default",), ("--pool=default", "--pool=max"))
    monkeypatch.setattr(siblings, "CASES", (case,))
    siblings.run(settings)
    [row] = content(settings, "siblings")["results"]
    assert len(row["runs"]["one"]) == len(row["runs"]["several"]) == settings.repeats
    assert row["ratio"] > 0 and "goal of 90%" in capsys.readouterr().out
