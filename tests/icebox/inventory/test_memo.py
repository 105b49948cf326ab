"""Headers that are known: read once, and again when the file has changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from small_stores import spec_of, write_store

import data.reading
from icebox.inventory.memo import Memo
from icebox.inventory.stores import read_stores


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """Lists the headers that are read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    real, seen = data.reading.read_header, []

    def read(path):
        seen.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(data.reading, "read_header", read)
    return seen


def stores():
    return read_stores(Path("features"), Memo("stores"), lambda: True, [])


def test_an_unchanged_header_is_read_once(reads):
    path = write_store("features")
    first = stores()
    assert reads == [path.name] and stores() == first and reads == [path.name]
    assert first[0].rows == 10 and first[0].features == "mobilenetv2_100 32 px"


def test_a_changed_one_is_read_again(reads):
    path = write_store("features")
    stores()
    other = write_store("other", spec_of("another"))
    os.replace(other, path)
    assert stores()[0].features == "another 32 px" and len(reads) == 2
    path.write_bytes(b"")
    assert "empty" in stores()[0].problem


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 9999, '{"features/toys/x": 3}', "\x00", None]
)
def test_a_memo_that_is_damaged_is_made_again(reads, text):
    path = write_store("features")
    stores()
    memo = Memo("stores").path
    if text is None:  # entries of another form
        content = json.loads(memo.read_text())
        memo.write_text(
            json.dumps({name: {**entry, "facts": 5} for name, entry in content.items()})
        )
    else:
        memo.write_text(text)
    assert [one.path.name for one in stores()] == [path.name]
    assert len(reads) == 2
    stores()
    assert len(reads) == 2


def test_one_that_cannot_be_written_is_no_error(reads, tmp_path):
    (tmp_path / "home").write_text("a file in its place")
    write_store("features")
    assert len(stores()) == len(stores()) == 1


def test_shards_are_looked_at_again(reads):
    path = write_store("features", virtual=True)
    assert stores()[0].problem == ""
    next(next(path.parent.glob("*.shards-*")).iterdir()).unlink()
    assert "is missing" in stores()[0].problem
