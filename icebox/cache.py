"""``icebox cache``: stores with size, age and use; their removal, and that of unfinished work."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data.common.cache_folder import use_cache_folder
from data.common.cli import Parser, folder_path, log, print_result, progress
from data.common.errors import UserError
from icebox.inventory.caches import Download, caches, downloads, hub_folder, hub_models
from icebox.inventory.everything import SORTS, Inventory, take_inventory
from icebox.inventory.listing import Elsewhere, as_json, listing
from icebox.inventory.sizes import size_of
from icebox.inventory.stores import StoreFile, store_files
from icebox.inventory.words import age_words, count_words, printable, size_words
from icebox.removal.names import Item, find_named
from icebox.removal.removing import check_removable, remove

HELP = "list stores with size, age and use, and remove what is named"
EXAMPLE = "icebox cache remove mobilenetv1_100-128px-3d131895"
ACTIONS = ("list", "remove")
# So long may the sizes of folders that others keep be counted.
SECONDS = 2.0
# Reading more new headers than this shows a bar.
MANY = 100


def add_options(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "action", nargs="?", choices=ACTIONS, default="list", help="what to do (list)"
    )
    names = parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help="what to remove: a store's name, path, the beginning of its key, or a pattern in "
        "quotes",
    )  # fmt: skip
    names.completer = store_names  # type: ignore[attr-defined]  # of argcomplete
    parser.add_argument(
        "--features-dir", type=folder_path, default=Path("features"), metavar="DIR",
        help="where stores lie (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--reports-dir", type=folder_path, default=Path("reports"), metavar="DIR",
        help="where runs lie that were made of them (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--data-dir", type=folder_path, default=Path("data/raw"), metavar="DIR",
        help="where downloads lie, which are listed (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--sort", choices=SORTS, default="size", help="size: largest first; age: oldest (size)"
    )
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def store_names(prefix: str, parsed_args: Namespace, **_: object) -> list[str]:
    """List the names that what was typed may become: as NAME, or as DATASET/NAME."""
    if getattr(parsed_args, "action", "") != "remove":
        return []
    root = getattr(parsed_args, "features_dir", None) or Path("features")
    try:
        found = [path.with_suffix("") for path, _ in store_files(root, [])]
    except OSError:
        return []
    names = [
        path.name if "/" not in prefix else f"{path.parent.name}/{path.name}" for path in found
    ]
    return sorted(name for name in names if name.startswith(prefix))


def run(options: Namespace) -> None:
    """Run ``cache``: a list on stdout, or the paths of what was removed."""
    use_cache_folder(options.features_dir)
    if options.action == "remove":
        _check_names(options.names)
        with _counted() as on_file:
            inventory = take_inventory(options.features_dir, options.reports_dir, "name", on_file)
        _remove(options, inventory)
        return
    if options.names:
        raise UserError(
            f"icebox cache list takes no names, and {options.names[0]} was given; to remove it: "
            f"icebox cache remove {options.names[0]}"
        )
    with _counted() as on_file:
        inventory = take_inventory(options.features_dir, options.reports_dir, options.sort, on_file)
    elsewhere = _elsewhere(options, inventory)
    if options.json:
        print(json.dumps(as_json(inventory, elsewhere), indent=2))
    else:
        print(listing(inventory, elsewhere))


def _check_names(names: list[str]) -> None:
    if not names:
        raise UserError(
            "icebox cache remove: a name is missing; icebox cache lists the names that there are"
        )


@contextmanager
def _counted() -> Iterator[Callable[[], bool]]:
    """Count headers that are read, with a bar once there are many."""
    bar, count = None, 0

    def on_file() -> bool:
        nonlocal bar, count
        count += 1
        if count == MANY:
            bar = progress(0, "reading headers", "file", initial=count)
        if bar is not None:
            bar.update(1)
        return True

    try:
        yield on_file
    finally:
        if bar is not None:
            bar.close()


def _elsewhere(options: Namespace, inventory: Inventory) -> Elsewhere:
    hub = hub_folder()
    models, others = ([], 0) if hub is None else hub_models(hub, inventory.stores, SECONDS)
    own = next(one for one in caches(options.features_dir) if one.name == "icebox")
    return Elsewhere(
        downloads(options.data_dir, SECONDS),
        models,
        others,
        Download(own.path, size_of(own.path, SECONDS), own.whose),
    )


def _remove(options: Namespace, inventory: Inventory) -> None:
    items, left_out = find_named(options.names, inventory)
    for pattern, file in left_out:
        log(
            printable(
                f"left out of {pattern}: {file.name}, which cannot be read as a store "
                f"({file.problem}); to remove it, give its name in full"
            )
        )
    if not items:
        raise UserError("there is nothing to remove but what no pattern removes")
    for item in items:
        check_removable(item, options.features_dir)
    for line in _announcement(items, inventory):
        log(printable(line))
    if not (options.yes or _agreed()):
        log("nothing was removed")
        return
    removed: list[Item] = []
    try:
        for item in items:
            remove(item, options.features_dir)
            removed.append(item)
            if not options.json:
                print_result(item.path)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_so_far(removed, items)) from None
    except UserError as error:
        raise UserError(f"{error}\n{_so_far(removed, items)}") from error
    finally:
        if options.json:
            found = [{"name": i.name, "path": str(i.path), "bytes": i.bytes} for i in removed]
            total = sum(item.bytes for item in removed)
            print(json.dumps({"removed": found, "bytes": total}, indent=2))
    log(f"removed {_count(removed)}, {size_words(sum(item.bytes for item in removed))}")


def _announcement(items: list[Item], inventory: Inventory) -> Iterator[str]:
    """Say what will go, and what will be lost with it."""
    yield f"to be removed: {_count(items)}, {size_words(sum(item.bytes for item in items))}"
    runs: set[Path] = set()
    for item in items:
        yield f"  {item.name}  {size_words(item.bytes)}{_more(item)}"
        if isinstance(item, StoreFile):
            runs |= set(inventory.use(item).folders)
    if runs:
        were = "1 run was" if len(runs) == 1 else f"{len(runs):,} runs were"
        made = f"{were} made of {'it' if len(items) == 1 else 'them'}"
        yield (
            f"{made}: reports stay, and heads predict as before; python -m extract verify and "
            "further fits need the features again"
        )


def _more(item: Item) -> str:
    if not isinstance(item, StoreFile):
        return f", {item.kind}" + (f", {item.note}" if item.note else "")
    parts = [item.problem or item.features]
    if item.shards:
        parts.append(f"with its shards in {', '.join(path.name for path in item.shards)}")
    seconds = item.facts.get("seconds")
    if isinstance(seconds, (int, float)) and seconds >= 60:
        parts.append(f"which took {age_words(seconds)} to make")
    return f", {', '.join(parts)}"


def _count(items: list[Item]) -> str:
    kinds = [
        ("leftover" if not isinstance(item, StoreFile) else "file" if item.problem else "store")
        for item in items
    ]
    words = [
        count_words(kinds.count(kind), kind)
        for kind in ("store", "file", "leftover")
        if kind in kinds
    ]
    return ", ".join(words) or "nothing"


def _agreed() -> bool:
    """Ask, on a terminal; who asks for a removal elsewhere has to say --yes."""
    if not sys.stdin.isatty():
        raise UserError(
            "there is no terminal to ask on, and --yes was not given; nothing was removed"
        )
    sys.stderr.write("remove? [y/N] ")
    sys.stderr.flush()
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was removed") from None
    return answer.strip().lower() in ("y", "yes")


def _so_far(removed: list[Item], items: list[Item]) -> str:
    return f"removed so far: {len(removed)} of {len(items)}; the others are as they were"
