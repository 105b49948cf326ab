"""Writes the frozen heads of later formats: of any kind, of stores side by side, not linear.

head-3 and head-4.safetensors, model-1 and model-2.skops. It was run once, when these formats were
released, and is kept to show what the files hold. Do not run it again to make a test pass: files
like these are on users' disks.

    python tests/archives/make_later_heads.py tests/archives
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from make_heads import WIDTH, table, weights
from make_schema_1 import CLASS_NAMES, SPEC

from classify.heads.nearest_mean import CosineMeans
from classify.saved.heads import SavedHead, save_head
from classify.saved.models import SavedModel, save_model
from classify.saved.parts import HeadPart

PARTS = (HeadPart("cd" * 32, 1, None), HeadPart("ef" * 32, 3, None))
ALONE = {"class_names": CLASS_NAMES, "spec": SPEC, "store_key": "ab" * 32, "temperature": 1.5}
BOTH = {
    **ALONE,
    "spec": {**SPEC, "parts": [SPEC, SPEC]},
    "parts": PARTS,
    "normalize": tuple(part.n_features for part in PARTS),
}


def means() -> CosineMeans:
    """Make a head that is no linear function of a row."""
    numbers = [table(WIDTH), table(3, WIDTH, first=2), table(3, first=4)]
    centre, directions, offsets = (array.astype(np.float64) for array in numbers)
    return CosineMeans(centre, directions, offsets, 2.0, {"distance": "centred cosine"})


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    other = {"strategy": "svm-ovo", "coding": "ovo", "setting": {"C": 0.25}, "C": 0.25}
    save_head(
        folder / "head-3.safetensors", SavedHead(**ALONE, **other, **weights(1), normalize="l2")
    )
    save_head(
        folder / "head-4.safetensors", SavedHead(**BOTH, strategy="ovo", C=0.25, **weights(1))
    )
    save_model(
        folder / "model-1.skops",
        SavedModel(**ALONE, strategy="nearest-mean", trained=means(), normalize="l2"),
    )
    save_model(
        folder / "model-2.skops", SavedModel(**BOTH, strategy="nearest-mean", trained=means())
    )
