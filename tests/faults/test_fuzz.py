"""The fuzzer for a bounded time, and what it has found; `make fuzz` runs it for longer."""

from __future__ import annotations

import os
import struct

import h5py
import pytest
from fault_world import write_store
from fuzz import READERS, fuzz, mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.common.errors import UserError
from data.format.records import StoreError
from data.format.seal import hdf5_end
from data.reading import open_features

LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`
SECONDS = 60 if LONG else 1.5  # some hundred files of each kind


@pytest.mark.parametrize("name", READERS)
def test_changed_files_give_a_message_or_sound_data(name, tmp_path):
    count, finding = fuzz(name, SECONDS, 0, tmp_path)
    if finding is not None:
        raise finding[1]
    assert count > 20


@pytest.mark.parametrize("name", READERS)
def test_random_bytes_are_refused(name, tmp_path):
    whole, read = READERS[name](tmp_path)
    target = tmp_path / "made.safetensors"
    starts = [b"", (whole() if callable(whole) else whole)[:16]]

    @settings(max_examples=60, deadline=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(start=st.sampled_from(starts), rest=st.binary(max_size=400))
    def check(start, rest):
        target.write_bytes(start + rest)
        with pytest.raises(UserError):
            read(target)

    check()


def test_the_fuzzer_finds_a_reader_that_believes_its_file(tmp_path, monkeypatch):
    def trusting(folder):
        def read(target):
            struct.unpack("<8sQ", target.read_bytes())

        return b"size" * 4, read

    monkeypatch.setitem(READERS, "trusting", trusting)
    _, finding = fuzz("trusting", 5, 0, tmp_path)
    assert isinstance(finding[1], struct.error)


def test_the_same_seed_makes_the_same_files():
    from random import Random

    content = bytes(range(256))
    one, two = ([mutate(content, Random(seed)) for seed in range(50)] for _ in range(2))
    assert one == two
    assert len(set(one)) > 40


@pytest.mark.parametrize("extent", [0, 2**64 - 16, 2**63])
def test_a_text_heap_that_hdf5_does_not_come_out_of(extent, tmp_path):
    path = write_store(tmp_path / "a.h5", [0, 1] * 6, [0, 1], ["a", "b"])
    with path.open("rb") as stream:
        end = hdf5_end(stream.fileno())
    whole = bytearray(path.read_bytes()[:end])  # without the seal, which would notice
    path.write_bytes(whole)
    assert len(open_features(path).train) == 12
    heap = whole.index(b"GCOL\1")
    whole[heap + 16 : heap + 32] = struct.pack("<HH4xQ", 0, 0, extent)
    path.write_bytes(whole)
    with pytest.raises(StoreError, match="text heap"):
        open_features(path)


def test_what_another_program_writes_has_sound_heaps(tmp_path):
    path = write_store(tmp_path / "a.h5", [0, 1] * 6, [0, 1], ["a", "b"])
    with h5py.File(path, "r+") as file:
        file.attrs["note"] = "é" * 5000
        del file.attrs["note"]
        file["more"] = ["a" * n for n in range(3000)]
    assert len(open_features(path).train) == 12
