"""Part ``doors``: the same images by every door give the same rows and the same accuracies.

Images of CIFAR-10, where ``ICEBOX_REAL_DATA`` names a folder that has it, else scikit-learn's
digits: embedded from memory first, then written as PNG files and embedded as class folders, a
table, Parquet with images inside, class folders read by `datasets`, tar shards and a list of a
Python program, then exported and imported again. Rows are compared bit by bit with those of the
first, each with its label, whatever their order; heads are fitted at one value of C.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.processes import ROOT, scratch
from benchmarks.record import Record, Table, duration
from benchmarks.settings import STRATEGIES, Settings
from data.images.arrays import ArrayImages
from data.reading import open_features

IMAGES = {"train": 2_000, "test": 1_000}
C = 0.01
NETWORK: dict[str, Any] = {
    "weights": "bundled",
    "image_size": 64,
    "engine": "channels-last",
    "batch_size": 64,
}
TITLES = (("door", 14), ("rows", 6), ("content", 9), ("seconds", 8), ("accuracies", 24))
Labelled = Iterator[tuple[str, str, bytes]]


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "doors", settings.record())
    table = Table(TITLES)
    with scratch() as folder:
        first = _images(folder)
        reference: dict[str, list[bytes]] | None = None
        for door, dataset in _doors(folder, first):
            clock = time.perf_counter()
            store = dataset(folder / "features" / door)
            seconds = time.perf_counter() - clock
            found, content = _rows(store), _content(store)
            reference = reference or found
            accuracies = _accuracies(store, folder / "reports" / door)
            row = {
                "door": door, "equal": found == reference, "content_sha256": content,
                "seconds": seconds, "accuracies": accuracies,
                "reached": {"the rows of the first": found == reference},
            }  # fmt: skip
            record.add(row)
            table.row(
                door, "equal" if row["equal"] else "OTHER", content[:8], duration(seconds),
                " ".join(f"{value:.2%}" for value in accuracies.values()),
            )  # fmt: skip
    record.remark_missed("door")
    record.finish()
    return record


def _images(folder: Path) -> dict[str, Any]:
    """Take images and write them as PNG files in class folders; their names are their order."""
    from data.dataset import load_dataset

    real = Path(os.environ.get("ICEBOX_REAL_DATA", folder))
    name = "cifar10" if (real / "cifar-10-batches-bin").is_dir() else "digits"
    dataset = load_dataset(name, data_dir=real)
    first = {}
    for split, count in IMAGES.items():
        part = dataset.splits[split]
        part = part.take(np.arange(min(count, len(part))))
        assert isinstance(part.images, ArrayImages)
        pixels = np.array(part.images.rows(0, len(part)))
        labels = [dataset.class_names[label] for label in part.labels.tolist()]
        first[split] = list(zip(pixels, labels, strict=True))
        for i, (image, label) in enumerate(first[split]):
            path = folder / "images" / split / label / f"{i:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return first


def _doors(folder: Path, first: dict[str, Any]) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """Give each door with what embeds the images through it into a features folder."""
    from extract import embed

    images = folder / "images"
    files = [
        (split, path.parent.name, path) for split in IMAGES for path in images.glob(f"{split}/*/*")
    ]
    given = {split: [(path, name) for s, name, path in files if s == split] for split in IMAGES}

    def python(items: Any) -> Callable[[Path], Path]:
        return lambda into: embed(items, name="given", features_dir=into, **NETWORK).path

    yield "memory", python(first)
    yield "folder", _extract(images)
    table = folder / "labels.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [("path", "class", "subset"), *((f"{path}", name, s) for s, name, path in files)]
        )
    yield "table", _extract(table)
    yield "Parquet", _extract(_parquet(folder / "images.parquet", files))
    yield "hf:", _extract(f"hf:{images}")
    _tars(folder / "shards", files)
    yield "wds:", _extract(f"wds:{folder / 'shards'}/{{train,test}}.tar")
    yield "files in Python", python(given)
    yield "imported", lambda into: _imported(folder, into)


def _extract(dataset: Path | str) -> Callable[[Path], Path]:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in NETWORK.items()]
    return lambda into: _call(
        "extract", f"--dataset={dataset}", f"--features-dir={into}", f"--data-dir={into}", *words
    )


def _imported(folder: Path, into: Path) -> Path:
    """Export the store of the class folders, and import what was written."""
    (store,) = (folder / "features" / "folder").glob("*/*.h5")
    out = _call("data", "export", store, "--to=npz", f"--out={folder / 'features.npz'}")
    return _call("data", "import", out, "--name=again", f"--features-dir={into}")


def _call(package: str, *words: Any) -> Path:
    """Run a command line as users do; its last line is a path."""
    command = [sys.executable, "-m", package, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return Path(done.stdout.strip().splitlines()[-1])


def _parquet(path: Path, files: list[tuple[str, str, Path]]) -> Path:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "image": [image.read_bytes() for _, _, image in files],
        "label": [name for _, name, _ in files],
        "split": [split for split, _, _ in files],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=256)
    return path


def _tars(folder: Path, files: list[tuple[str, str, Path]]) -> None:
    folder.mkdir()
    for split in IMAGES:
        with tarfile.open(folder / f"{split}.tar", "w") as archive:
            for i, (_, name, path) in enumerate(one for one in files if one[0] == split):
                for suffix, content in (("png", path.read_bytes()), ("cls", name.encode())):
                    member = tarfile.TarInfo(f"{i:06}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def _rows(path: Path) -> dict[str, list[bytes]]:
    """Give the rows of each split with their labels, in an order of their own."""
    store = open_features(path)
    return {
        name: sorted(
            store.class_names[label].encode() + row.tobytes()
            for label, row in zip(split.labels, split.features, strict=True)
        )
        for name, split in store.splits.items()
    }


def _content(path: Path) -> str:
    dataset = open_features(path, verify=False).provenance.get("dataset", {})
    return str(dataset.get("content_sha256", "-"))


def _accuracies(store: Path, reports: Path) -> dict[str, float]:
    """Fit every strategy at one value of C."""
    page = _call("classify", "fit", store, f"--c={C}", "--no-few-shot", f"--reports-dir={reports}")
    found = json.loads((page.parent / "results.json").read_text(encoding="utf-8"))
    shutil.rmtree(reports)
    return {name: found["strategies"][name]["test"]["accuracy"] for name in STRATEGIES}
