"""Rows kept beside a store: read as they were written, and only for the store they belong to."""

import numpy as np
import pytest

from data.reembedded import Rechecked, digest_of, read_rechecked, rechecked_path, write_rechecked


@pytest.fixture
def kept(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.array([1, 4, 7])
    plain, other = rng.normal(size=(2, 3, 5)).astype(np.float32)
    store = tmp_path / "net-8px-00000000.h5"
    found = Rechecked("k" * 64, rows, digest_of(plain), plain, {"bf16, openvino": other})
    assert write_rechecked(store, found) == rechecked_path(store)
    return store, found


def test_what_was_written_is_read(kept):
    store, found = kept
    again = read_rechecked(store, found.key, 5)
    assert (again.key, again.digest, list(again.others)) == (
        found.key,
        found.digest,
        ["bf16, openvino"],
    )
    assert np.array_equal(again.rows, found.rows)
    assert np.array_equal(again.plain, found.plain)
    assert np.array_equal(again.others["bf16, openvino"], found.others["bf16, openvino"])


def test_what_belongs_to_another_store_or_is_damaged_is_none(kept, tmp_path):
    store, found = kept
    assert read_rechecked(store, "j" * 64, 5) is None
    assert read_rechecked(store, found.key, 6) is None
    assert read_rechecked(tmp_path / "other.h5", found.key, 5) is None
    path = rechecked_path(store)
    whole = path.read_bytes()
    for content in (b"", b"not a zip file", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert read_rechecked(store, found.key, 5) is None
    np.savez(path.with_suffix(""), told=np.array({"key": found.key}, dtype=object))
    assert read_rechecked(store, found.key, 5) is None, "pickles are not read"


def test_a_digest_is_of_the_values(kept):
    _, found = kept
    assert digest_of(found.plain) == found.digest
    assert digest_of(found.plain.astype(np.float64)) == found.digest
    assert digest_of(found.plain + 1) != found.digest
