"""What the rows of a table may say, and what they may not."""

from __future__ import annotations

import numpy as np
import pytest

from data.common.errors import UserError

HALF = {"test_fraction": 0.5}


def rows_of(pets, n=None, **columns):
    """Give the rows without splits, with columns that depend on the row."""
    rows = [{"file_name": row["file_name"], "label": row["label"]} for row in pets.rows[:n]]
    for name, value in columns.items():
        for index, row in enumerate(rows):
            row[name] = value(index)
    return rows


def test_rows_without_a_label(pets, capsys):
    for index in (3, 14, 20):
        pets.rows[index]["label"] = ""
    pets.rows[20]["split"] = ""
    pets.write()
    found = pets.load()
    assert list(found.unlabelled.ids) == [pets.rows[i]["file_name"] for i in (3, 14, 20)]
    assert found.unlabelled.labels.tolist() == [-1] * 3
    assert [len(found.splits[s]) for s in ("train", "validation", "test")] == [11, 5, 5]
    assert found.origin["n_unlabelled"] == 3
    assert "3 of 24 rows have no label; they are embedded" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_null_is_no_label(pets, name):
    pets.rows[3]["label"] = None
    pets.write(name)
    assert pets.load(name).unlabelled.ids == (pets.rows[3]["file_name"],)


def test_numbers_are_sorted_by_number(pets):
    for index, row in enumerate(pets.rows):
        row["label"] = [9, 10, 2][index % 3]
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        pets.write(name)
        found = pets.load(name)
        assert found.class_names == ("2", "9", "10")
        assert found.train.labels[:4].tolist() == [1, 2, 0, 1]


def test_numbers_beside_empty_cells_stay_whole(pets):
    for index, row in enumerate(pets.rows):
        row["label"] = ["0.0", "1.0", ""][index % 3]
    pets.write()
    assert pets.load().class_names == ("0", "1")
    for index, row in enumerate(pets.rows):
        row["label"] = ["0.0", "0.5", "1.0"][index % 3]
    pets.write()
    assert pets.load().class_names == ("0.0", "0.5", "1.0")


def test_na_is_a_class_and_nan_is_none(pets):
    for row in pets.rows:
        row["label"] = {"cat": "NA", "dog": "null", "newt": "None"}[row["label"]]
    pets.write()
    assert pets.load().class_names == ("NA", "None", "null")
    pets.rows[4]["label"] = "NaN"
    pets.write()
    with pytest.raises(UserError, match=r"label of 1 rows is NaN in the column label \(row 5\)"):
        pets.load()
    pets.rows[4]["label"] = float("nan")
    pets.write("a.jsonl")
    with pytest.raises(UserError, match=r"is nan in the column label \(row 5\)"):
        pets.load("a.jsonl")


def test_labels_that_cannot_be(pets):
    pets.write(rows=[{"image": r["file_name"], "label": r["file_name"]} for r in pets.rows])
    with pytest.raises(UserError, match=r"looks like names of images.*row 1 \(train/cat/0\.png"):
        pets.load(**HALF)
    pets.write(rows=rows_of(pets, label=lambda i: ""))
    with pytest.raises(UserError, match="every cell of the column label is empty"):
        pets.load(**HALF)
    pets.write(rows=rows_of(pets, label=lambda i: f"id{i // 2 if i < 4 else i}"))
    with pytest.raises(UserError, match=r"20 of 22 classes of the column label have one image"):
        pets.load(**HALF)
    pets.write(rows=rows_of(pets, label=lambda i: "same"))
    with pytest.raises(UserError, match=r"1 class \(same\); a classifier needs at least 2$"):
        pets.load(**HALF)


def test_files_that_are_missing(pets):
    for index in (1, 5, 7, 11):
        (pets.root / pets.rows[index]["file_name"]).unlink()
    pets.write()
    with pytest.raises(UserError) as caught:
        pets.load()
    message = str(caught.value)
    assert "4 of 24 images of the column file_name are not in" in message
    assert "row 2: 'train/cat/1.png', row 6: 'train/dog/1.png', row 8: 'train/dog/3.png', ..." in (
        message
    )
    assert "--image-root DIR" in message


