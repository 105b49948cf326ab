"""The part ``few``: what it makes, and a small case of it."""

import json
from dataclasses import replace

import numpy as np

from benchmarks import few
from data import open_features


def test_the_store_has_so_many_rows_of_each_class(tmp_path):
    store = open_features(few.write_store(tmp_path / "s" / "few.h5", 7, 3, 20, 2))
    assert store.train.features.shape == (21, 20)
    assert np.bincount(store.train.labels).tolist() == [3] * 7
    assert np.bincount(store.test.labels).tolist() == [2] * 7


def test_the_whole_command_is_measured(settings, monkeypatch, capsys):
    given = []

    def measured(command):
        given.append(command)
        return {"seconds": 9.0, "cpu_seconds": 12.0, "peak_bytes": 10**8, "code": 0, "stdout": ""}

    monkeypatch.setattr(few, "measured", measured)
    monkeypatch.setattr(few, "LIMITS", {(5, 2): 8.0})
    few.run(replace(settings, few_cases=((5, 2), (4, 3)), few_features=12))
    rows = json.loads((settings.results / "few.json").read_text())["results"]
    assert [(row["classes"], row["rows_each"], row["limit"]) for row in rows] == [
        (5, 2, 8.0),
        (4, 3, None),
    ]
    assert "--c=auto" in given[0]
    assert "NO" in capsys.readouterr().out
