"""Shards: read whole, or computed again with a reason."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.format.records import StoreError
from data.shards import read_shard, write_shard

KEY = "ab" * 32


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


@pytest.fixture
def shard(tmp_path, rows):
    path = tmp_path / "shard-train-000002.h5"
    write_shard(path, rows, np.ones(6, bool), key=KEY, split="train", start=12)
    return path


def read(path, *, start=12, stop=18, split="train", key=KEY):
    """Read a shard; return what was read and the reasons for doing it again."""
    reasons = []
    found = read_shard(path, key=key, split=split, start=start, stop=stop, on_damage=reasons.append)
    return found, reasons


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 20),
    width=st.integers(1, 9),
    dtype=st.sampled_from(["float32", "float16"]),
    start=st.integers(0, 10**9),
    data=st.data(),
)
def test_what_is_written_is_read(tmp_path_factory, n, width, dtype, start, data):
    path = tmp_path_factory.getbasetemp() / "shard.h5"
    values = np.random.default_rng(n).normal(5, 1, (n, width)).astype(dtype)
    ok = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    values[~ok] = np.nan
    receipt = write_shard(path, values, ok, key=KEY, split="test", start=start)
    assert (receipt.key, receipt.split, receipt.dtype) == (KEY, "test", dtype)
    assert (receipt.start, receipt.stop) == (start, start + n)
    (features, mask), reasons = read(path, split="test", start=start, stop=start + n)
    assert reasons == []
    assert features.dtype == dtype
    np.testing.assert_array_equal(features, values)
    np.testing.assert_array_equal(mask, ok)
    assert mask.dtype == np.bool_


def test_a_slice_of_a_larger_array_is_written_as_it_looks(tmp_path, rows):
    path = tmp_path / "a.h5"
    write_shard(path, rows[:, ::2], np.ones(6, bool), key=KEY, split="train", start=12)
    np.testing.assert_array_equal(read(path)[0][0], rows[:, ::2])


def test_the_same_rows_give_the_same_bytes(tmp_path, shard, rows):
    write_shard(tmp_path / "b.h5", rows, np.ones(6, bool), key=KEY, split="train", start=12)
    assert (tmp_path / "b.h5").read_bytes() == shard.read_bytes()


def test_a_missing_shard_is_no_damage(tmp_path):
    assert read(tmp_path / "none.h5") == (None, [])


@pytest.mark.parametrize(
    "asked",
    [
        {"key": "cd" * 32},
        {"split": "test"},
        {"start": 11},
        {"stop": 19},
        {"start": 0, "stop": 6},
    ],
)
def test_a_foreign_shard_is_not_used(shard, asked):
    found, (reason,) = read(shard, **asked)
    assert found is None
    assert "holds rows 12 to 18 of train of the store abababab" in reason
    assert shard.exists()


def test_every_flipped_byte_is_found(shard):
    content = shard.read_bytes()
    with shard.open("r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            mask = (0x01, 0x80, 0xFF)[position % 3]
            os.pwrite(file.fileno(), bytes([byte ^ mask]), position)
            found, (reason,) = read(shard)
            assert found is None
            assert str(shard) in reason
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert read(shard)[0] is not None


def test_every_truncation_is_found(shard):
    content = shard.read_bytes()
    for size in range(0, len(content), 7):
        shard.write_bytes(content[:size])
        found, reasons = read(shard)
        assert found is None
        assert len(reasons) == 1


def test_a_shard_changed_by_another_program_is_not_used(shard):
    with h5py.File(shard, "r+") as file:
        file["features"][0, 0] = 1
    assert "no seal" in read(shard)[1][0]


def test_the_reason_need_not_be_asked_for(shard):
    shard.write_text("something else")
    assert read_shard(shard, key=KEY, split="train", start=12, stop=18) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite")],
)
def test_rows_that_are_no_embeddings_are_refused_at_once(tmp_path, rows, value, words):
    rows[2:4] = value
    ids = [f"cats/{n}.png" for n in range(6)]
    for names, listed in ((None, "row 14, row 15"), (ids, "cats/2.png, cats/3.png")):
        with pytest.raises(StoreError, match=rf"train split has {words}.*2 rows \({listed}\)"):
            write_shard(
                tmp_path / "a.h5",
                rows,
                np.ones(6, bool),
                key=KEY,
                split="train",
                start=12,
                ids=names,
            )
    assert list(tmp_path.iterdir()) == []
    ok = np.array([1, 1, 0, 0, 1, 1], bool)
    write_shard(tmp_path / "a.h5", rows, ok, key=KEY, split="train", start=12)


def test_a_few_zeros_may_be_black_images_and_many_are_broken_weights(tmp_path):
    rows = np.ones((40, 3), np.float32)
    rows[:20] = 0
    told = dict(key=KEY, split="train", start=0)
    write_shard(tmp_path / "a.h5", rows, np.ones(40, bool), **told)
    rows[20] = 0
    with pytest.raises(StoreError, match=r"nothing but zeros in 21 rows \(row 0, row 1"):
        write_shard(tmp_path / "b.h5", rows, np.ones(40, bool), **told)
    # A shard of the few images that are new.
    write_shard(tmp_path / "c.h5", np.zeros((3, 3), np.float32), np.ones(3, bool), **told)


def test_wrong_shapes_are_refused(tmp_path, rows):
    for values, ok in ((rows, np.ones(5, bool)), (rows[0], np.ones(3, bool))):
        with pytest.raises(ValueError, match="no shard"):
            write_shard(tmp_path / "a.h5", values, ok, key=KEY, split="train", start=0)
    with pytest.raises(ValueError, match="float64"):
        write_shard(
            tmp_path / "a.h5", rows.astype(float), np.ones(6, bool), key=KEY, split="a", start=0
        )
