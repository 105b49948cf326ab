"""Splits and columns that not every store has: validation, unlabelled; groups, weights, digests."""

import h5py
import numpy as np
import pytest

from data import StoreError, open_features
from data.format.records import SplitSource
from data.reading import iter_blocks, read_header, verify_store
from data.writing import join

SPEC = {
    "dataset": {"name": "made", "digest": "0", "limit": None},
    "model": {"name": "m", "args": {}, "weights": {"source": "random", "digest": "0"}},
    "preprocessing": {"image_size": 8},
    "store_dtype": "float32",
}
ROWS = {"train": 6, "test": 4, "validation": 3, "unlabelled": 2}


def rows_of(name, n):
    generator = np.random.default_rng(len(name))
    return generator.normal(size=(n, 5)).astype(np.float32)


def source(name, n, ok=None, **columns):
    labels = np.full(n, -1) if name == "unlabelled" else np.arange(n) % 2
    good = np.ones(n, bool) if ok is None else ok
    return SplitSource(
        labels, [f"{name}:{row}" for row in range(n)], [(rows_of(name, n), good)], **columns
    )


def columns(n):
    return {
        "groups": np.arange(n) // 2,
        "weights": np.arange(n) / 2,
        "image_sha256": np.arange(32 * n, dtype=np.uint8).reshape(n, 32),
    }


def write(path, names=tuple(ROWS), **changes):
    splits = {name: source(name, ROWS[name], **columns(ROWS[name])) for name in names} | changes
    return join(
        path, spec=SPEC, request={}, provenance={}, class_names=["a", "b"], splits=splits,
        group_names=["x", "y", "z"],
    )  # fmt: skip


@pytest.mark.parametrize("in_memory", [True, False])
def test_every_part_comes_back(tmp_path, in_memory):
    write(tmp_path / "a.h5")
    store = open_features(tmp_path / "a.h5", in_memory=in_memory)
    assert store.sizes == ROWS
    assert (store.n_validation, store.n_unlabelled) == (3, 2)
    assert store.group_names == ("x", "y", "z")
    for name, n in ROWS.items():
        split = store.splits[name]
        table = split.features if in_memory else split.features.read(0, n)
        assert np.array_equal(table, rows_of(name, n))
        assert split.ids == [f"{name}:{row}" for row in range(n)]
        for column, values in columns(n).items():
            found = getattr(split, column)
            assert found.dtype == values.dtype and np.array_equal(found, values)
    assert set(store.unlabelled.labels) == {-1}
    blocks = [block for block, _ in iter_blocks(tmp_path / "a.h5", "validation", 2)]
    assert np.array_equal(np.concatenate(blocks), rows_of("validation", 3))


def test_without_them_nothing_is_there(tmp_path):
    splits = {name: source(name, ROWS[name]) for name in ("train", "test")}
    join(
        tmp_path / "a.h5", spec=SPEC, request={}, provenance={}, class_names=["a", "b"],
        splits=splits,
    )  # fmt: skip
    store = open_features(tmp_path / "a.h5")
    assert store.validation is None and store.unlabelled is None
    assert store.train.groups is None and store.train.image_sha256 is None
    with h5py.File(tmp_path / "a.h5") as file:
        assert sorted(file) == ["test", "train"] and "group_names" not in file.attrs
        assert sorted(file["train"]) == ["features", "ids", "labels"]
    with pytest.raises(ValueError, match="no split 'validation'"):
        next(iter_blocks(tmp_path / "a.h5", "validation"))


def test_rows_without_an_embedding_take_their_columns_with_them(tmp_path):
    ok = np.array([True, False, True])
    write(tmp_path / "a.h5", validation=source("validation", 3, ok, **columns(3)))
    found = open_features(tmp_path / "a.h5").validation
    assert found.ids == ["validation:0", "validation:2"]
    for column, values in columns(3).items():
        assert np.array_equal(getattr(found, column), values[ok])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train": source("train", 6, weights=np.full(6, -1.0))}, "weights that are negative"),
        ({"train": source("train", 6, weights=np.full(6, np.nan))}, "negative or not finite"),
        ({"train": source("train", 6, groups=np.full(6, 3))}, r"groups outside 0\.\.2"),
    ],
)
def test_what_cannot_be_is_not_written(tmp_path, changes, message):
    with pytest.raises(StoreError, match=message):
        write(tmp_path / "a.h5", **changes)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("/validation/labels", 2, "labels outside"),
        ("/unlabelled/labels", 0, "labels outside"),
        ("/train/groups", 9, "groups is outside"),
        ("/train/weights", -1.0, "negative or not finite"),
    ],
)
def test_what_another_program_wrote_is_checked(tmp_path, name, value, message):
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file[name][1] = value
    with pytest.raises(StoreError, match=message):
        open_features(tmp_path / "a.h5", verify=False)
    with pytest.raises(StoreError):
        verify_store(tmp_path / "a.h5")


def test_a_validation_table_of_another_width_is_refused(tmp_path):
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["/validation/features"]
        file["/validation/features"] = np.zeros((3, 4), np.float32)
        file["/validation/features"].attrs["sha256"] = "0"
    with pytest.raises(StoreError, match="as wide as"):
        read_header(tmp_path / "a.h5")