def test_image_root(pets, tmp_path):
    path = pets.write()
    table = path.rename(tmp_path / "labels.csv")
    with pytest.raises(UserError, match=rf"--image-root DIR: {pets.root} has the first"):
        pets.load(table)
    found = pets.load(table, image_root=pets.root)
    assert found.origin["content_sha256"] == pets.load(".").origin["content_sha256"]
    text = table.read_text().replace("train/", f"{pets.root}/train/")
    table.write_text(text)
    # Names that are written from the root of the system are made shorter where they can be.
    again = pets.load(table, image_root=pets.root)
    assert again.train.ids == found.train.ids
    assert again.digest == found.digest


def test_names_that_are_written_otherwise(pets):
    expected = pets.load(pets.write().name)
    for change in (
        lambda name: f"./{name}",
        lambda name: name.replace("/", "\\"),
        lambda name: name.removesuffix(".png"),
        lambda name: name.replace("/", "//"),
    ):
        rows = [{**row, "file_name": change(row["file_name"])} for row in pets.rows]
        pets.write("other.csv", rows)
        found = pets.load("other.csv")
        assert found.train.ids == expected.train.ids
        assert found.digest == expected.digest
    (pets.root / "train" / "cat" / "0.jpg").write_bytes(b"which one is it?")
    pets.write("other.csv", [{**r, "file_name": r["file_name"][:-4]} for r in pets.rows])
    with pytest.raises(UserError, match="1 of 24 images"):
        pets.load("other.csv")


def test_addresses_and_empty_names(pets):
    pets.rows[2]["file_name"] = "https://example.org/a.png"
    pets.write()
    with pytest.raises(UserError, match=r"row 3: 'https://.*\n.*fetch the images"):
        pets.load()
    pets.rows[2]["file_name"] = ""
    pets.write()
    with pytest.raises(UserError, match=r"1 rows have no image in the column file_name \(row 3\)"):
        pets.load()


def test_splits_in_any_spelling(pets):
    pets.write()
    expected = pets.load()
    spelled = {"train": "Training", "val": "dev", "test": "TEST"}
    pets.write(rows=[{**row, "split": spelled[row["split"]]} for row in pets.rows])
    assert pets.load().digest == expected.digest
    assert len(expected.validation) == 6


def test_split_values_that_cannot_be(pets):
    pets.rows[4]["split"] = "tset"
    pets.write()
    with pytest.raises(
        UserError, match=r"split of row 5 is tset in .*split, which(.|\n)*did you mean tst, test"
    ):
        pets.load()
    pets.rows[4]["split"] = ""
    pets.write()
    with pytest.raises(UserError, match=r"1 rows with a label have no split .*\(row 5\)"):
        pets.load()
    pets.write(rows=[{**row, "split": "test"} for row in pets.rows])
    with pytest.raises(UserError, match="no row of the column split is for training"):
        pets.load()


def test_folds_are_named(pets):
    rows = [{**row, "fold": index % 5} for index, row in enumerate(pets.rows)]
    for row in rows:
        del row["split"]
    pets.write(rows=rows)
    with pytest.raises(UserError, match=r"number names a fold.*\n.*--split-column fold:test=0"):
        pets.load()
    found = pets.load(columns={"split": "fold:test=4,val=3"})
    assert list(found.test.ids) == [row["file_name"] for row in rows if row["fold"] == 4]
    assert list(found.validation.ids) == [row["file_name"] for row in rows if row["fold"] == 3]
    assert len(found.train) == 24 - len(found.test) - len(found.validation)
    with pytest.raises(UserError, match="'4' is not SPLIT=VALUE"):
        pets.load(columns={"split": "fold:4"})
    with pytest.raises(UserError, match="other is no split; give test or val"):
        pets.load(columns={"split": "fold:other=4"})
    with pytest.raises(UserError, match=r"folt:test=4: .* no such column"):
        pets.load(columns={"split": "folt:test=4"})


def test_a_class_that_is_only_tested(pets):
    for row in pets.rows[-2:]:
        row["label"] = "owl"
    pets.write()
    with pytest.raises(UserError, match=r"test split has classes of .*label .*: owl \(such as"):
        pets.load()
    assert pets.load(drop_class=("owl",)).class_names == ("cat", "dog", "newt")


