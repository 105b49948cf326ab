"""What two splits of a data set have in common, though they should not: groups and images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from itertools import combinations
from typing import Any

from data.images.arrays import ArrayImages, Split
from data.images.digests import image_digests

NAMED = 3


def shared_groups(
    splits: Mapping[str, Split], group_names: tuple[str, ...]
) -> dict[str, Any] | None:
    """Count the groups that have rows in more than one split; None where there are none."""
    members = {
        name: set() if split.groups is None else set(split.groups.tolist())
        for name, split in _labelled(splits).items()
    }
    return _described(members, lambda group: group_names[group])


def shared_images(splits: Mapping[str, Split]) -> dict[str, Any] | None:
    """Count the images that are in more than one split, by their digests; None for none.

    Images in memory are those of the built-in data sets, whose splits are what they are.
    """
    members: dict[str, set[bytes]] = {}
    called: dict[bytes, str] = {}
    for name, split in _labelled(splits).items():
        if isinstance(split.images, ArrayImages):
            continue
        found = dict(zip(image_digests(split), split.ids, strict=True))
        members[name] = set(found)
        called |= found
    return _described(members, called.__getitem__)


def _labelled(splits: Mapping[str, Split]) -> dict[str, Split]:
    return {name: split for name, split in splits.items() if name != "unlabelled"}


def _described(
    members: Mapping[str, set[Any]], called: Callable[[Any], str]
) -> dict[str, Any] | None:
    shared: set[Hashable] = set()
    pairs = {}
    for one, other in combinations(members, 2):
        both = members[one] & members[other]
        if both:
            pairs[f"{one} and {other}"] = len(both)
            shared |= both
    if not shared:
        return None
    first = sorted(str(called(item)) for item in shared)[:NAMED]
    return {"count": len(shared), "first": first, "between": pairs}


def shared_sentence(what: str, found: Mapping[str, Any]) -> str:
    """Say what is shared, and what it means."""
    more = ", ..." if found["count"] > len(found["first"]) else ""
    between = "; ".join(f"{count:,} between {pair}" for pair, count in found["between"].items())
    return (
        f"warning: {found['count']:,} {what} are in more than one split ({between}): "
        f"{', '.join(found['first'])}{more}; test results are better than on new ones"
    )
