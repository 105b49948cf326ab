"""Part ``few``: many classes of few rows, the whole of ``python -m classify fit``, pages included.

The rows are drawn from a seeded mixture: classes differ in some directions that all features share,
and features are cut off at zero as those of a network are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.processes import measured, scratch
from benchmarks.record import Record, Table, amount, duration
from benchmarks.settings import Settings
from data.format.records import SplitSource
from data.writing import join

DIRECTIONS = 48
TEST_ROWS = 5  # of a class
# Seconds that a case of so many classes and rows a class may take, on two cores.
LIMITS = {(200, 3): 20.0, (1000, 2): 120.0}


def write_store(path: Path, n_classes: int, n_rows: int, n_features: int, n_test: int) -> Path:
    """Write a feature store of so many rows a class."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n_classes, DIRECTIONS))
    mixing = rng.normal(size=(DIRECTIONS, n_features)) / np.sqrt(DIRECTIONS)
    offset = rng.normal(size=n_features)
    splits = {}
    for split, count in (("train", n_rows), ("test", n_test)):
        labels = rng.permutation(np.repeat(np.arange(n_classes), count))
        hidden = centres[labels] + 1.2 * rng.normal(size=(len(labels), DIRECTIONS))
        noise = 0.5 * rng.normal(size=(len(labels), n_features))
        X = np.maximum(hidden @ mixing + offset + noise, 0).astype(np.float32)
        ids = [f"{split}:{row}" for row in range(len(labels))]
        splits[split] = SplitSource(labels, ids, [(X, np.ones(len(labels), dtype=bool))])
    path.parent.mkdir(parents=True, exist_ok=True)
    join(
        path,
        spec={"dataset": {"name": "few"}, "store_dtype": "float32"},
        request={},
        provenance={"device": "made"},
        class_names=[f"class {number}" for number in range(n_classes)],
        splits=splits,
    )
    return path


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "few", settings.record())
    record.remark(
        f"python -m classify fit STORE --c auto, {', '.join(settings.strategies)}, from the start "
        f"of the process to its end; {settings.few_features:,} features, {TEST_ROWS} test rows a "
        "class"
    )
    titles = ("classes", "rows each", "seconds", "CPU", "limit", "within", "peak")
    table = Table(tuple(zip(titles, (8, 10, 10, 10, 8, 7, 9), strict=True)))
    for n_classes, n_rows in settings.few_cases:
        with scratch() as folder:
            store = write_store(
                folder / "made" / "few.h5", n_classes, n_rows, settings.few_features, TEST_ROWS
            )
            chosen = [f"--strategy={name}" for name in settings.strategies]
            command = ["classify", "fit", str(store), "--c=auto", *chosen]
            found = measured([*command, f"--reports-dir={folder / 'reports'}"])
        limit = LIMITS.get((n_classes, n_rows))
        within = "-" if limit is None else "yes" if found["seconds"] <= limit else "NO"
        table.row(
            *(f"{n_classes:,}", n_rows, duration(found["seconds"])),
            duration(found["cpu_seconds"]),
            *(
                "-" if limit is None else f"{limit:g} s",
                within,
            ),
            amount(found["peak_bytes"]),
        )
        del found["stdout"]
        record.add({"classes": n_classes, "rows_each": n_rows, "limit": limit, **found})
    record.finish()
    return record
