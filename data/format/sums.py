"""Several stores with the same rows as one set of features: ``a.h5+b.h5``, a sum.

Nothing is written: in memory the stores' columns are read into one array, and on the disk each
block of rows is read from every store. Rows are paired by their ids, split by split, in the order
of the first store.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.format.records import Features, FeatureSplit, Header, StoreError, StorePart
from data.format.spec import canonical_json
from data.format.stored_rows import SideBySideRows

PLUS = "+"
Order = npt.NDArray[np.intp] | None


def sum_parts(path: str | os.PathLike[str]) -> list[Path]:
    """Split ``a.h5+b.h5`` into its stores; a file whose own name holds a plus stays one file."""
    text = os.fspath(path)
    if PLUS not in text or os.path.isfile(text):
        return [Path(text)]
    pieces = text.split(PLUS)
    # From the end: how the pieces from each place on are names of files that exist.
    found: list[list[str] | None] = [*([None] * len(pieces)), []]
    for first in range(len(pieces) - 1, -1, -1):
        for stop in range(len(pieces), first, -1):  # the longest name first
            name, rest = PLUS.join(pieces[first:stop]), found[stop]
            if rest is not None and os.path.isfile(name):
                found[first] = [name, *rest]
                break
    names = found[0] or re.split(r"(?<=\.h5)\+", text)
    return [Path(name) for name in names]


def joined_path(parts: Sequence[Path]) -> Path:
    """Name a sum by its stores."""
    return Path(PLUS.join(map(str, parts)))


def absolute_store(path: Path) -> Path:
    """Make the path of a store, or those of a sum's stores, absolute."""
    return joined_path([part.absolute() for part in sum_parts(path)])


def check_names(path: str | os.PathLike[str], parts: Sequence[Path]) -> None:
    """Refuse a sum in which a name is missing."""
    if any(not part.name for part in parts):
        raise StoreError(
            f"{os.fspath(path)}: a name is missing beside a +; give stores with + between them, "
            "such as a.h5+b.h5"
        )


def sum_header(path: str | os.PathLike[str], headers: Sequence[Header]) -> Header:
    """Say of a sum what a store says of itself; stores that cannot pair are a `StoreError`."""
    first, *others = headers
    for other in others:
        _check_alike(first, other)
    keys = [header.key for header in headers]
    for i, key in enumerate(keys):
        if key in keys[:i]:
            raise _unlike(
                headers[keys.index(key)], headers[i], f"they hold the same features ({key[:8]})",
                "give each store once",
            )  # fmt: skip
    return Header(
        path=Path(path),
        schema_version=first.schema_version,
        key=hashlib.sha256(canonical_json(keys).encode("ascii")).hexdigest(),
        spec=_spec([header.spec for header in headers]),
        provenance=_provenance(headers),
        request={"parts": [header.request for header in headers]},
        class_names=first.class_names,
        n_train=first.n_train,
        n_test=first.n_test,
        n_features=sum(header.n_features for header in headers),
        dtype=str(np.result_type(*(header.dtype for header in headers))),
        n_validation=first.n_validation,
        n_unlabelled=first.n_unlabelled,
        group_names=first.group_names,
    )


def side_by_side(
    path: str | os.PathLike[str], stores: Sequence[Features], verify: bool, in_memory: bool
) -> Features:
    """Put stores side by side whose features are on the disk and not verified yet."""
    header = sum_header(path, stores)
    names = list(stores[0].sizes)
    orders = [{name: _order(stores[0], store, name) for name in names} for store in stores]
    for store, order in zip(stores[1:], orders[1:], strict=True):
        for name in names:
            _check_columns(stores[0], store, name, order[name])
    splits: dict[str, Any] = {}
    for name in names:
        tables = [
            (store.splits[name], order[name]) for store, order in zip(stores, orders, strict=True)
        ]
        rows = _array(header, tables, verify) if in_memory else _on_disk(tables, verify)
        first = tables[0][0]
        splits[name] = FeatureSplit(
            rows, first.labels, first.ids, first.groups, first.weights, first.image_sha256
        )
    ends = np.cumsum([0, *(store.n_features for store in stores)]).tolist()
    parts = tuple(
        StorePart(_header_of(store), slice(low, high), order)
        for store, (low, high), order in zip(stores, itertools.pairwise(ends), orders, strict=True)
    )
    return Features(**_facts(header), **splits, parts=parts)


