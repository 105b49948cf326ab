"""The part ``tables`` on a small table: it is read, and every row is counted."""

import json
from dataclasses import replace

import pytest

from benchmarks import tables
from data.images.sources import table
from data.images.sources.registry import SourceRequest


def test_a_table_is_read_and_measured(settings, monkeypatch, capsys):
    monkeypatch.setattr(tables, "KINDS", (".csv",))
    tables.run(replace(settings, table_rows=2_500))
    found = json.loads((settings.results / "tables.json").read_text())
    assert found["complete"]
    (row,) = found["results"]
    assert (row["rows_read"], row["rows"]) == (2_500, 2_500)
    assert row["peak_bytes"] > 10**7
    assert row["seconds"] > 0
    assert "every goal is reached" in capsys.readouterr().out


def test_every_kind_has_the_same_rows(tmp_path):
    pytest.importorskip("pyarrow")
    tables.make_images(tmp_path, 2_500)
    found = []
    for kind in (".csv", ".tsv", ".jsonl", ".parquet"):
        path = tmp_path / f"labels{kind}"
        tables.write(path, 2_500)
        found.append(table.read(SourceRequest(str(path), tmp_path)))
    first = found[0]
    assert sum(map(len, first.splits.values())) == 2_500
    for other in found[1:]:
        assert other.class_names == first.class_names
        assert other.group_names == first.group_names
        assert other.train.ids == first.train.ids
        for name in ("labels", "groups", "weights"):
            assert getattr(other.test, name).tolist() == getattr(first.test, name).tolist()
