"""Features that stay on the disk: read as they would be in memory, and verified as they are."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data.common.errors import UserError
from data.format.records import SplitSource
from data.format.stored_rows import StackedRows
from data.reading import open_features
from data.writing import join


@pytest.fixture(params=["float32", "float16"])
def store(tmp_path, request):
    return write(tmp_path / "s.h5", request.param)


def write(path, dtype="float32", n=300, d=7):
    rng = np.random.default_rng(0)
    splits = {}
    for split, rows in (("train", n), ("test", 20)):
        X = rng.normal(size=(rows, d)).astype(dtype)
        names = [f"{split}/{row}.png" for row in range(rows)]
        splits[split] = SplitSource(np.arange(rows) % 3, names, [(X, np.ones(rows, bool))])
    spec = {"store_dtype": dtype}
    join(path, spec=spec, request={}, provenance={}, class_names="abc", splits=splits)
    return path


def test_rows_are_those_in_memory(store):
    whole, left = open_features(store), open_features(store, in_memory=False)
    for split in ("train", "test"):
        expected = getattr(whole, split).features.astype(np.float32)
        rows = getattr(left, split).features
        assert rows.shape == expected.shape and len(rows) == len(expected)
        assert rows.dtype == np.float32 and rows.nbytes == expected.nbytes
        np.testing.assert_array_equal(rows.read(0, len(rows)), expected)
        np.testing.assert_array_equal(rows.read(5, 9), expected[5:9])
        assert rows.read(3, 3).shape == (0, 7)
        out = np.empty((4, 7), np.float32)
        assert rows.read(2, 6, out) is out
        np.testing.assert_array_equal(out, expected[2:6])
        np.testing.assert_array_equal(getattr(left, split).labels, getattr(whole, split).labels)
        assert getattr(left, split).ids == getattr(whole, split).ids
    assert left.class_names == whole.class_names and left.key == whole.key
    assert "300 x 7" in repr(left.train.features)


def test_any_rows_are_gathered_in_the_order_asked_for(store, monkeypatch):
    monkeypatch.setattr("data.format.stored_rows.GAP_BYTES", 200)
    monkeypatch.setattr("data.format.stored_rows.SPAN_BYTES", 1000)
    monkeypatch.setattr("data.format.stored_rows.PIECE_BYTES", 100)
    expected = open_features(store).train.features.astype(np.float32)
    rows = open_features(store, in_memory=False).train.features
    rng = np.random.default_rng(0)
    for wanted in (
        np.array([], int), np.array([299]), np.arange(300), np.arange(300)[::-1],
        rng.integers(0, 300, 50), rng.permutation(300)[:20],
    ):  # fmt: skip
        np.testing.assert_array_equal(rows.gather(wanted), expected[wanted])


def test_threads_read_at_the_same_time(store):
    rows = open_features(store, in_memory=False).train.features
    expected = rows.read(0, 300)
    with ThreadPoolExecutor(8) as pool:
        for low, block in enumerate(pool.map(lambda low: rows.read(low, low + 20), range(280))):
            np.testing.assert_array_equal(block, expected[low : low + 20])


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_file_that_goes_away_is_read_on(store, what):
    rows = open_features(store, in_memory=False).train.features
    expected = rows.read(0, 300)
    if what == "removed":
        store.unlink()
    else:
        write(store.with_name("other.h5"), n=10).replace(store)
    np.testing.assert_array_equal(rows.read(0, 300), expected)


def test_a_file_that_is_cut_is_one_error(store):
    rows = open_features(store, in_memory=False).train.features
    os.truncate(store, 600)
    with pytest.raises(UserError, match=r"s\.h5 was cut while it was being read"):
        rows.read(0, 300)
    with pytest.raises(UserError, match="was cut"):
        rows.gather(np.array([299, 0]))


def test_a_disk_that_fails_is_one_error(store, monkeypatch):
    rows = open_features(store, in_memory=False).train.features

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("data.format.loading.read_at", fail)
    with pytest.raises(UserError, match="cannot be read any more: Input/output error"):
        rows.read(0, 3)


def test_what_stays_on_the_disk_is_verified_too(tmp_path):
    path = write(tmp_path / "s.h5")
    content = bytearray(path.read_bytes())
    X = open_features(path).train.features
    place = content.index(X[100].tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="/train/features has sha256"):
        open_features(path, in_memory=False)
    content[place : place + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    with pytest.raises(UserError, match="NaN or infinite values, first in row 100"):
        open_features(path, in_memory=False)
    unchecked = open_features(path, in_memory=False, verify=False)
    assert np.isnan(unchecked.train.features.read(100, 101)).any()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_the_file_is_closed_with_its_last_user(store):
    before = len(os.listdir("/proc/self/fd"))
    features = open_features(store, in_memory=False)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    features.train.features.close()
    with pytest.raises(ValueError, match="is closed"):
        features.train.features.read(0, 1)
    del features
    assert len(os.listdir("/proc/self/fd")) == before


def test_stacked_tables_are_one_table(tmp_path):
    stores = [
        open_features(write(tmp_path / f"{n}.h5", dtype, n=n), in_memory=False)
        for n, dtype in ((30, "float32"), (1, "float16"), (50, "float16"))
    ]
    parts = tuple(store.train.features for store in stores)
    stacked, expected = (
        StackedRows(parts),
        np.concatenate([part.read(0, len(part)) for part in parts]),
    )
    assert stacked.shape == expected.shape and len(stacked) == 81 and stacked.ndim == 2
    assert stacked.dtype == np.float32 and stacked.nbytes == expected.nbytes
    for start, stop in ((0, 81), (3, 20), (29, 32), (30, 31), (31, 81), (40, 40), (81, 81)):
        np.testing.assert_array_equal(stacked.read(start, stop), expected[start:stop])
    out = np.empty((50, 7), np.float32)
    assert stacked.read(10, 60, out) is out
    np.testing.assert_array_equal(out, expected[10:60])
    rows = np.random.default_rng(0).integers(0, 81, 40)
    np.testing.assert_array_equal(stacked.gather(rows), expected[rows])
    assert stacked.gather(rows[:0]).shape == (0, 7)
    with pytest.raises(IndexError, match="rows 80 to 82 of 81"):
        stacked.read(80, 82)
