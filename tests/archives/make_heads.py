"""Writes head-1.safetensors and head-2.safetensors, the frozen heads of formats 1 and 2.

It was run once, when format 2 was released, and is kept to show what the files hold. Do not run it
again to make a test pass: files like these are on users' disks.

    python tests/archives/make_heads.py tests/archives
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from make_schema_1 import CLASS_NAMES, SPEC

from classify.linear_head import PairHead
from classify.saved.heads import SavedHead, save_head

WIDTH = 4
STARTS = (0, 2, 3, 5)  # two, one and two rows


def table(*shape: int, first: int = 0) -> np.ndarray:
    """Make numbers by a rule that needs no generator: they must never change."""
    count = int(np.prod(shape))
    return ((np.arange(first, first + count) * 7 % 11 - 4.5) / 8).astype(np.float32).reshape(shape)


def weights(version: int) -> dict:
    """Give a head of one format its weights: written out, or as sums of rows."""
    if version == 1:
        return {"coef": table(3, WIDTH), "intercept": table(3, first=2)}
    duals = table(5, 3, first=1)
    for k in range(3):
        duals[STARTS[k] : STARTS[k + 1], k] = 0
    sums = PairHead(
        table(5, WIDTH), table(WIDTH, first=3), np.array(STARTS), duals, table(3, first=5)
    )
    none = np.empty((0, WIDTH), np.float32)
    return {"coef": none, "intercept": none[:, 0], "sums": sums}


if __name__ == "__main__":
    for version in (1, 2):
        head = SavedHead(
            strategy="ovo",
            class_names=CLASS_NAMES,
            spec=SPEC,
            store_key="ab" * 32,
            C=0.25,
            temperature=1.5,
            normalize="l2",
            **weights(version),
        )
        save_head(Path(sys.argv[1]) / f"head-{version}.safetensors", head)
