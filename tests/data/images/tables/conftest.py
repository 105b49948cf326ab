"""A folder of images, and tables of them in every format."""

from __future__ import annotations

import csv
import json
import shlex

import numpy as np
import pytest
from PIL import Image

from data.dataset import load_dataset

SEPARATORS = {".csv": ",", ".tsv": "\t"}


class Pets:
    """Three classes: four training, two validation and two test images of each, all different."""

    def __init__(self, root):
        self.root = root
        self.rows = []
        value = 0
        for split, count in (("train", 4), ("val", 2), ("test", 2)):
            for label in ("cat", "dog", "newt"):
                for index in range(count):
                    name = f"{split}/{label}/{index}.png"
                    path = root / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pixels = np.random.default_rng(value).integers(0, 256, (9, 7, 3), np.uint8)
                    Image.fromarray(pixels).save(path)
                    value += 1
                    self.rows.append({"file_name": name, "label": label, "split": split})

    def write(self, name="labels.csv", rows=None):
        """Write rows as a table; the suffix says in which format."""
        rows = self.rows if rows is None else rows
        path = self.root / name
        columns = list(rows[0])
        if path.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=5)
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif path.suffix == ".txt":
            path.write_text(
                "".join("  ".join(shlex.quote(str(cell)) for cell in row) + "\n"
                        for row in (columns, *(row.values() for row in rows)))
            )  # fmt: skip
        else:
            with open(path, "w", newline="") as stream:
                writer = csv.writer(stream, delimiter=SEPARATORS[path.suffix])
                writer.writerow(columns)
                writer.writerows(row.values() for row in rows)
        return path

    def load(self, table="labels.csv", **asked):
        """Read the data set that a table, or a text written as one, names."""
        return load_dataset(str(self.root / table), data_dir=self.root, **asked)

    def text(self, content, name="labels.csv", **asked):
        """Write a table as it is, and read it."""
        path = self.root / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.load(name, **asked)

    def bytes_of(self, row):
        return (self.root / row["file_name"]).read_bytes()


@pytest.fixture
def pets(tmp_path):
    return Pets(tmp_path / "pets")
