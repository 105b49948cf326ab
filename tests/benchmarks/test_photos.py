"""The part ``photos``: its sets, its goals, and one small run of it."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from benchmarks import photos
from benchmarks.settings import Settings


def test_sets_are_what_they_are_called_and_the_same_each_time(tmp_path):
    for kind, size, suffix in (("jpeg-500", (500, 375), ".jpg"), ("png-300", (300, 300), ".png")):
        one, two = (photos.make(tmp_path / name / kind, kind, 10) for name in ("a", "b"))
        files = sorted(path for path in one.rglob("*") if path.is_file())
        assert len(files) == 10
        assert {path.parent.parent.name for path in files} == {"train", "test"}
        for path in files:
            assert path.suffix == suffix
            with Image.open(path) as image:
                assert image.size == size
            assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()
    mixed = photos.make(tmp_path / "mixed", "mixed", 6)
    formats = {Image.open(path).format for path in mixed.rglob("*.*")}
    assert formats == {"JPEG", "PNG", "WEBP"}


def found(**more):
    return {
        "cores": 2, "decoder_cpu": 0.004, "network_cpu": 0.006, "whole_seconds": 5.0,
        "first": 10.0, "usual": 31.0, **more,
    }  # fmt: skip


def test_goals_are_judged_by_what_the_processors_allow():
    case = photos.Case("jpeg-500", 1000, 224, 3.0)
    result = photos.judged("x", case, found())
    assert result["allowed"] == pytest.approx(200)
    assert result["share"] == pytest.approx(1.0)
    assert all(result["reached"].values())
    result = photos.judged("x", case, found(whole_seconds=6.0, usual=29.0))
    assert not any(result["reached"].values())


@pytest.mark.skipif(not os.environ.get("ICEBOX_FAULTS"), reason="make faults")
def test_the_part_runs(tmp_path, monkeypatch, capsys):
    cases = {"small": photos.Case("png-300", 12, 32, 1.0)}
    monkeypatch.setattr(photos, "CASES", cases)
    monkeypatch.setattr(photos, "NETWORK_SECONDS", 0.05)
    record = photos.run(Settings(results=tmp_path))
    (result,) = record.content["results"]
    rates = ("decoder", "network", "allowed", "whole", "share")
    numbers = (*rates, "first", "usual", "peak_bytes", "start_seconds")
    assert all(np.isfinite(result[key]) and result[key] > 0 for key in numbers)
    assert result["allowed"] < 2 * min(2 / result["decoder_cpu"], 2 / result["network_cpu"])
    assert json.loads((tmp_path / "photos.json").read_text())["complete"]
    assert "small" in capsys.readouterr().out
