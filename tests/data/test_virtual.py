"""Stores whose features stay in shards: the same rows, and no shard goes missing unnoticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.format.records import SplitSource, StoreError
from data.format.shard_list import parse_listed
from data.format.spec import spec_key
from data.reading import iter_blocks, open_features, read_header, verify_store
from data.shards import write_shard
from data.writing import join

SPEC = {
    "dataset": {"name": "toys", "digest": "0" * 64, "limit": None},
    "model": {"name": "m", "args": {}, "weights": {"source": "random", "digest": "1" * 64}},
    "preprocessing": {"image_size": 8},
    "pool": "default",
    "precision": "fp32",
}
ROWS = {"train": 50, "test": 21}
STEP = 16


def build(folder, *, virtual=True, dtype="float32", skip=(), seed=0):
    """Write a store from shards of 16 rows; `skip` are training rows without an embedding."""
    spec = {**SPEC, "store_dtype": dtype}
    key, rng = spec_key(spec), np.random.default_rng(seed)
    blocks, shards = {}, {}
    for split, count in ROWS.items():
        features = rng.normal(size=(count, 6)).astype(dtype)
        ok = np.array([not (split == "train" and row in skip) for row in range(count)])
        blocks[split], shards[split] = [], []
        for start in range(0, count, STEP):
            stop = min(start + STEP, count)
            path = folder / "work" / f"shard-{split}-{start:09d}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            some = features[start:stop], ok[start:stop]
            write_shard(path, *some, key=key, split=split, start=start)
            blocks[split].append(some)
            shards[split].append((path, start, stop))
    store = folder / "toys" / "m-8px-00000000.h5"
    join(
        store,
        spec=spec,
        request={},
        provenance={},
        class_names=["a", "b"],
        splits={
            split: SplitSource(
                np.arange(count) % 2, [f"{split}{row}" for row in range(count)], blocks[split]
            )
            for split, count in ROWS.items()
        },
        shards=shards if virtual else None,
    )
    shutil.rmtree(folder / "work")
    return store


def shard_of(store, name="shard-train-000000016.h5"):
    (folder,) = store.parent.glob("*.shards-*")
    return folder / name


def digests(store):
    return {d.name: d.sha256 for d in verify_store(store).datasets}


@pytest.mark.parametrize(("dtype", "skip"), [("float32", ()), ("float16", (0, 15, 16, 17, 49))])
def test_rows_are_those_of_a_store_in_one_file(tmp_path, dtype, skip):
    virtual = build(tmp_path / "virtual", dtype=dtype, skip=skip)
    copied = build(tmp_path / "copied", virtual=False, dtype=dtype, skip=skip)
    assert digests(virtual) == digests(copied)
    found, expected = open_features(virtual), open_features(copied)
    assert found.train.ids == expected.train.ids
    on_disk = open_features(virtual, in_memory=False)
    for split in ("train", "test"):
        wanted = getattr(expected, split).features
        assert np.array_equal(getattr(found, split).features, wanted)
        left = getattr(on_disk, split).features
        assert np.array_equal(left.read(3, 20), wanted[3:20])
        rows = np.array([20, 0, 17, 16])
        assert np.array_equal(left.gather(rows), wanted[rows])
        blocks = [block for block, _ in iter_blocks(virtual, split, rows=7)]
        assert np.array_equal(np.concatenate(blocks), wanted)


def test_other_programs_read_it_wherever_it_lies(tmp_path, monkeypatch):
    store = build(tmp_path / "made")
    expected = open_features(store).train.features
    shutil.move(tmp_path / "made", tmp_path / "moved")
    store = tmp_path / "moved" / "toys" / store.name
    assert np.array_equal(open_features(store).train.features, expected)
    monkeypatch.chdir("/")
    with h5py.File(store) as file:
        assert file["train/features"].is_virtual
        assert np.array_equal(file["train/features"][:], expected)
    shard_of(store).unlink()
    with h5py.File(store) as file:  # HDF5 says nothing; what it fills in can be seen at least
        assert np.isnan(file["train/features"][16:32]).all()


def refused(store, *named):
    for opening in (read_header, open_features, verify_store):
        with pytest.raises(StoreError) as caught:
            opening(store)
        for word in named:
            assert word in str(caught.value)


def test_a_missing_shard(tmp_path):
    store = build(tmp_path)
    shard_of(store).unlink()
    refused(store, "shard-train-000000016.h5 is missing", "--force")


def test_a_replaced_shard(tmp_path):
    store = build(tmp_path)
    other = build(tmp_path / "other", seed=1)
    shutil.copy(shard_of(other), shard_of(store))
    refused(store, "shard-train-000000016.h5 is not the one")
    shutil.copy(shard_of(store, "shard-train-000000000.h5"), shard_of(store))
    refused(store, "shard-train-000000016.h5 is not the one")


def test_a_damaged_shard(tmp_path):
    store = build(tmp_path)
    path = shard_of(store)
    whole = path.read_bytes()
    features = open_features(store).train.features
    at = whole.index(features[20].tobytes())
    path.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    for opening in (open_features, verify_store):
        with pytest.raises(StoreError, match="/train/features has sha256"):
            opening(store)
    path.write_bytes(whole[: len(whole) // 2])
    refused(store, "truncated")


def test_a_shard_that_changes_while_it_is_read(tmp_path):
    store = build(tmp_path)
    rows = open_features(store, in_memory=False).train.features
    rows.read(0, 50)
    path = shard_of(store)
    path.write_bytes(path.read_bytes())
    with pytest.raises(StoreError, match="has changed since it was verified"):
        rows.read(0, 50)
    path.unlink()
    with pytest.raises(StoreError, match="cannot be read any more"):
        rows.read(0, 50)


def test_a_store_that_is_made_again_leaves_no_old_shards(tmp_path):
    build(tmp_path, seed=1)
    store = build(tmp_path)
    assert len(list(store.parent.glob("*.shards-*"))) == 1
    verify_store(store)
    build(tmp_path, virtual=False)
    assert not list(store.parent.glob("*.shards-*"))
    verify_store(store)


@pytest.mark.parametrize(
    "text",
    [
        "[", "[1]", '[["../x/shard-train-000000000.h5",0,1,"a",[[0,1]]]]',
        '[["/x/shard-train-000000000.h5",0,1,"a",[[0,1]]]]', '[["x/other.h5",0,1,"a",[[0,1]]]]',
        '[["x/shard-train-000000000.h5",0,1,"a",[[0,2]]]]',
        '[["x/shard-train-000000000.h5",0,1,"a",[[-1,1]]]]',
        '[["x/shard-train-000000000.h5",5,1,"a",[]]]', '[["x/shard-train-000000000.h5",0,1,1,[]]]',
    ],
)  # fmt: skip
def test_a_list_of_shards_is_not_believed(text):
    with pytest.raises(StoreError, match="list of shards"):
        parse_listed(Path("store.h5"), text)