def test_validation_without_a_test_split(pets, capsys):
    rows = [row for row in pets.rows if row["split"] != "test"]
    pets.write(rows=rows)
    found = pets.load()
    assert (len(found.test), found.validation) == (6, None)
    assert "its validation split is the test split" in capsys.readouterr().err
    held = pets.load(test_fraction=0.25)
    assert (len(held.train), len(held.test), len(held.validation)) == (9, 3, 6)


def test_repeated_rows(pets, capsys):
    pets.write(rows=[*pets.rows, pets.rows[2], pets.rows[20]])
    found = pets.load()
    assert (len(found.train), len(found.test)) == (12, 6)
    assert "2 rows name an image a second time" in capsys.readouterr().err
    other = {**pets.rows[2], "label": "dog"}
    pets.write(rows=[*pets.rows, other])
    with pytest.raises(UserError) as caught:
        pets.load()
    assert "1 images have rows with different labels" in str(caught.value)
    assert "train/cat/2.png: row 3 cat, row 25 dog" in str(caught.value)
    # An image without a label, and once more with it.
    pets.write(rows=[{**pets.rows[2], "label": ""}, *pets.rows])
    assert pets.load().unlabelled is None


def test_groups(pets):
    pets.write(rows=rows_of(pets, patient=lambda i: f"p{i // 2 + 1}"))
    found = pets.load(**HALF)
    assert found.group_names == tuple(sorted(f"p{i}" for i in range(1, 13)))
    for split in (found.train, found.test):
        for name, group in zip(split.ids, split.groups, strict=True):
            row = [row["file_name"] for row in pets.rows].index(name)
            assert found.group_names[group] == f"p{row // 2 + 1}"
    assert not set(found.train.groups) & set(found.test.groups)
    assert "shared_groups" not in found.origin
    pets.write(rows=rows_of(pets, patient=lambda i: "" if i in (3, 9) else "p"))
    with pytest.raises(UserError, match=r"2 rows with a label have no group .*\(row 4, row 10\)"):
        pets.load(**HALF)


def test_groups_that_cannot_be_split(pets):
    pets.write(rows=rows_of(pets, patient=lambda i: "one"))
    with pytest.raises(UserError, match=r"1 group, none of which can be held out"):
        pets.load(**HALF)
    pets.write(rows=rows_of(pets, patient=lambda i: pets.rows[i]["label"]))
    with pytest.raises(UserError, match=r"3 groups, none of which can be held out"):
        pets.load(**HALF)


def test_weights(pets):
    pets.write(rows=rows_of(pets, weight=lambda i: i / 4))
    found = pets.load(**HALF)
    for split in (found.train, found.test):
        names = [row["file_name"] for row in pets.rows]
        np.testing.assert_array_equal(split.weights, [names.index(n) / 4 for n in split.ids])
    bad = {
        r"1 rows is negative in the column weight: row 5 \(-1\)": -1,
        r"1 rows is no number in the column weight: row 5 \(nan\)": "nan",
        r"1 rows is no number in the column weight: row 5 \(inf\)": "inf",
        r"1 rows is no number in the column weight: row 5 \(heavy\)": "heavy",
        r"1 rows is no number in the column weight: row 5 \(empty\)": "",
    }
    for message, value in bad.items():
        pets.write(rows=rows_of(pets, weight=lambda i, value=value: value if i == 4 else 1))
        with pytest.raises(UserError, match=message):
            pets.load(**HALF)
    pets.write(rows=rows_of(pets, weight=lambda i: 0))
    with pytest.raises(UserError, match="every weight of the column weight is 0"):
        pets.load(**HALF)


def test_what_splits_share_is_reported(pets, capsys):
    for index, row in enumerate(pets.rows):
        row["patient"] = f"p{index % 12:02}"
    twin = pets.root / pets.rows[0]["file_name"]
    (pets.root / pets.rows[-1]["file_name"]).write_bytes(twin.read_bytes())
    pets.write()
    found = pets.load()
    said = capsys.readouterr().err
    shared = found.origin["shared_groups"]
    assert shared["count"] == 12
    assert shared["first"] == ["p00", "p01", "p02"]
    assert shared["between"] == {"train and test": 6, "train and validation": 6}
    assert "warning: 12 groups are in more than one split (6 between train and test; " in said
    assert found.origin["shared_images"] == {
        "count": 1, "first": ["test/newt/1.png"], "between": {"train and test": 1},
    }  # fmt: skip
    assert "1 identical images are in more than one split" in said
