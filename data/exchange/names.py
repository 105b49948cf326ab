"""Which array or column is what, by the names in use for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from data.common.errors import UserError, nearest
from data.exchange.records import Reading
from data.images.splits import split_of
from data.images.tables.columns import USUAL

# The first name that is there is taken.
ROLES: dict[str, tuple[str, ...]] = {
    "features": (
        *("features", "x", "embeddings", "embedding", "feature", "feats", "feat"),
        *("vectors", "vector", "emb", "representations"),
    ),
    "labels": (*USUAL["label"], "labels", "y", "targets", "categories", "class_name"),
    "split": (*USUAL["split"], "splits"),
    "groups": (*USUAL["group"], "groups", "patients", "subjects"),
    "weights": (*USUAL["weight"], "weights", "sample_weights"),
    "ids": ("id", "ids", "image_id", "sample_id", *USUAL["image"], "image_path"),
    "class_names": ("class_names", "classes", "label_names"),
    "group_names": ("group_names",),
}
OPTIONS = {
    "features": "--features-path",
    "labels": "--label-column",
    "split": "--split-column",
    "groups": "--group-column",
    "weights": "--weight-column",
    "ids": "--id-column",
}
_WIDE = re.compile(r"(?:f|x|v|e|d|feat|feature|features|dim|emb|embedding|embeddings)?[-_. ]?(\d+)")
_LISTED = 12
NO_IDS = "none"  # of --id-column: the rows are numbered


def split_named(word: str) -> str | None:
    """Tell which split a word means: as folders are named, or that its rows have no labels."""
    return "unlabelled" if word.lower() in ("unlabelled", "unlabeled") else split_of(word)


def role_of(name: str) -> str | None:
    """Give the role that a name stands for, in any case."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return next((role for role, names in ROLES.items() if plain in names), None)


def parse_key(key: str) -> tuple[str | None, str] | None:
    """Read split and role from the name of an array: ``X_train``, ``test/labels``, ``y``."""
    role = role_of(key)
    if role is not None:
        return None, role
    words = re.findall(r"[a-z]+[0-9]*", key.lower())
    if len(words) == 1:  # Xtrain
        words = [words[0][:1], words[0][1:]]
    for split, rest in ((words[:1], words[1:]), (words[-1:], words[:-1])):
        found, role = split_named("".join(split)), role_of("_".join(rest))
        if found is not None and role is not None:
            return found, role
    return None


def split_of_file(stem: str) -> str | None:
    """Tell which split a file is named for: ``train``, ``cifar-test``, ``val_features``."""
    if split := split_of(stem):
        return split
    found = {split_of(word) for word in re.split(r"[^A-Za-z0-9]+", stem)} - {None}
    return found.pop() if len(found) == 1 else None


def parse_stem(stem: str, sides: int) -> tuple[str | None, str]:
    """Read split and role from the name of a file that holds one array of so many sides."""
    if found := parse_key(stem):
        return found
    words = re.split(r"[^A-Za-z0-9]+", stem)
    roles = [role for word in words if (role := role_of(word))]
    return split_of_file(stem), roles[-1] if roles else "features" if sides != 1 else "labels"


def find_columns(source: str, names: Sequence[str], reading: Reading) -> dict[str, str]:
    """Find the columns of a table by role: as the user named them, or by the usual names."""
    found: dict[str, str] = {}
    lowered = {name.lower(): name for name in reversed(names)}
    for role in ("features", *OPTIONS):
        asked = asked_name(reading, role)
        if role == "ids" and asked == NO_IDS:
            continue
        if asked is not None:
            found[role] = known(source, asked, names, OPTIONS[role], "column")
            continue
        usual = [lowered[name] for name in ROLES[role] if name in lowered]
        if len(usual) > 1 and role not in ("features", "ids"):
            raise UserError(
                f"{source} has several columns that may be the {role}: {', '.join(usual)}; say "
                f"which with {OPTIONS[role]}"
            )
        if usual:
            found[role] = usual[0]
    return found


def asked_name(reading: Reading, role: str) -> str | None:
    """Give what the user called a column of a table."""
    listed = {"features": reading.features, "labels": reading.labels}.get(role, ())
    if listed:
        return listed[0][1]
    return reading.columns.get(role)


def known(source: str, name: str, names: Iterable[str], option: str, what: str) -> str:
    """Make sure that what the user named is there."""
    names = list(names)
    if name in names:
        return name
    hint = nearest(name, names) or f"it has {listed(names)}"
    raise UserError(f"{option} {name}: {source} has no {what} of this name; {hint}")


def wide_columns(names: Sequence[str]) -> list[str]:
    """Find columns that are one feature each: ``feature_0``, ``feature_1``, ..., in that order."""
    groups: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _WIDE.fullmatch(name.lower()):
            groups.setdefault(name[: match.start(1)], {})[int(match[1])] = name
    best = max(groups.values(), key=len, default={})
    numbers = sorted(best)
    consecutive = numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    if len(numbers) < 2 or not consecutive or numbers[0] > 1:
        return []
    return [best[number] for number in numbers]


def listed(names: Iterable[str]) -> str:
    """List some names."""
    names = list(names)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "nothing") + more


def shapes(entries: Mapping[str, tuple[int, ...]]) -> str:
    """List arrays with their shapes."""
    return listed(f"{name} {shape}" for name, shape in entries.items())
