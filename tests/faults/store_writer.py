"""What the processes of test_store_faults.py do; not a test."""

from __future__ import annotations

import time

import numpy as np

from data.format.records import SplitSource
from data.writing import join


def rows(n, value, width, pause):
    for start in range(0, n, 100):
        pause()
        count = min(100, n - start)
        yield np.full((count, width), value, np.float32), np.ones(count, bool)


def write(path, value, n=2000, width=8, pause=lambda: None):
    """Write a store of which every number is `value`, calling `pause` before each block."""

    def source(name):
        ids = [f"{name}/{i}" for i in range(n)]
        return SplitSource(np.arange(n) % 2, ids, rows(n, value, width, pause))

    join(
        path,
        spec={"store_dtype": "float32"},
        request={},
        provenance={"value": value},
        class_names=["a", "b"],
        splits={"train": source("train"), "test": source("test")},
    )


def halt(*_, **__):
    """Say that the step was reached, and wait to be killed."""
    print("there", flush=True)
    time.sleep(60)
