"""Files that hold named arrays: which of them are features, labels and the rest, of which split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from data.common.errors import UserError, nearest
from data.exchange.names import (
    NO_IDS,
    OPTIONS,
    ROLES,
    asked_name,
    known,
    listed,
    parse_key,
    parse_stem,
    shapes,
)
from data.exchange.records import Array, Entry, Part, Reading, named

Key = tuple[str | None, str]  # split and role
USUAL = "X_train, y_train, X_test, y_test, or X, y and split"


def parts_of(source: str, entries: Mapping[str, Entry], reading: Reading) -> list[Part]:
    """Turn the arrays of a file into parts, one a split."""
    return _parts(source, entries, _assign(source, entries, reading), reading)


def parts_of_files(files: Mapping[str, tuple[str, Entry]], reading: Reading) -> list[Part]:
    """Turn files of one array each (name: stem and array) into parts, by their names."""
    entries = {name: entry for name, (_, entry) in files.items()}
    found: dict[Key, str] = {}
    for name, (stem, entry) in files.items():
        if entry.dtype.hasobject:
            raise pickled(name)
        key = parse_stem(stem, len(entry.shape))
        if key in found:
            raise UserError(
                f"{found[key]} and {name} are both named for the {key[1]} of "
                f"{key[0] or 'all rows'}; rename one, such as X_train.npy and X_test.npy"
            )
        found[key] = name
    if not any(role == "features" for _, role in found):
        raise UserError(
            f"{listed(files)}: none of them holds features, an array of two sides; "
            f"found {shapes({n: e.shape for n, e in entries.items()})}"
        )
    return _parts(" and ".join(files), entries, found, reading)


def _assign(source: str, entries: Mapping[str, Entry], reading: Reading) -> dict[Key, str]:
    """Find what each array is: what the user named comes first, then the usual names."""
    found: dict[Key, str] = {}
    asked = {"features": reading.features, "labels": reading.labels}
    for role, option in OPTIONS.items():
        if pairs := asked.get(role, ()):
            option = "--features-path" if role == "features" else "--labels-path"
            for split, name in pairs:
                found[split, role] = known(source, name, entries, option, "array")
            continue
        asked_for = asked_name(reading, role)
        if asked_for is not None and (role, asked_for) != ("ids", NO_IDS):
            found[None, role] = known(source, asked_for, entries, option, "array")
    settled = {role for _, role in found}
    if reading.columns.get("ids") == NO_IDS:
        settled.add("ids")
    for name in entries:
        key = parse_key(name)
        if key is None or key[1] in settled or name in found.values():
            continue
        if key in found:
            name = _better(source, key, found[key], name)
        found[key] = name
    if not any(role == "features" for _, role in found):
        _guess_features(source, entries, found, reading.on_note)
    unread = [name for name in entries if name not in found.values()]
    if unread:
        reading.on_note(f"{source}: not read: {listed(unread)}")
    return found


def _better(source: str, key: Key, one: str, other: str) -> str:
    """Choose between two names of one role: the one that comes first among the usual names."""
    order = [name.lower() for name in ROLES[key[1]]]
    ranks = [order.index(n.lower()) if n.lower() in order else len(order) for n in (one, other)]
    if ranks[0] == ranks[1] or key[1] in ("features", "labels"):
        option = OPTIONS.get(key[1], "--features-path").replace("label-column", "labels-path")
        raise UserError(
            f"{source} has {one} and {other}, and both names stand for {key[1]}; say which with "
            f"{option}"
        )
    return one if ranks[0] < ranks[1] else other


def _guess_features(
    source: str,
    entries: Mapping[str, Entry],
    found: dict[Key, str],
    on_note: Callable[[str], object],
) -> None:
    """Take the only table of numbers for the features; else say what there is."""
    tables = [
        name
        for name, entry in entries.items()
        if len(entry.shape) == 2 and entry.dtype.kind in "fiu" and name not in found.values()
    ]
    if len(tables) == 1:
        found[None, "features"] = tables[0]
        on_note(f"{source}: features from {tables[0]}")
        return
    if found and not tables:  # labels alone: a table beside another file
        return
    hints = (nearest(word, entries, 1) for word in ("X_train", "X", "features", "embeddings"))
    hint = next((hint for hint in hints if hint), "")
    have = shapes({name: entry.shape for name, entry in entries.items()})
    raise UserError(
        f"{source} has no arrays named {USUAL}; it has {have}. "
        f"{f'{hint} ' if hint else ''}Name them with --features-path and --labels-path"
    )


def _parts(
    source: str, entries: Mapping[str, Entry], found: Mapping[Key, str], reading: Reading
) -> list[Part]:
    splits = list(dict.fromkeys(split for split, role in found if role in ("features", "labels")))
    known_splits = [split for split in splits if split is not None]
    if known_splits and None in splits:
        alone = listed(found[key] for key in found if key[0] is None and key[1] in ROLES)
        raise UserError(
            f"{source} has arrays of the splits {listed(known_splits)} and {alone}, which belong "
            "to none; name the ones to read with --features-path and --labels-path, such as "
            "--features-path train=NAME"
        )
    class_names, group_names = (
        _texts(source, entries, found, role) for role in ("class_names", "group_names")
    )
    parts = []
    for split in splits:
        here = {role: found[split, role] for role in ROLES if (split, role) in found}
        table = here.get("features")
        columns: dict[str, Array] = {}
        rows = entries[table or here["labels"]].shape[:1]
        for role in ("labels", "split", "groups", "weights", "ids"):
            if role not in here:
                continue
            name = here[role]
            check_column(source, name, entries[name], table or here["labels"], rows)
            columns[role] = entries[name].load().reshape(-1)
        features = None if table is None else entries[table]
        if features is not None:
            check_table(f"{source}: {table}", features)
        parts.append(
            Part(
                source,
                split,
                features,
                columns,
                rows[0],
                named(source, here),
                tuple(name for name in entries if name not in found.values()),
                class_names,
                group_names,
            )
        )
    return parts


def check_table(where: str, entry: Entry) -> None:
    """Refuse what is no table of numbers."""
    shape, kind = entry.shape, entry.dtype
    if kind.hasobject:
        raise pickled(where)
    if kind.kind not in "fiub":
        raise UserError(f"{where} holds {kind}, and features are numbers; give an array of floats")
    if len(shape) == 1:
        raise UserError(
            f"{where} has shape {shape}, and features have two sides, a row a sample; "
            "if there is one feature a row, write X.reshape(-1, 1)"
        )
    if len(shape) != 2:
        raise UserError(
            f"{where} has shape {shape}, and features have two sides, a row a sample; flatten or "
            "average the others (images themselves go to python -m extract)"
        )
    if 0 in shape:
        raise UserError(f"{where} has shape {shape}: there is nothing in it")


def check_column(source: str, name: str, entry: Entry, table: str, rows: tuple[int, ...]) -> None:
    """Refuse a column that is not one value for each row."""
    if entry.dtype.hasobject:
        raise pickled(f"{source}: {name}")
    flat = len(entry.shape) == 1 or (len(entry.shape) == 2 and entry.shape[1] == 1)
    if flat and entry.shape[:1] == rows:
        return
    if len(entry.shape) == 2 and entry.shape[:1] == rows:
        raise UserError(
            f"{source}: {name} has shape {entry.shape}, expected one value a row; of one-hot "
            "labels write y.argmax(axis=1)"
        )
    count = entry.shape[0] if entry.shape else 1
    raise UserError(
        f"{source}: {name} has {count:,} rows and {table} has {rows[0]:,}; "
        "both must describe the same rows, in the same order"
    )


def pickled(where: str) -> UserError:
    """Refuse Python objects, which only code from the file could make again."""
    return UserError(
        f"{where} holds Python objects (pickled), which are not read, since reading them can run "
        "any code; write plain arrays: X.astype('float32'), labels.astype(str)"
    )


def _texts(
    source: str, entries: Mapping[str, Entry], found: Mapping[Key, str], role: str
) -> tuple[str, ...] | None:
    name = found.get((None, role))
    if name is None:
        return None
    entry = entries[name]
    if entry.dtype.hasobject:
        raise pickled(f"{source}: {name}")
    if len(entry.shape) != 1:
        raise UserError(f"{source}: {name} has shape {entry.shape}, expected a list of names")
    return tuple(texts(entry.load()))


def texts(values: Any) -> list[str]:
    """Turn an array of texts, bytes or numbers into a list of texts."""
    found = np.asarray(values).tolist()
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in found]
