"""Stores, runs, leftovers and caches, sound and broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_stores import spec_of, write_run, write_store, write_work

from data.format.spec import spec_key
from icebox.checks import contents
from icebox.checks.finding import NOTE, OK, WARNING


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stores(**options):
    return list(contents.check_stores(Path("features"), **options))


def runs(**options):
    return list(contents.check_runs(Path("reports"), **options))


def test_nothing_is_there_yet():
    for found in (stores(), runs()):
        assert [one.level for one in found] == [NOTE] and "is not there yet" in found[0].text
    assert list(contents.check_leftovers(Path("features"))) == []


def test_a_file_in_the_place_of_a_folder():
    Path("features").touch()
    Path("reports").touch()
    for found in (stores(), runs()):
        assert [one.level for one in found] == [WARNING] and "it is not a folder" in found[0].text


def test_stores_are_counted_and_broken_ones_named():
    old = write_store("features", spec_of("old"), provenance={"finished": "2024-01-01T00:00:00"})
    write_store("features", spec_of("new"))
    for number in range(5):
        (old.parent / f"broken-{number}.h5").write_bytes(b"no HDF5" * number)
    good, broken = stores()
    assert good.level == OK and good.text.startswith("2 stores in features, 14.1 kB; the newest")
    assert "toys/new-32px-" in good.text and good.values["count"] == 2
    assert broken.level == WARNING and broken.text == "5 files not readable as a store"
    assert broken.advice[0] == "toys/broken-0.h5: empty, not a feature store"
    assert broken.advice[-1] == "and 2 more" and len(broken.values["broken"]) == 5


def test_headers_are_read_for_so_long_and_then_known(monkeypatch):
    for name in ("a", "b", "c"):
        write_store("features", spec_of(name))
    [found] = stores(seconds=0)
    assert found.text.endswith("3 more were not read yet, for want of time")
    assert stores()[0].values["count"] == 3

    def never(_):
        raise AssertionError("read again")

    monkeypatch.setattr("data.reading.read_header", never)
    assert stores(seconds=0)[0].values["count"] == 3


def test_runs_are_counted_and_broken_ones_named():
    key = spec_key(spec_of())
    write_run("reports", key, name="a")
    write_run("reports", key, name="b", started="2026-05-01T00:00:00+00:00")
    Path("reports/.tmp-1").mkdir()
    Path("reports/.tmp-1/results.json").write_text("{}")
    Path("reports/comparison").mkdir()
    Path("reports/comparison/results.json").write_text(
        '{"schema_version": 1, "kind": "comparison"}'
    )
    [good] = runs()
    assert good.text.startswith("2 runs in reports, ") and "the newest, store/b, is" in good.text
    for name, text in (("cut", '{"schema_version"'), ("odd", '{"schema_version": 1}')):
        Path("reports", name).mkdir()
        Path("reports", name, "results.json").write_text(text)
    good, broken = runs()
    assert broken.level == WARNING and broken.text == "2 files not readable as a run"
    assert broken.advice[0].startswith("cut: not JSON") and broken.advice[1].startswith("odd: not ")


def test_unfinished_work():
    write_work("features", spec_of())
    [one] = contents.check_leftovers(Path("features"))
    assert one.level == NOTE
    assert one.text.startswith("1 leftover of interrupted runs, ")
    assert one.text.endswith("1 of which the same command goes on with")


def test_caches(place, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(place / "torch"))
    [one] = contents.check_caches(Path("features"), Path("raw"))
    assert (one.level, one.text) == (OK, "all empty")
    Path("raw").mkdir()
    Path("raw/a.tar.gz").write_bytes(b"x" * 5000)
    Path("raw/loop").symlink_to(place)
    [one] = contents.check_caches(Path("features"), Path("raw"))
    assert one.text.startswith("downloads 5") and one.values["downloads"]["bytes"] < 6000
    assert set(one.values) >= {"downloads", "icebox cache", "hub cache", "torch cache"}
