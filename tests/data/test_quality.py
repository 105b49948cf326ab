"""Rows that equal others or are all zero are named, wherever they lie."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.format.records import Features, FeatureSplit, StoreError
from data.quality import odd_rows
from data.reading import open_features, verify_store

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))


def features(train, test):
    header = dict.fromkeys(
        ("path", "schema_version", "key", "spec", "provenance", "request", "class_names",
         "n_train", "n_test", "n_features", "dtype")
    )  # fmt: skip
    splits = {
        name: FeatureSplit(
            rows, np.zeros(len(rows), int), [f"{name}:{i}" for i in range(len(rows))]
        )
        for name, rows in (("train", train), ("test", test))
    }
    return Features(**header, **splits)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=1, max_size=12),
    n_train=st.integers(0, 12),
    dtype=st.sampled_from([np.float32, np.float16]),
)
def test_as_many_as_a_slow_look_finds(rows, n_train, dtype):
    table = np.array(rows, dtype).reshape(-1, 2)
    found = " ".join(odd_rows(features(table[:n_train], table[n_train:])))
    seen, within, across, zero = {}, 0, 0, 0
    for i, row in enumerate(map(tuple, rows)):
        if not any(row):
            zero += 1
            continue
        if row in seen:
            same_split = (seen[row] < n_train) == (i < n_train)
            within, across = within + same_split, across + (not same_split)
        seen.setdefault(row, i)
    for count, words in (
        (within, "another row of their split"), (across, "a training row"), (zero, "zeros in"),
    ):  # fmt: skip
        assert (words in found) == bool(count)
        if count:
            assert f"{count} row" in found


def test_names_in_memory_and_on_the_disk(tmp_path):
    from fault_world import write_store

    X = np.random.default_rng(0).normal(size=(9, 4))
    X[7] = X[2]
    path = write_store(tmp_path / "a.h5", [0, 1, 0] * 3, [0, 1], ["a", "b"], X, X[[4, 0]])
    told = verify_store(path).odd
    assert "1 row (train:7 = train:2) has the very same embedding" in told[0]
    assert "2 rows (test test:0 = train train:4, test test:1 = train train:0) have" in told[1]
    assert list(told) == odd_rows(open_features(path, in_memory=False))


@pytest.mark.parametrize("in_memory", [True, False])
def test_zeros_of_another_program_are_reported(tmp_path, in_memory):
    from fault_world import write_store

    path = write_store(tmp_path / "a.h5", [0, 1] * 5, [0, 1], ["a", "b"])
    with h5py.File(path, "r+") as file:
        table = file["train/features"]
        table[3] = 0
        table.attrs["sha256"] = hashlib.sha256(table[...].tobytes()).hexdigest()
    (told,) = odd_rows(open_features(path, in_memory=in_memory))
    assert "Nothing but zeros in 1 row (train:3)" in told


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_of_another_program_is_refused_with_its_name(tmp_path, value, in_memory):
    from fault_world import write_store

    path = write_store(tmp_path / "a.h5", [0, 1] * 5, [0, 1], ["a", "b"])
    with h5py.File(path, "r+") as file:
        table = file["test/features"]
        table[1, 2] = value
        table.attrs["sha256"] = hashlib.sha256(table[...].tobytes()).hexdigest()
    with pytest.raises(StoreError, match=r"NaN or infinite values.*test:1"):
        open_features(path, in_memory=in_memory)
