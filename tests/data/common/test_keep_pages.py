"""Freed memory stays in the process where that is asked for."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from data.common.memory import keep_pages, keep_small_blocks

kept = {"pages": keep_pages, "small": keep_small_blocks, "none": lambda: True}[sys.argv[1]]()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def churn():
    for _ in range(200):
        np.ones(int(sys.argv[2]), np.uint8)

churn()
before = faults()
churn()
print(kept, faults() - before)
"""


def faults(how, size, **settings):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how, str(size)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **settings},
    )
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc alone")
@pytest.mark.parametrize(("how", "size"), [("pages", 20_000_000), ("small", 1_000_000)])
def test_pages_are_kept(how, size):
    kept, count = faults(how, size)
    assert kept
    assert count < 200


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc alone")
@pytest.mark.parametrize("how", ["pages", "small"])
def test_what_the_user_has_set_stays(how):
    assert faults(how, 1_000_000, MALLOC_MMAP_THRESHOLD_="100000")[0] is False
    assert faults(how, 1_000_000, MALLOC_TRIM_THRESHOLD_="65536")[0] is True  # Dask's doing
