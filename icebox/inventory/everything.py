"""All that ``icebox cache`` lists, and which runs were made of which store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.common.errors import UserError
from icebox.inventory.leftovers import Leftover, find_leftovers
from icebox.inventory.memo import Memo
from icebox.inventory.runs import RunFolder, read_runs
from icebox.inventory.stores import StoreFile, read_stores

SORTS = ("size", "age", "name")


@dataclass(frozen=True)
class Use:
    """The runs of a store."""

    folders: tuple[Path, ...] = ()
    last: float | None = None  # when the newest began, in seconds of the epoch


@dataclass(frozen=True)
class Inventory:
    """What lies below FEATURES_DIR, and what was made of it."""

    features_dir: Path
    stores: list[StoreFile]
    unreadable: list[StoreFile]
    leftovers: list[Leftover]
    uses: dict[str, Use] = field(default_factory=dict)  # by the key of a store
    problems: tuple[str, ...] = ()  # folders that could not be listed

    @property
    def bytes(self) -> int:
        """All of it."""
        files = sum(one.bytes for one in (*self.stores, *self.unreadable))
        return files + sum(one.bytes for one in self.leftovers)

    def use(self, store: StoreFile) -> Use:
        """Return the runs of a store."""
        return self.uses.get(store.key, Use())


def take_inventory(
    features_dir: Path,
    reports_dir: Path,
    sort: str = "size",
    on_file: Callable[[], bool] = lambda: True,
) -> Inventory:
    """Read the headers of all stores, and what runs were made of."""
    if not features_dir.exists():
        raise UserError(
            f"--features-dir {features_dir} does not exist; give the folder that stores were "
            "written to, or write some (icebox features)"
        )
    problems: list[str] = []
    try:
        found = read_stores(features_dir, Memo("stores", features_dir), on_file, problems)
    except OSError as error:
        where = error.filename or features_dir
        raise UserError(
            f"--features-dir {features_dir}: {where} cannot be listed "
            f"({error.strerror or error}); give another folder, or change its permissions"
        ) from error
    runs: list[RunFolder] = []
    try:
        runs = read_runs(reports_dir, Memo("runs", features_dir), on_file)
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(f"the runs of {reports_dir} are not known: {error.strerror or error}")
    broken = [run for run in runs if run.problem]
    if broken:
        more = f" and {len(broken) - 1:,} more" if len(broken) > 1 else ""
        problems.append(f"what was made of it is not known: {broken[0].folder}{more}")
    ordered = in_order(found, sort)
    return Inventory(
        features_dir,
        [one for one in ordered if not one.problem],
        [one for one in ordered if one.problem],
        find_leftovers(features_dir),
        uses_of(runs),
        tuple(problems),
    )


def in_order(found: Sequence[StoreFile], sort: str) -> list[StoreFile]:
    """Put the largest first, or the oldest, or sort by name."""
    keys: dict[str, Callable[[StoreFile], float]] = {
        "size": lambda one: -one.bytes,
        "age": lambda one: one.made or 0.0,
        "name": lambda one: 0.0,
    }
    return sorted(found, key=lambda one: (keys[sort](one), one.name))


def uses_of(runs: Sequence[RunFolder]) -> dict[str, Use]:
    """Gather the runs by the keys of the stores that they were made of."""
    gathered: dict[str, list[RunFolder]] = {}
    for run in runs:
        for key in dict.fromkeys(run.keys):
            gathered.setdefault(key, []).append(run)
    return {
        key: Use(
            tuple(sorted((run.folder for run in those), key=str)),
            max(run.started for run in those),
        )
        for key, those in gathered.items()
    }