def _facts(header: Header) -> dict[str, Any]:
    return {name: getattr(header, name) for name in Header.__dataclass_fields__}


def _header_of(store: Features) -> Header:
    return Header(**_facts(store))


def _array(
    header: Header, tables: Sequence[tuple[FeatureSplit, Order]], verify: bool
) -> npt.NDArray[Any]:
    """Read tables into the columns of one array, verified on the way."""
    shape = (len(tables[0][0]), header.n_features)
    try:
        array = np.empty(shape, header.dtype)
    except MemoryError as error:
        need = shape[0] * shape[1] * np.dtype(header.dtype).itemsize / 2**20
        raise StoreError(
            f"{header.path} needs {need:,.0f} MiB of memory, which is not free"
        ) from error

    def fill(table: tuple[FeatureSplit, Order], columns: npt.NDArray[Any]) -> None:
        split, order = table
        stored: Any = split.features
        places = None if order is None else np.argsort(order)
        for start, block in stored.blocks(split.ids, verify=verify):
            rows = slice(start, start + len(block))
            columns[rows if places is None else places[rows]] = block
        stored.close()

    ends = itertools.accumulate(split.features.shape[1] for split, _ in tables)
    with ThreadPoolExecutor(max_workers=4) as pool:  # digests leave Python's lock
        list(pool.map(fill, tables, np.split(array, list(ends)[:-1], axis=1)))
    array.flags.writeable = False
    return array


def _on_disk(tables: Sequence[tuple[FeatureSplit, Order]], verify: bool) -> Any:
    sources: list[Any] = []
    for split, order in tables:
        stored: Any = split.features
        if verify:
            stored.verify(split.ids)
        sources.append((stored, order))
    return SideBySideRows(sources)


def _unlike(first: Header, other: Header, what: str, todo: str = "") -> StoreError:
    return StoreError(
        f"{first.path} and {other.path} do not pair: {what}; "
        + (todo or "give stores of the same images with the same labels")
    )


def _check_alike(first: Header, other: Header) -> None:
    """Compare what headers say: class names and splits."""
    if first.class_names != other.class_names:
        n, m = len(first.class_names), len(other.class_names)
        differing = [
            f"class {i} is {a!r} in the first and {b!r} in the second"
            for i, (a, b) in enumerate(zip(first.class_names, other.class_names, strict=False))
            if a != b
        ]
        raise _unlike(first, other, (differing or [f"they have {n:,} and {m:,} classes"])[0])
    mine, others = list(first.sizes), list(other.sizes)
    if mine != others:
        raise _unlike(
            first, other, f"the first has the splits {', '.join(mine)}, the second "
            f"{', '.join(others)}",
        )  # fmt: skip


def _order(first: Features, other: Features, name: str) -> Order:
    """Find each row of the first store in another one; None where they are in the same order."""
    mine, theirs = first.splits[name].ids, other.splits[name].ids
    if mine == theirs:
        return None
    for this, that, ids, others in (
        ("first", "second", mine, theirs),
        ("second", "first", theirs, mine),
    ):
        known = set(others)
        for row, text in enumerate(ids):
            if text not in known:
                there = f"has {others[row]!r} there" if row < len(others) else "has no such row"
                raise _unlike(
                    first, other, f"{name} row {row:,} is {text!r} in the {this}, and the {that} "
                    f"{there}, and {text!r} nowhere in this split",
                )  # fmt: skip
    for store, ids in ((first, mine), (other, theirs)):
        if len(known) != len(ids):
            seen: set[str] = set()
            twice = next(text for text in ids if text in seen or seen.add(text))  # type: ignore[func-returns-value]
            raise _unlike(
                first, other, f"their {name} rows are in another order, and {store.path} has "
                f"{twice!r} twice, so that its rows cannot be told apart",
                "give every row an id of its own",
            )  # fmt: skip
    place = {text: row for row, text in enumerate(theirs)}
    return np.array([place[text] for text in mine], dtype=np.intp)


