"""The part ``doors`` with a few digits and raw pixels: every door gives the same rows."""

import json

import pytest

from benchmarks import doors


@pytest.mark.slow
@pytest.mark.skipif("not __import__('os').environ.get('ICEBOX_FAULTS')", reason="make faults")
def test_every_door_gives_the_same_rows(settings, monkeypatch, capsys):
    monkeypatch.setattr(doors, "IMAGES", {"train": 60, "test": 30})
    monkeypatch.setattr(doors, "NETWORK", {"model": "pixels", "image_size": 8})
    doors.run(settings)
    found = json.loads((settings.results / "doors.json").read_text())
    assert found["complete"] and len(found["results"]) == 8
    assert all(row["equal"] for row in found["results"])
    assert "every goal is reached" in capsys.readouterr().out
