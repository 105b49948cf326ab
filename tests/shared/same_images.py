"""The same few images behind every door: class folders, tars, folders of `datasets`; not a test."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")
COUNTS = {"train": 6, "test": 4}  # of each class


def write_folder(root, counts=COUNTS, classes=CLASSES):
    """Write noise as ``root/SPLIT/CLASS/*.png|jpg``, of several sizes."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name in classes:
            (Path(root) / split / name).mkdir(parents=True)
            for i in range(count):
                size = (20 + i % 3, 24, 3)
                pixels = rng.integers(0, 255, size, dtype=np.uint8)
                suffix = "png" if i % 2 else "jpg"
                Image.fromarray(pixels).save(Path(root) / split / name / f"{i}.{suffix}")
    return Path(root)


def files_of(folder, split):
    """Give ``(path, class)`` of a split, in the order in which a folder is read."""
    found = sorted((Path(folder) / split).rglob("*.*"))
    return [(path, path.parent.name) for path in found]


def add_member(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_tars(folder, root, shards=2, label="cls"):
    """Write the images of a folder as ``root/SPLIT-00N.tar``, in their order."""
    Path(root).mkdir(parents=True)
    for split in sorted(path.name for path in Path(folder).iterdir()):
        files = files_of(folder, split)
        size = -(-len(files) // shards)
        for shard in range(shards):
            with tarfile.open(Path(root) / f"{split}-{shard:03d}.tar", "w") as archive:
                for i, (path, name) in enumerate(files[shard * size : (shard + 1) * size]):
                    key = f"{i:06d}"
                    add_member(archive, f"{key}{path.suffix}", path.read_bytes())
                    text = name if label == "cls" else json.dumps({"label": name, "n": i})
                    add_member(archive, f"{key}.{label}", text.encode())
    return Path(root)


def write_saved(folder, root):
    """Write the images of a folder as `datasets` saves them, their files inside."""
    import datasets

    parts = {}
    names = sorted({name for _, name in files_of(folder, "train")})
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    )
    for split in sorted(path.name for path in Path(folder).iterdir()):
        rows = files_of(folder, split)
        images = [{"bytes": path.read_bytes(), "path": path.name} for path, _ in rows]
        columns = {"image": images, "label": [names.index(name) for _, name in rows]}
        parts[split] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(parts).save_to_disk(str(root))
    return Path(root)
