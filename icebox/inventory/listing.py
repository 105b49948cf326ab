"""The inventory as lines for a person and as JSON."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from typing import Any

from icebox.inventory.caches import Download
from icebox.inventory.everything import Inventory, Use
from icebox.inventory.leftovers import Leftover
from icebox.inventory.stores import StoreFile
from icebox.inventory.words import age_words, count_words, iso, printable, size_words

SCHEMA_VERSION = 1
_ROW = "{:>8}  {:>10}  {}"
_BELOW = " " * 22
KEY_DIGITS = 12


def listing(inventory: Inventory, elsewhere: Elsewhere | None = None) -> str:
    """List everything, sizes and ages first and names last, so that long names break nothing."""
    lines = list(_stores(inventory))
    if inventory.unreadable:
        count = count_words(len(inventory.unreadable), "file")
        lines += ["", f"{count} that cannot be read as stores, and that no pattern removes"]
        for one in inventory.unreadable:
            lines += [_row(one.bytes, one.made, one.name), *_wrapped(one.problem)]
    if inventory.leftovers:
        lines += ["", "left by runs that were interrupted, or being computed"]
        for left in inventory.leftovers:
            used = ", in use now" if left.in_use else ""
            note = f": {left.note}" if left.note else ""
            lines += [
                _row(left.bytes, left.made, short_name(left)),
                *_wrapped(f"{left.kind}{used}{note}"),
            ]
    lines += ["", f"{size_words(inventory.bytes)} in {printable(str(inventory.features_dir))}"]
    if elsewhere is not None:
        lines += _elsewhere(elsewhere)
    lines += [printable(text) for text in inventory.problems]
    return "\n".join(lines)


def _stores(inventory: Inventory) -> Iterator[str]:
    count = count_words(len(inventory.stores), "store")
    yield f"{count} in {printable(str(inventory.features_dir))}"
    if not inventory.stores:
        return
    yield _ROW.format("size", "age", "name")
    for store in inventory.stores:
        yield _row(store.bytes, store.made, store.name)
        facts = store.facts
        rows = f"{store.rows:,} rows x {facts['n_features']:,} {facts['dtype']}"
        parts = [store.features, rows]
        if store.shards:
            parts.append("rows in shards")
        if store.link:
            parts.append(f"a link to {store.link}")
        yield from _wrapped(f"{', '.join(parts)}; {use_words(inventory.use(store))}")


def use_words(use: Use) -> str:
    """Say how many runs were made of a store, and when the last one was."""
    if not use.folders:
        return "no run"
    ago = age_words(time.time() - (use.last or 0.0))
    return f"{count_words(len(use.folders), 'run')}, the last {ago} ago"


def short_name(left: Leftover) -> str:
    """Name a work folder by as much of its key as is needed to remove it."""
    if left.key and left.name == f".work/{left.key}":
        return f".work/{left.key[:KEY_DIGITS]}"
    return left.name


def _row(size: int, made: float | None, name: str) -> str:
    return _ROW.format(size_words(size), age_words(time.time() - (made or 0.0)), printable(name))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        printable(text),
        80,
        initial_indent=_BELOW,
        subsequent_indent=_BELOW,
        break_long_words=False,
        break_on_hyphens=False,
    )


class Elsewhere:
    """Downloads and caches outside FEATURES_DIR, which are listed and never removed."""

    def __init__(
        self, downloads: Sequence[Download], models: Sequence[Download], others: int, own: Download
    ) -> None:
        self.downloads, self.models, self.others, self.own = downloads, models, others, own

    @property
    def all(self) -> list[tuple[str, Download]]:
        """Each with its kind."""
        return [
            *(("download", one) for one in self.downloads),
            *(("model of the hub", one) for one in self.models),
            ("cache of Icebox", self.own),
        ]


def _elsewhere(elsewhere: Elsewhere) -> list[str]:
    found = [(kind, one) for kind, one in elsewhere.all if one.size.files]
    lines = (
        ["", "elsewhere (listed here, and removed by other means: rm, hf cache)"] if found else []
    )
    for kind, one in found:
        more = ">" if not one.size.whole else ""
        note = f", {one.note}" if one.note else ""
        lines.append(_ROW.format(more + size_words(one.size.bytes), "", printable(str(one.path))))
        lines += _wrapped(f"{kind}{note}")
    if elsewhere.others:
        what = "other entry" if elsewhere.others == 1 else "other entries"
        lines += _wrapped(f"and {elsewhere.others:,} {what} of the hub's cache")
    return lines


def as_json(inventory: Inventory, elsewhere: Elsewhere) -> dict[str, Any]:
    """Put the inventory into the form that the manual describes."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "cache",
        "features_dir": str(inventory.features_dir),
        "bytes": inventory.bytes,
        "stores": [_store_json(one, inventory.use(one)) for one in inventory.stores],
        "unreadable": [
            {**_common(one.name, one.path, one.bytes, one.made), "problem": one.problem}
            for one in inventory.unreadable
        ],
        "leftovers": [
            {
                **_common(one.name, one.path, one.bytes, one.made),
                "kind": one.kind,
                "key": one.key or None,
                "note": one.note,
                "in_use": one.in_use,
            }
            for one in inventory.leftovers
        ],
        "elsewhere": [
            {"kind": kind, "path": str(one.path), **one.size.to_json(), "note": one.note}
            for kind, one in elsewhere.all
        ],
        "hub_others": elsewhere.others,
        "problems": list(inventory.problems),
    }


def _common(name: str, path: Any, size: int, made: float | None) -> dict[str, Any]:
    return {"name": name, "path": str(path), "bytes": size, "made": iso(made)}


def _store_json(store: StoreFile, use: Use) -> dict[str, Any]:
    kept = (
        "dataset", "model", "weights", "image_size", "pool", "layer", "rows", "n_features",
        "n_classes", "dtype", "seconds",
    )  # fmt: skip
    return {
        **_common(store.name, store.path, store.bytes, store.made),
        "key": store.key,
        **{name: store.facts.get(name) for name in kept},
        "shards": [str(folder) for folder in store.shards],
        "link": store.link or None,
        "runs": [str(folder) for folder in use.folders],
        "last_used": iso(use.last),
    }
