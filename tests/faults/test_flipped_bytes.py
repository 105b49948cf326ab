"""A byte that flips anywhere in a store is found by `classify fit`, before it trains."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from fault_world import call, write_store

LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    y = np.arange(60) % 3
    path = tmp_path_factory.mktemp("flipped") / "a.h5"
    return write_store(path, y, y[:12], "abc", d=5)


def regions(path):
    """Cut the file where its arrays begin and end: what HDF5 writes about them lies between."""
    import h5py

    edges = {0, path.stat().st_size}

    def note(name, item):
        if isinstance(item, h5py.Dataset) and item.id.get_offset() is not None:
            edges.update((item.id.get_offset(), item.id.get_offset() + item.id.get_storage_size()))

    with h5py.File(path) as file:
        file.visititems(note)
    edges = sorted(edges)
    return list(itertools.pairwise(edges))


def places(path):
    """Name the bytes that are tried: of each region the first, the last, and some between."""
    chance = np.random.default_rng(0)
    found = set()
    for start, stop in regions(path):
        found.update((start, stop - 1))
        found.update(chance.integers(start, stop, 400 if LONG else 4).tolist())
    return sorted(found)


@pytest.mark.parametrize("memory", ["in memory", "left on the disk"])
def test_a_fit_finds_a_flipped_byte_before_it_trains(memory, store, tmp_path, monkeypatch):
    """With the features in memory, and where they stay on the disk."""
    import classify.fit.fit_store

    def trained(*_):
        raise AssertionError("it trains")

    monkeypatch.setattr(classify.fit.fit_store, "_fit_all", trained)
    if memory == "left on the disk":
        monkeypatch.setattr("classify.fit.memory_budget.in_memory_bytes", lambda header: 1 << 60)
    content = store.read_bytes()
    path, reports = tmp_path / store.name, tmp_path / "reports"
    words = ["classify", "fit", str(path), f"--reports-dir={reports}", "--c=1", "--memory=1GB"]
    path.write_bytes(content)
    with pytest.raises(AssertionError, match="it trains"):
        call(words)
    assert len(regions(store)) > 8
    for place in places(store):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        done = call(words)
        assert done.code == 2, f"byte {place}: {done.err}"
        said = [line for line in done.err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1, done.err
        assert str(path) in said[0]
        assert "Traceback" not in done.err
    assert not list(reports.rglob("*"))