def _check_columns(first: Features, other: Features, name: str, order: Order) -> None:
    """Compare images, labels, groups and weights, row by row."""
    a, b = first.splits[name], other.splits[name]
    rows = slice(None) if order is None else order

    def refuse(differ: npt.NDArray[np.bool_], what: str, told: Any) -> None:
        if differ.any():
            row = int(np.argmax(differ))
            mine, theirs = told(first, a, row), told(other, b, row if order is None else order[row])
            raise _unlike(
                first, other, f"the {what} of {name} row {row:,} ({a.ids[row]!r}) is {mine} in "
                f"the first and {theirs} in the second",
            )  # fmt: skip

    if a.image_sha256 is not None and b.image_sha256 is not None:
        refuse(
            (a.image_sha256 != b.image_sha256[rows]).any(axis=1),
            "image",
            lambda _, split, row: bytes(split.image_sha256[row]).hex()[:12],
        )
    refuse(
        a.labels != b.labels[rows],
        "label",
        lambda store, split, row: repr(store.class_names[split.labels[row]]),
    )
    for column in ("groups", "weights"):
        mine, theirs = getattr(a, column), getattr(b, column)
        if (mine is None) != (theirs is None):
            which = "second" if mine is None else "first"
            raise _unlike(first, other, f"only the {which} has {column} of {name} rows")
    if a.groups is not None and b.groups is not None:
        ours, others = (np.array(store.group_names, dtype=object) for store in (first, other))
        refuse(
            np.asarray(ours[a.groups] != others[b.groups[rows]], dtype=np.bool_),
            "group",
            lambda store, split, row: repr(store.group_names[split.groups[row]]),
        )
    if a.weights is not None and b.weights is not None:
        refuse(
            a.weights != b.weights[rows],
            "weight",
            lambda _, split, row: f"{split.weights[row]:g}",
        )


def _spec(specs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put specs together; what does not differ stands where a store of its own has it.

    So that what reads a spec without knowing sums finds a data set and the name of a model.
    """
    models = [spec.get("model") or {} for spec in specs]
    sources = {str((model.get("weights") or {}).get("source", "unknown")) for model in models}
    telling = next((source for source in ("random", "imported") if source in sources), None)
    spec: dict[str, Any] = {
        "dataset": dict(specs[0].get("dataset") or {}),
        "model": {
            "name": _together([str(model.get("name", "unknown")) for model in models], all_of=True),
            "weights": {"source": telling or " + ".join(sorted(sources))},
        },
        "parts": [dict(spec) for spec in specs],
    }
    for name in ("pool", "precision", "store_dtype"):
        if all(isinstance(one.get(name), str) for one in specs):
            spec[name] = _together([str(one[name]) for one in specs])
    return spec


def _together(texts: Sequence[str], all_of: bool = False) -> str:
    return texts[0] if len(set(texts)) == 1 and not all_of else " + ".join(texts)


def _provenance(headers: Sequence[Header]) -> dict[str, Any]:
    """Put together how stores were made: each on its own, and what all of them took."""
    each = [header.provenance for header in headers]
    found: dict[str, Any] = {
        name: each[0][name]
        for name in ("dataset", "skipped_images", "unread_rotations")
        if name in each[0]
    }
    for name in ("engine", "device"):
        if all(isinstance(one.get(name), str) for one in each):
            found[name] = _together([one[name] for one in each])
    limits = [one["max_pixels"] for one in each if "max_pixels" in one]
    if limits:
        found["max_pixels"] = max(limits)
    found |= _costs(each)
    found["parts"] = [
        {
            "path": str(header.path),
            "key": header.key,
            "n_features": header.n_features,
            "provenance": header.provenance,
        }
        for header in headers
    ]
    return found


def _costs(each: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Add up seconds, and seconds per image, where every store says so."""

    def positive(name: str) -> list[float]:
        values = [one.get(name) for one in each]
        return [value for value in values if isinstance(value, int | float) and value > 0]

    speeds, seconds = positive("images_per_second"), positive("seconds")
    found = {}
    if len(speeds) == len(each):
        found["images_per_second"] = 1 / sum(1 / speed for speed in speeds)
    if len(seconds) == len(each):
        found["seconds"] = sum(seconds)
    return found
