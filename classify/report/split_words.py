"""What a page says of splits, groups and weights; nothing of it where a run has none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classify.wording import listed

_CALLED = {"train": "training", "validation": "validation", "test": "test"}


def interval_words(method: str | None, n_groups: int | None = None) -> str:
    """Name the intervals of accuracies in a caption."""
    if method == "bootstrap of groups":
        count = "" if n_groups is None else f"{n_groups:,} "
        return f"95 % intervals that resample the {count}groups of test images"
    if method == "bootstrap of rows":
        return "95 % intervals that resample the weighted test images"
    return "95 % Wilson intervals"


def chosen_words(results: Mapping[str, Any]) -> dict[str, str]:
    """Say on which rows C and the temperature were chosen, and what the final fit uses."""
    n = results.get("n_validation") or 0
    if given(results):
        return {
            "chosen_on": f"On the {n:,} images of the data set's own validation split",
            "refit": "uses training and validation images together",
            "start": "the training images alone",
            "fitted": "training and validation images",
        }
    whole = " by whole groups," if (splits_of(results)["groups"] or {}).get("held_out") else ""
    return {
        "chosen_on": f"On a stratified tenth of the training images,{whole}".removesuffix(","),
        "refit": "uses all training images",
        "start": "nine tenths of the images",
        "fitted": "training images",
    }


def given(results: Mapping[str, Any]) -> bool:
    """Tell whether the data set came with a validation split."""
    return results["settings"].get("validation") == "given"


def splits_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run says of its groups; older ones say nothing."""
    return results.get("splits") or {"groups": None, "shared_groups": None, "shared_images": None}


def split_sentences(results: Mapping[str, Any]) -> list[str]:
    """Say which groups are where, and what is weighted."""
    told = []
    splits, settings = splits_of(results), results["settings"]
    if counts := splits["groups"]:
        where = [
            f"{counts[name]:,} in the {word} split"
            for name, word in _CALLED.items()
            if name in counts
        ]
        if held := counts.get("held_out"):
            what = "C and the temperature" if settings.get("c") == "auto" else "the temperature"
            where[0] += f" ({held:,} of them held out to choose {what})"
        apart = "" if splits["shared_groups"] else " No group is in two splits."
        told.append(
            f"The images come in groups: {listed(where)}.{apart} Intervals and tests resample "
            "groups, not images."
        )
    if settings.get("weighted"):
        told.append(
            "The images have weights: fits, the choice of C, the temperature, every metric and "
            "every test use them. Confusion matrices, pairs and counts of images do not."
        )
    weights = settings.get("class_weight", "none")
    if weights != "none":
        how = (
            "balanced"
            if weights == "balanced"
            else listed([f"{name} {weight:g}" for name, weight in list(weights.items())[:6]])
            + (f" and {len(weights) - 6} more" if len(weights) > 6 else "")
        )
        told.append(
            f"Class weights ({how}) shape the fits and the choice of C. Metrics and the "
            "temperature are of the images as they are."
        )
    return told


def terminal_line(results: Mapping[str, Any]) -> str:
    """Say the same in one line for a terminal; empty where there is nothing to say."""
    parts = []
    if given(results):
        parts.append(f"C chosen on the {results['n_validation']:,} images of the validation split")
    if counts := splits_of(results)["groups"]:
        parts.append(
            "groups: " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items())
        )
    if results["settings"].get("weighted"):
        parts.append("weighted by the images' weights")
    weights = results["settings"].get("class_weight", "none")
    if weights != "none":
        parts.append(f"class weights: {'balanced' if weights == 'balanced' else 'from the file'}")
    return "; ".join(parts)
