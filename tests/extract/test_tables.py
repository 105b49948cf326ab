"""Stage one on tables: the rows of a folder, bit for bit, and requests that are told apart."""

from __future__ import annotations

import csv
import random

import numpy as np
import pytest
from PIL import Image

from data import open_features
from data.reading import read_header

NETWORK = (
    "--model", "test_efficientnet", "--weights", "random", "--image-size", "32",
    "--batch-size", "8", "--engine", "channels-last", "--jobs", "1",
)  # fmt: skip


@pytest.fixture
def pets(tmp_path):
    """A folder of 20 training, 6 test and 4 validation images, and its rows."""
    rows, value = [], 0
    for split, count in (("train", 10), ("test", 3), ("val", 2)):
        for label in ("cat", "dog"):
            for index in range(count):
                name = f"{split}/{label}/{index}.png"
                (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng(value).integers(0, 256, (40, 30, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / name)
                value += 1
                rows.append({"file_name": name, "label": label, "split": split, "patient": value})
    return tmp_path / "pets", rows


def write(path, rows):
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(store, prefix=""):
    """Give the features and the class of every image, by its split and name."""
    called = store.class_names
    return {
        (name, f"{prefix and parts[name]}{identity}"): (features.tobytes(), called[label])
        for name, split in store.splits.items()
        for identity, features, label in zip(split.ids, split.features, split.labels, strict=True)
    }


parts = {"train": "train/", "test": "test/", "validation": "val/"}


def test_the_same_rows_as_the_folder(pets, call, features):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    root, rows = pets

    def embed(dataset):
        # A folder for each, so that no row is taken over from another store.
        done = call("--dataset", dataset, *NETWORK, "--features-dir", features / dataset.name)
        assert done.code == 0, done.err
        return done

    folder = embed(root)
    expected = open_features(folder.path)
    random.Random(1).shuffle(rows)
    table = embed(write(root / "a.csv", rows))
    assert "a.csv: 30 rows, images from file_name" in table.err
    held = [{"image": (root / row["file_name"]).read_bytes(), **row} for row in rows]
    for row in held:
        row["image"] = {"bytes": row["image"], "path": row.pop("file_name")}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(held), root / "b.parquet")
    inside = embed(root / "b.parquet")
    for done in (table, inside):
        found = open_features(done.path)
        assert "taken_over" not in found.provenance
        assert rows_of(found) == rows_of(expected, "prefix")
        key = "content_sha256"
        assert found.provenance["dataset"][key] == expected.provenance["dataset"][key]
        assert found.group_names == tuple(map(str, range(1, 31)))
    again = embed(root / "a.csv")
    assert again.path == table.path
    assert "found" in again.err
    for done in (table, inside):
        verified = call("verify", done.path, "--rows", "4", "--reports-dir", features / "none")
        assert verified.code == 0, verified.err
        assert "not embedded again" not in verified.err


def test_unlabelled_rows_weights_and_classes(pets, call, features, tmp_path):
    root, rows = pets
    for index, row in enumerate(rows):
        row["weight"] = 0.5 + index
        if index % 5 == 0:
            row["label"] = ""
    rows[1]["label"] = "newt"
    rows[2]["label"] = "newt"
    words = ("--dataset", write(root / "a.csv", rows), *NETWORK, "--features-dir", features)
    merged = (*words, "--merge-classes", "pet=cat,dog")
    done = call(*merged)
    assert done.code == 0, done.err
    store = open_features(done.path)
    assert store.class_names == ("pet", "newt")
    assert len(store.unlabelled) == 6
    names = [row["file_name"] for row in rows]
    np.testing.assert_array_equal(
        store.train.weights, [0.5 + names.index(name) for name in store.train.ids]
    )
    names_file = tmp_path / "names.txt"
    names_file.write_text("newt\ndog\ncat\n")
    others = [
        call(*words, *more)
        for more in ((), ("--drop-class", "newt"), ("--class-names", names_file),
                     ("--group-column", "file_name"))
    ]  # fmt: skip
    assert [other.code for other in others] == [0] * 4
    paths = {done.path, *(other.path for other in others)}
    assert len(paths) == 5
    assert read_header(others[2].path).class_names == ("newt", "dog", "cat")
    # Each is found again, and by nothing else.
    assert call(*words, "--drop-class", "newt").path == others[1].path
    names_file.write_text("dog\nnewt\ncat\n")
    assert call(*words, "--class-names", names_file).path not in paths
    why = call("why", *words, "--drop-class", "dog")
    assert "drop-class" in why.err
    assert "newt" in why.err
    verified = call("verify", others[1].path, "--rows", "4", "--reports-dir", features / "none")
    assert verified.code == 0, verified.err
    assert "not embedded again" not in verified.err


def test_classes_of_a_built_in_data_set(call, features, small_job):
    words = (*small_job, "--features-dir", features)
    whole, less = call(*words), call(*words, "--drop-class", "9")
    assert less.code == 0, less.err
    assert read_header(less.path).class_names == tuple("012345678")
    assert less.path != whole.path
    assert call(*words).path == whole.path
    # Stores of before there were these options are asked for in the same words.
    assert "drop_class" not in read_header(whole.path).request["options"]
