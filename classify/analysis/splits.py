"""What the splits of a store have in common, and which groups are where.

A group or an image on two sides of a split makes the judged side look like the fitted one. Splits
that are made here share no group; those that a data set came with may.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from data.format.records import Features, FeatureSplit

# Groups and images that are named; the others are counted.
NAMED = 5
# With fewer groups in the test split, intervals rest on too few observations.
FEW_GROUPS = 20
_PAIRS = tuple(combinations(("train", "validation", "test"), 2))
_CALLED = {"train": "training", "validation": "validation", "test": "test"}


def describe_splits(features: Features, held_out: npt.NDArray[np.int64] | None) -> dict[str, Any]:
    """Count the groups of each split, and find what two splits share; null where nothing is known.

    `held_out` (n_held,) are the groups of the training rows that C was chosen on.
    """
    splits = {name: getattr(features, name) for name in _CALLED}
    known = {name: s for name, s in splits.items() if s is not None and s.groups is not None}
    counts = {name: len(np.unique(split.groups)) for name, split in known.items()}
    if held_out is not None and len(held_out):
        counts["held_out"] = len(np.unique(held_out))
    return {
        "groups": counts or None,
        "shared_groups": _shared_groups(known, features.group_names) if known else None,
        "shared_images": _shared_images(splits),
    }


def _shared_groups(splits: dict[str, FeatureSplit], names: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for a, b in _PAIRS:
        if a not in splits or b not in splits:
            continue
        mine, others = (np.asarray(splits[name].groups) for name in (a, b))
        both = np.intersect1d(mine, others)
        if len(both):
            found.append(
                {
                    "a": a,
                    "b": b,
                    "n": len(both),
                    "n_rows": int(np.isin(others, both).sum()),
                    "first": [names[i] for i in both[:NAMED]],
                }
            )
    return found


def _shared_images(splits: dict[str, FeatureSplit | None]) -> list[dict[str, Any]] | None:
    """Find the images that two splits hold, by the digests that stage one kept."""
    # Digests as texts of 32 bytes: all of one length, so those that end in zeros stay apart.
    known = {
        name: (np.ascontiguousarray(split.image_sha256).view("S32").ravel(), split.ids)
        for name, split in splits.items()
        if split is not None and split.image_sha256 is not None and len(split)
    }
    if len(known) < 2:
        return None
    found = []
    for a, b in _PAIRS:
        if a not in known or b not in known:
            continue
        (mine, ids), (others, names) = known[a], known[b]
        rows = np.flatnonzero(np.isin(others, mine))
        if len(rows):
            first = [
                f"{names[row]} = {ids[int(np.argmax(mine == others[row]))]}" for row in rows[:NAMED]
            ]
            found.append({"a": a, "b": b, "n": len(rows), "n_rows": len(rows), "first": first})
    return found


def split_warnings(described: dict[str, Any]) -> list[str]:
    """Warn of what splits share, and of test splits of few groups."""
    told = []
    for entry in described["shared_groups"] or ():
        first, second = _CALLED[entry["a"]], _CALLED[entry["b"]]
        n, rows = entry["n"], entry["n_rows"]
        told.append(
            f"{n:,} {'group is' if n == 1 else 'groups are'} in the {first} and in the {second} "
            f"split, with {rows:,} {second} {'image' if rows == 1 else 'images'}: "
            f"{_names(entry)}. {_consequence(entry['b'])}"
        )
    for entry in described["shared_images"] or ():
        first, second, n = _CALLED[entry["a"]], _CALLED[entry["b"]], entry["n"]
        told.append(
            f"{n:,} {second} {'image is' if n == 1 else 'images are'} in the {first} split too: "
            f"{_names(entry)}. {_consequence(entry['b'])}"
        )
    n_test = (described["groups"] or {}).get("test")
    if n_test is not None and n_test < FEW_GROUPS:
        told.append(
            f"The test images are of {n_test} {'group' if n_test == 1 else 'groups'} only, so "
            "intervals and tests, which resample groups, are rough."
        )
    return told


def _names(entry: dict[str, Any]) -> str:
    more = entry["n"] - len(entry["first"])
    return ", ".join(entry["first"]) + (f" and {more:,} more" if more > 0 else "")


def _consequence(judged: str) -> str:
    if judged == "test":
        return "The accuracies say less about new ones, and are too high as a rule."
    return "C and the temperature are chosen on what was fitted."
