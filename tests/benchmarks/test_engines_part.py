"""The part ``engines`` on the smallest network: both sides run, and the goals are judged."""

import json
import subprocess
from dataclasses import replace

import pytest
from warm_processes import run_warm

import extract.engines.build
from benchmarks import engines, usual_loop, whole_pipeline
from benchmarks.processes import Failed


def here(module, *words):
    """Run the processes of the part in this one, which has loaded torch already."""
    if module == "usual_loop":
        model, size, batch, folder, out = words
        usual_loop.main(model, size, batch, folder, out)
    else:
        told, out = words
        out.write_text(json.dumps(whole_pipeline.main(json.loads(told.read_text()))))


def test_the_part_runs_and_judges(settings, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(engines, "_process", here)
    monkeypatch.setattr(extract.engines.build, "candidates", lambda *_: ["channels-last", "torch"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    case = engines.Case("test_efficientnet", 32, 0.001, 24, 8, peak=0.000001)
    monkeypatch.setattr(engines, "CASES", {"tiny": case})
    monkeypatch.setattr(engines, "USUAL_BATCH", 8)
    monkeypatch.setattr(engines, "MATRIX", 512)
    monkeypatch.setattr(engines, "ROUNDS", 1)
    monkeypatch.setattr(engines, "ROUND_SECONDS", 0.01)
    engines.run(replace(settings, networks=("tiny",)))
    found = json.loads((settings.results / "engines.json").read_text())
    assert found["complete"]
    (result,) = found["results"]
    ours, usual = result["ours"], result["usual"]
    assert usual["images"] == 8
    assert ours["images"] == 24
    assert result["rate"] == pytest.approx(24 / ours["seconds"])
    assert result["ratio"] == pytest.approx(result["rate"] / result["usual_rate"])
    assert ours["engine"] in ours["net_rates"]
    assert 0 < ours["share_of_best"] <= 1
    assert ours["share_of_peak"] > 0
    assert 0 < ours["share_resizing"] < 1
    assert ours["error"] < 1e-5
    assert ours["flops_of_an_image"] > 1e5
    goals = result["reached"]
    assert len(goals) == 4
    assert goals["0.001 times the usual loop"]
    assert "ratio" in capsys.readouterr().out


def test_a_network_that_does_not_run_is_named(settings, monkeypatch):
    monkeypatch.setattr(subprocess, "run", run_warm)
    monkeypatch.setattr(engines, "CASES", {"odd": engines.Case("no_such_net", 32, 1, 8, 8)})
    with pytest.raises(Failed, match="usual_loop"):
        engines.run(replace(settings, networks=("odd",)))
