"""The store driven in any order: written, interrupted, killed, resumed, damaged, read."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from data.common.files import clean_leftovers, temporary_path
from data.format.records import SplitSource, StoreError
from data.reading import iter_blocks, open_features, read_header, verify_store
from data.shards import read_shard, write_shard
from data.writing import join

LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`
ROWS, SHARD = 24, 8
SPLITS = ("train", "test")
NO_PROCESS = 2**22 + 1  # beyond what Linux gives


class Stop(BaseException):
    """Stands for Ctrl-C: it is no Exception."""


class Store(RuleBasedStateMachine):
    """What is in the folder is what the model says, whatever happened before."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "store.h5"
        self.work = self.folder / "work"
        self.work.mkdir()
        self.value = None  # of the store under its final name
        self.shards = {}  # value by (split, start), of those that are whole
        self.damaged, self.whole = False, b""

    def teardown(self):
        shutil.rmtree(self.folder)

    def rows(self, value):
        return value + np.arange(SHARD * 2, dtype=np.float32).reshape(SHARD, 2)

    def shard_path(self, split, start):
        return self.work / f"{split}-{start}.h5"

    @rule(split=st.sampled_from(SPLITS), start=st.sampled_from(range(0, ROWS, SHARD)),
          value=st.integers(1, 3))  # fmt: skip
    def write_a_shard(self, split, start, value):
        ok = np.ones(SHARD, bool)
        write_shard(
            self.shard_path(split, start), self.rows(value), ok, key="k", split=split, start=start
        )
        self.shards[split, start] = value

    @rule(data=st.data())
    def damage_a_shard(self, data):
        if not self.shards:
            return
        split, start = data.draw(st.sampled_from(sorted(self.shards)))
        path = self.shard_path(split, start)
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        del self.shards[split, start]

    @rule(value=st.integers(1, 3), stop_after=st.integers(0, 3),
          how=st.sampled_from([Stop, StoreError, "killed"]))  # fmt: skip
    def a_writer_that_does_not_end(self, value, stop_after, how):
        """Killed: what a process leaves that had no time for anything is put there by hand."""
        if how == "killed":
            mine = temporary_path(self.path)
            left = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{NO_PROCESS}-"))
            left.write_bytes(b"\x89HDF" * stop_after)
            return

        def blocks():
            for number in range(stop_after):
                yield self.rows(value), np.ones(SHARD, bool)
                assert number < ROWS // SHARD
            raise how("now")

        try:
            self.join({split: blocks() for split in SPLITS}, value)
        except (Stop, StoreError):
            return
        raise AssertionError("it was to stop")

    @rule(value=st.integers(1, 3))
    def resume_and_join(self, value):
        """Take what shards there are, compute the others, and join them."""

        def blocks(split):
            for start in range(0, ROWS, SHARD):
                found = read_shard(
                    self.shard_path(split, start), key="k", split=split, start=start,
                    stop=start + SHARD,
                )  # fmt: skip
                known = self.shards.get((split, start))
                assert (found is None) == (known is None)
                if found is not None:
                    np.testing.assert_array_equal(found[0], self.rows(known))
                yield self.rows(value), np.ones(SHARD, bool)

        self.join({split: blocks(split) for split in SPLITS}, value)
        self.value, self.damaged, self.whole = value, False, self.path.read_bytes()

    def join(self, blocks, value):
        labels = np.arange(ROWS) % 2
        join(
            self.path,
            spec={"store_dtype": "float32"},
            request={},
            provenance={"value": value},
            class_names=["a", "b"],
            splits={
                s: SplitSource(labels, [f"{s}{i}" for i in range(ROWS)], blocks[s]) for s in SPLITS
            },
        )

    @rule(data=st.data())
    def damage_the_store(self, data):
        if self.value is None:
            return
        content = bytearray(self.path.read_bytes())
        if not content:  # nothing is left to damage
            return
        if data.draw(st.booleans()):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        else:
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        self.damaged = bytes(content) != self.whole
        self.path.write_bytes(content)

    @rule()
    def clean(self):
        clean_leftovers(self.folder)
        assert not list(self.folder.glob(".tmp-*"))

    @invariant()
    def what_is_read_is_what_was_written(self):
        if self.value is None:
            assert not self.path.exists()
            return
        if self.damaged:
            for read in (verify_store, open_features):
                try:
                    read(self.path)
                except StoreError:
                    continue
                raise AssertionError(f"{read.__name__} did not notice the damage")
            return
        assert read_header(self.path).provenance == {"value": self.value}
        wanted = np.concatenate([self.rows(self.value)] * (ROWS // SHARD))
        for split in SPLITS:
            blocks = [block for block, _ in iter_blocks(self.path, split, 5)]
            np.testing.assert_array_equal(np.concatenate(blocks), wanted)


def test_any_order_of_events():
    run_state_machine_as_test(
        Store,
        settings=settings(
            max_examples=300 if LONG else 15, stateful_step_count=15, deadline=None,
            derandomize=not LONG,
        ),
    )  # fmt: skip
