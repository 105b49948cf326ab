"""The runs below REPORTS_DIR, and which stores they were made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icebox.inventory.memo import Memo
from icebox.inventory.stores import epoch

# Folders of a run, in which there are no runs.
PARTS = ("figures", "heads")


@dataclass(frozen=True)
class RunFolder:
    """A folder with a results.json: a run, or not (`problem` says why)."""

    folder: Path
    started: float  # in seconds of the epoch
    keys: tuple[str, ...] = ()  # of the store, and of the parts of a sum
    heads: tuple[str, ...] = ()
    problem: str = ""


def run_folders(reports_dir: Path) -> Iterator[Path]:
    """Yield the files ``results.json``, those of unfinished runs left out."""
    reports_dir.stat()  # before anything large is imported
    from classify.results.file import FILE_NAME

    def stop(error: OSError) -> None:
        if Path(error.filename or "") == reports_dir:
            raise error

    for folder, folders, files in os.walk(reports_dir, onerror=stop):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in PARTS)
        if FILE_NAME in files:
            yield Path(folder, FILE_NAME)


def read_runs(
    reports_dir: Path, memo: Memo, on_file: Callable[[], bool] = lambda: True
) -> list[RunFolder]:
    """Read what runs were made of; `on_file` is asked before each new one."""
    found = []
    try:
        for path in run_folders(reports_dir):
            try:
                stat = path.stat()
            except OSError:
                continue
            facts = memo.find(path, stat)
            if facts is None:
                if not on_file():
                    continue
                problem, facts = _read(path)
                if problem:
                    found.append(RunFolder(path.parent, stat.st_mtime, problem=problem))
                    continue
                memo.keep(path, stat, facts)
            if facts["kind"] != "comparison":
                started = epoch(facts["started"]) or stat.st_mtime
                found.append(
                    RunFolder(path.parent, started, tuple(facts["keys"]), tuple(facts["heads"]))
                )
    finally:
        memo.save()
    return found


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Read a results.json: why it cannot be read, or what of it matters here."""
    from classify.results.file import load_json, read_run
    from data.common.errors import UserError

    try:
        results = load_json(path)
        if results.get("kind") != "comparison":
            results = read_run(path)
    except (UserError, OSError) as error:
        text = " ".join(str(error).split()).partition("; ")[0]
        return text.removeprefix(f"{path} ").removeprefix("is "), {}
    store = results.get("store") or {}
    parts = (store.get("provenance") or {}).get("parts") or []
    return "", {
        "kind": results.get("kind", ""),
        "started": (results.get("timings") or {}).get("started"),
        "keys": [str(one.get("key")) for one in (store, *parts)],
        "heads": list(results.get("strategies") or {}),
    }
