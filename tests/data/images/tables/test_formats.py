"""The same images with the same labels are the same data, whatever table they come in."""

from __future__ import annotations

import json
import pickle
import random

import numpy as np
import pytest

from data.common.errors import UserError
from data.dataset import load_dataset, source_fingerprint
from data.images.arrays import RecordImages
from data.images.lookup import find_pictures
from data.images.tables import parquet

pyarrow = pytest.importorskip("pyarrow")


def pictures_of(dataset):
    """Give the pixels and the class of every image by its split."""
    found = {}
    for name, split in dataset.splits.items():
        found[name] = sorted(
            (dataset.class_names[label], split.images.decode(i).tobytes())
            for i, label in enumerate(split.labels)
        )
    return found


def struct_rows(pets):
    return [
        {"image": {"bytes": pets.bytes_of(row), "path": row["file_name"].replace("/", "-")},
         "label": row["label"], "split": row["split"]}
        for row in pets.rows
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl", "a.parquet", "a.CSV"])
def test_every_format_is_the_folder(pets, name):
    folder = load_dataset(str(pets.root), data_dir=pets.root)
    random.Random(0).shuffle(pets.rows)
    path = pets.write(name.lower()).rename(pets.root / name)
    table = pets.load(name)
    assert table.origin["content_sha256"] == folder.origin["content_sha256"]
    assert pictures_of(table) == pictures_of(folder)
    assert table.class_names == folder.class_names == ("cat", "dog", "newt")
    # In the order of the table.
    for split, called in (("train", "train"), ("validation", "val"), ("test", "test")):
        names = [row["file_name"] for row in pets.rows if row["split"] == called]
        assert list(table.splits[split].ids) == names
    assert table.name == "pets-a"
    assert table.origin["kind"] == "table"
    assert table.origin["path"] == str(path)
    assert table.origin["columns"] == {"image": "file_name", "label": "label", "split": "split"}
    assert table.origin["splits"] == {"train": 12, "test": 6, "validation": 6}


def test_images_inside_parquet(pets):
    folder = load_dataset(str(pets.root), data_dir=pets.root)
    pets.write("structs.parquet", struct_rows(pets))
    plain = [{"IMG": pets.bytes_of(row), "label": row["label"], "split": row["split"]}
             for row in pets.rows]  # fmt: skip
    pets.write("plain.parquet", plain)
    structs, bare = pets.load("structs.parquet"), pets.load("plain.parquet")
    for found in (structs, bare):
        assert isinstance(found.train.images, RecordImages)
        assert found.origin["content_sha256"] == folder.origin["content_sha256"]
        assert pictures_of(found) == pictures_of(folder)
    assert structs.train.ids[0] == "train-cat-0.png"
    assert bare.train.ids[:2] == ("plain.parquet:0", "plain.parquet:1")
    assert bare.test.images.name(0) == f"{pets.root / 'plain.parquet'}, row 19 of IMG"


def test_parquet_images_are_read_in_any_order_and_process(pets, monkeypatch):
    monkeypatch.setattr(parquet, "_IMAGE_BLOCK", 2)
    pets.write("a.parquet", struct_rows(pets))
    images = pets.load("a.parquet").train.images
    expected = [images.decode(i).tobytes() for i in range(len(images))]
    sent = pickle.loads(pickle.dumps(images))
    assert len(pickle.dumps(images)) < 2_000
    order = [7, 3, 3, 11, 0, 4, 5, 2]
    assert [sent.decode(i).tobytes() for i in order] == [expected[i] for i in order]


def test_a_row_without_bytes_is_named(pets):
    rows = struct_rows(pets)
    rows[3]["image"]["bytes"] = None
    pets.write("a.parquet", rows)
    with pytest.raises(UserError, match=r"a\.parquet: row 4 has no image in the column image"):
        pets.load("a.parquet")


def test_structs_that_only_point_at_files(pets):
    rows = [{"image": {"bytes": None, "path": row["file_name"]}, "label": row["label"],
             "split": row["split"]} for row in pets.rows]  # fmt: skip
    schema = pyarrow.schema(
        [("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
         ("label", pyarrow.string()), ("split", pyarrow.string())]
    )  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), pets.root / "a.parquet")
    folder = load_dataset(str(pets.root), data_dir=pets.root)
    assert pets.load("a.parquet").origin["content_sha256"] == folder.origin["content_sha256"]


def test_class_names_of_hugging_face(pets):
    rows = struct_rows(pets)
    names = ["newt", "dog", "cat", "nobody"]
    for row in rows:
        row["label"] = names.index(row["label"])
    table = pyarrow.Table.from_pylist(rows)
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pyarrow.parquet.write_table(table, pets.root / "a.parquet")
    folder = load_dataset(str(pets.root), data_dir=pets.root)
    found = pets.load("a.parquet")
    assert found.class_names == ("newt", "dog", "cat")
    assert found.origin["content_sha256"] == folder.origin["content_sha256"]


def test_parquet_of_other_things(pets):
    pets.write("a.parquet", [{"label": "a", "x": 1.5}, {"label": "b", "x": 2.5}])
    with pytest.raises(UserError, match="no column of images: it has the columns label, x"):
        pets.load("a.parquet")
    pets.write("a.parquet", [{"label": "a", "image": [1.5, 2]}, {"label": "b", "image": [2.5, 3]}])
    with pytest.raises(UserError, match=r"image holds list<.*double>, no images.*\n.*data import"):
        pets.load("a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as Parquet: .*magic"):
        pets.text("image,label\n", "a.parquet")


def test_parquet_without_pyarrow(pets, monkeypatch):
    pets.write("a.parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install '.*\[parquet\]'"):
        pets.load("a.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.parquet"])
def test_fingerprint_follows_the_table_and_its_images(pets, name, monkeypatch):
    path = pets.write(name)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)  # it does without

    def stamp():
        return source_fingerprint(str(path), data_dir=pets.root)

    first = stamp()
    assert first["path"] == str(path)
    (pets.root / "train" / "other.png").write_bytes(b"not in the table")
    assert stamp() == first
    (pets.root / "val" / "dog" / "1.png").write_bytes(b"changed")
    second = stamp()
    assert second != first
    pets.rows.pop()
    pets.write(name)
    assert stamp() not in (first, second)


def test_fingerprint_of_images_in_a_table(pets):
    path = pets.write("a.parquet", struct_rows(pets))
    first = source_fingerprint(str(path), data_dir=pets.root)
    (pets.root / "val" / "dog" / "1.png").write_bytes(b"nobody's")
    assert source_fingerprint(str(path), data_dir=pets.root) == first


@pytest.mark.parametrize("kind", ["a.csv", "a.parquet", "bytes.parquet"])
def test_pictures_of_a_report(pets, kind, tmp_path):
    path = pets.write(kind, struct_rows(pets) if kind == "bytes.parquet" else None)
    found = pets.load(kind)
    request = {
        "options": {"dataset": found.name},
        "files": {"dataset": source_fingerprint(str(path), data_dir=pets.root)},
    }
    ids = found.test.ids[::-2]
    for picture, i in zip(find_pictures(request, ids), range(5, 0, -2), strict=True):
        np.testing.assert_array_equal(picture, found.test.images.decode(i))
    with pytest.raises(UserError, match=r"no image gone\.png in"):
        find_pictures(request, ["gone.png"])
    pets.root.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"no image|cannot be read"):
        find_pictures(request, ids)
    assert len(find_pictures(request, ids, data_dir=tmp_path / "moved")) == 3
