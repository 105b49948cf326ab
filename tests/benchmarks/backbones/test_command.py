"""``make test-backbones``: what it counts, what it notices, and that it goes on where it was."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.backbones import __main__ as command
from benchmarks.backbones import check, processes
from benchmarks.backbones.journal import Journal
from benchmarks.backbones.processes import Children, DiedError
from data.common.cli import run
from data.common.errors import UserError
from extract.model import backbone as backbones

SMALL = "test_efficientnet"


@pytest.fixture
def photo(tmp_path):
    return check.write_image(tmp_path)


def called(*words):
    try:
        return run(command.main, [str(word) for word in words])
    except SystemExit as end:
        return end.code


@pytest.fixture
def in_this_process(monkeypatch):
    """Call what is to run in processes of its own here, but in `make faults`."""
    if os.environ.get("ICEBOX_FAULTS") != "1":
        monkeypatch.setattr(Children, "call", lambda self, function, *args, **_: function(*args))


def test_it_counts_and_goes_on_where_it_was(tmp_path, capsys, monkeypatch, in_this_process):
    words = ("test_efficientnet_?n", "--results-dir", tmp_path)
    assert called(*words) == 0
    out = capsys.readouterr().out
    assert "2 of 2 architectures of timm" in out and "lowest cosine 1.00000" in out
    path = tmp_path / "backbones.jsonl"
    assert out.splitlines()[-1] == str(path)
    lines = path.read_text().splitlines()
    assert len(lines) == 4  # a size and an outcome of each
    # A run that was killed while it wrote: one architecture is missing, and its line is cut.
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:40])
    asked = []

    def kept(self, function, *args, **more):
        asked.append(args)
        return check.Outcome("failed", {"reason": "ValueError: odd", "seconds": 1.0})

    monkeypatch.setattr(Children, "call", kept)
    assert called(*words) == 1, "something failed"
    out = capsys.readouterr().out
    assert [args[0] for args in asked] == [json.loads(lines[3])["name"]]
    assert "1 of 2 architectures" in out and "ValueError: odd" in out
    assert called(*words, "--memory=900MB") == 0, "nothing has room"
    assert "0 of 2 architectures" in (said := capsys.readouterr().out)
    assert "left out, need more than 0.9 GB: 2" in said


def test_ctrl_c_keeps_what_is_done(tmp_path, capsys, monkeypatch):
    def stop(self, function, *args, **more):
        if function is check.check:
            raise KeyboardInterrupt
        return [1 for _ in args[0]]

    monkeypatch.setattr(Children, "call", stop)
    assert called(SMALL, "--results-dir", tmp_path) == 130
    said = capsys.readouterr()
    assert "backbones.jsonl; the same command goes on" in said.err
    assert "0 of 0 architectures" in said.out, "what was done so far"
    Journal(tmp_path).add(SMALL, outcome="works")
    Journal(tmp_path).add("test_vit", outcome="failed")
    journal = Journal(tmp_path, forget=[SMALL])
    assert journal.weights == {SMALL: 1}
    assert list(journal.outcomes) == ["test_vit"], "--force forgets what was asked for alone"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no_such_net*"], "no architecture of timm matches 'no_such_net*'"),
        (["--memory=much"], "--memory is 'much'"),
        (["--memoyr=8GB"], "--memory"),
    ],
)
def test_bad_input(words, said, tmp_path, capsys):
    assert called(*words, "--results-dir", tmp_path) == 2
    assert said in capsys.readouterr().err


def test_a_vector_and_settings_of_timm(photo):
    outcome = check.check(SMALL, photo)
    assert outcome.kind == "works"
    assert outcome.facts["width"] == outcome.facts["num_features"] == 256
    assert outcome.facts["cosine"] > 0.999999


def test_a_network_that_amplifies_rounding_is_judged_in_float64(photo, monkeypatch):
    real, rng = check.by_timm, np.random.default_rng(0)

    def rounded(model, images, noise=1e-2):
        vector = real(model, images)
        far = torch.from_numpy(rng.normal(0, noise, vector.shape)) * vector.abs().max()
        return vector if vector.dtype == torch.float64 else (vector + far).float()

    monkeypatch.setattr(check, "by_timm", rounded)
    facts = check.check(SMALL, photo).facts
    assert facts["differences"] == [] and facts["rounding"] > 1e-3
    # Where it is ours that is far from float64, it is no rounding.
    engine = "extract.engines.embed.Embedder.embed"
    monkeypatch.setattr(engine, lambda self, images: np.ones((1, 256), np.float32))
    assert check.check(SMALL, photo).kind == "differs"


def test_what_is_not_timms_is_noticed(photo, monkeypatch):
    load = backbones.load_backbone

    def with_settings(**changes):
        def changed(request):
            found = load(request)
            found.preprocessing = replace(found.preprocessing, **changes)
            return found

        monkeypatch.setattr(backbones, "load_backbone", changed)
        return check.check(SMALL, photo)

    kind, facts = with_settings(crop_pct=0.9)
    assert kind == "differs"
    text = "; ".join(facts["differences"])
    assert "crop_pct 0.9, timm's 0.95" in text and "pixels differ" in text
    kind, facts = with_settings(mean=(0.4, 0.5, 0.5))
    assert kind == "differs" and "mean (0.4, 0.5, 0.5)" in facts["differences"][0]

    monkeypatch.setattr(check, "by_timm", lambda *_: torch.ones(1, 256))
    monkeypatch.setattr(backbones, "load_backbone", load)
    kind, facts = check.check(SMALL, photo)
    assert kind == "differs" and "cosine" in facts["differences"][0]

    def refuse(request):
        raise UserError("gives no embedding\nmore")

    monkeypatch.setattr(backbones, "load_backbone", refuse)
    assert check.check(SMALL, photo)[:1] == ("refused",)
    assert check.check(SMALL, photo).facts["reason"] == "gives no embedding"
    monkeypatch.setattr(backbones, "load_backbone", lambda request: 1 / 0)
    assert check.check(SMALL, photo).facts["reason"].startswith("ZeroDivisionError")

    def too_large(request):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr(backbones, "load_backbone", too_large)
    assert check.check(SMALL, photo).kind == "memory"


def take(amount):
    import numpy as np

    return int(np.ones(amount, dtype=np.uint8)[-1])


def end():
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_have_a_limit_and_may_die(monkeypatch):
    monkeypatch.setattr(processes, "LOADED", [])
    children = Children()
    assert children.call(take, 10**9) == 1
    with pytest.raises(DiedError, match="exit code 1"):
        children.call(take, 10**9, memory=8 * 10**8)
    with pytest.raises(DiedError, match="SIGKILL"):
        children.call(end)
