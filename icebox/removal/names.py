"""Which store, leftover or file a name on the command line means."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from data.common.errors import UserError, nearest
from icebox.inventory.everything import Inventory
from icebox.inventory.leftovers import Leftover
from icebox.inventory.stores import StoreFile

Item: TypeAlias = StoreFile | Leftover

# As many digits of a key as tell stores apart in their file names; fewer could be a word.
LEAST_DIGITS = 4
SHOWN = 5
WILDCARDS = re.compile(r"[*?\[]")


def find_named(
    names: Sequence[str], inventory: Inventory
) -> tuple[list[Item], list[tuple[str, StoreFile]]]:
    """Find what is meant; and with it the unreadable files that patterns would fit.

    A name that fits nothing, or several things, raises a `UserError` with the candidates.
    """
    found: dict[Path, Item] = {}
    left_out = []
    for name in names:
        for item in _exactly(name, inventory):
            found[item.path] = item
            break
        else:
            if WILDCARDS.search(name):
                fitting = [one for one in inventory.stores if _fits(name, one)]
                skipped = [one for one in inventory.unreadable if _fits(name, one)]
                left_out += [(name, one) for one in skipped]
                if not fitting and not skipped:
                    raise _nothing(name, inventory)
                found |= {one.path: one for one in fitting}
            else:
                one = _only(name, inventory)
                found[one.path] = one
    return list(found.values()), left_out


def _everything(inventory: Inventory) -> list[Item]:
    return [*inventory.stores, *inventory.unreadable, *inventory.leftovers]


def _exactly(name: str, inventory: Inventory) -> list[Item]:
    """Find what has this very path, from the current folder or from FEATURES_DIR."""
    if not name.strip() or name in (".", ".."):
        return []
    wanted = {_place(Path(name)), _place(inventory.features_dir / name)}
    paths = [*wanted, *(f"{path}.h5" for path in wanted)]
    return [one for one in _everything(inventory) if _place(one.path) in paths]


def _place(path: Path) -> str:
    """Give a path in full; its folder may be spelled by way of a link."""
    folder, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(folder), name)


def _only(name: str, inventory: Inventory) -> Item:
    """Find the one thing that a file's name, or the beginning of a key, fits."""
    _check_place(name, inventory)
    items = _everything(inventory)
    fitting = [one for one in items if one.path.name in (name, f"{name}.h5")]
    if not fitting and re.fullmatch(rf"(\.work/)?[0-9a-f]{{{LEAST_DIGITS},64}}", name):
        work = name.startswith(".work/")
        digits = name.removeprefix(".work/")
        fitting = [
            one
            for one in items
            if one.key.startswith(digits) and (not work or one.name.startswith(".work/"))
        ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(
            f"{name} fits {len(fitting)}: {_some([one.name for one in fitting])}\n"
            "give more of the name, or several names; nothing was removed"
        )
    raise _nothing(name, inventory)


def _check_place(name: str, inventory: Inventory) -> None:
    """Refuse a path that is there and is none of what this command removes."""
    for path in (Path(name), inventory.features_dir / name):
        if os.sep not in name or not os.path.lexists(path):
            continue
        inside = Path(_place(path)).is_relative_to(os.path.realpath(inventory.features_dir))
        if not inside:
            raise UserError(
                f"{name} lies outside {inventory.features_dir}, the only folder that icebox cache "
                "removes from; give the folder of its stores with --features-dir, or remove it "
                "yourself"
            )
        kind = "folder" if path.is_dir() else "file"
        raise UserError(
            f"{name} is a {kind} that is neither a store nor left by an interrupted run; icebox "
            "cache removes only these: name the stores in it, or remove it yourself"
        )


def _fits(pattern: str, store: StoreFile) -> bool:
    names = (store.name, store.path.name, store.name.removesuffix(".h5"), store.path.stem)
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _nothing(name: str, inventory: Inventory) -> UserError:
    """Name what is alike."""
    stores = [one.name.removesuffix(".h5") for one in (*inventory.stores, *inventory.unreadable)]
    alike = [one for one in stores if name and name.lower() in one.lower()]
    if alike:
        hint = (
            f"its name is part of {_some(alike)}; give one in full, or a pattern such as '*{name}*'"
        )
    else:
        by_file = {Path(one).name: one for one in stores}
        hint = nearest(name, [*stores, *by_file]) or "icebox cache lists what there is"
    return UserError(
        f"{name or repr(name)} fits no store below {inventory.features_dir}: {hint}\n"
        "nothing was removed"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more
