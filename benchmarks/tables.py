"""Part ``tables``: seconds and peak memory of reading a table of a million made rows.

The images are there, as files without content: each table is read whole, and every image of it is
looked for. A fingerprint of the same table asks the file system for the state of each image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import measured, scratch
from benchmarks.record import Record, Table, amount, duration
from benchmarks.settings import Settings

KINDS = (".csv", ".tsv", ".jsonl", *((".parquet",) if find_spec("pyarrow") else ()))
PER_FOLDER = 1000
GOAL_SECONDS, GOAL_BYTES = 10.0, 500 * 10**6
TITLES = (("table", 9), ("size", 9), ("seconds", 9), ("CPU", 9), ("peak", 9), ("fingerprint", 12))


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "tables", settings.record())
    record.remark(
        f"{settings.table_rows:,} rows: image, label of 1,000, split, group of 50,000, weight; "
        f"goal: {GOAL_SECONDS:g} s and {amount(GOAL_BYTES)} for the whole process"
    )
    table = Table(TITLES)
    with scratch() as folder:
        make_images(folder, settings.table_rows)
        for kind in KINDS:
            path = folder / f"labels{kind}"
            write(path, settings.table_rows)
            row = {"kind": kind, "rows": settings.table_rows} | one(path)
            row["reached"] = {
                f"{GOAL_SECONDS:g} s": row["seconds"] <= GOAL_SECONDS,
                amount(GOAL_BYTES): row["peak_bytes"] <= GOAL_BYTES,
            }
            record.add(row)
            table.row(
                *(kind, amount(path.stat().st_size), duration(row["seconds"])),
                *(duration(row["cpu_seconds"]), amount(row["peak_bytes"])),
                duration(row["fingerprint_seconds"]),
            )
            path.unlink()
    record.remark_missed("kind")
    record.finish()
    return record


def one(path: Path) -> dict[str, Any]:
    """Read a table, and take its fingerprint, in processes of their own."""
    read = measured(["benchmarks.read_table", str(path)])
    fast = measured(["benchmarks.read_table", str(path), "fast"])
    counts, _ = read["stdout"].splitlines()
    rows, classes, groups = map(int, counts.split())
    return {
        "rows_read": rows,
        "classes": classes,
        "groups": groups,
        "seconds": read["seconds"],
        "cpu_seconds": read["cpu_seconds"],
        "peak_bytes": read["peak_bytes"],
        "fingerprint_seconds": fast["seconds"],
    }


def make_images(folder: Path, n: int) -> None:
    """Make files without content, which is all that a table needs of its images."""
    for row in range(n):
        path = folder / name_of(row)
        if row % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.touch()


def name_of(row: int) -> str:
    """Name the image of a row."""
    return f"images/{row // PER_FOLDER:04}/image_{row:07}.jpg"


def rows(n: int) -> Iterator[dict[str, Any]]:
    """Draw the rows of a table."""
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 1000, n), rng.integers(0, 50_000, n)
    splits = rng.choice(["train", "val", "test"], n, p=[0.8, 0.1, 0.1])
    weights = rng.random(n).round(4)
    for row in range(n):
        yield {
            "file_name": name_of(row),
            "label": f"class {labels[row]}",
            "split": str(splits[row]),
            "patient": f"p{groups[row]}",
            "weight": float(weights[row]),
        }


def write(path: Path, n: int) -> None:
    """Write a table; its suffix says how."""
    if path.suffix == ".parquet":
        from pyarrow import Table as ArrowTable
        from pyarrow.parquet import write_table

        write_table(ArrowTable.from_pylist(list(rows(n))), path)
        return
    separator = "\t" if path.suffix == ".tsv" else ","
    with open(path, "w", encoding="utf-8") as stream:
        for index, row in enumerate(rows(n)):
            if path.suffix == ".jsonl":
                stream.write(json.dumps(row) + "\n")
                continue
            if index == 0:
                stream.write(separator.join(row) + "\n")
            stream.write(separator.join(map(str, row.values())) + "\n")
