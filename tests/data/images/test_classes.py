"""Classes named, put together and left out, of any data set."""

from __future__ import annotations

import numpy as np
import pytest

from data.common.errors import UserError
from data.dataset import load_dataset
from data.images.arrays import ArrayImages, RawDataset, Split
from data.images.classes import with_classes


def split(labels):
    labels = np.array(labels, np.int64)
    pixels = np.arange(len(labels) * 12, dtype=np.uint8).reshape(-1, 2, 2, 3)
    return Split(ArrayImages(pixels), labels, tuple(f"r{i}" for i in range(len(labels))))


@pytest.fixture
def raw():
    return RawDataset(
        "made",
        ("0", "1", "2"),
        split([0, 1, 2, 0, 1, 2]),
        split([2, 1, 0]),
        {"path": "made"},
        validation=split([1, 1, 2]),
        unlabelled=split([-1, -1]),
    )


def named(raw, part="train"):
    found = raw.splits[part]
    labels = [raw.class_names[label] for label in found.labels]
    return list(zip(found.ids, labels, strict=True))


def test_names_of_a_file(raw, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("cat\ndog\nnewt\nowl\n\n")
    found = with_classes(raw, file)
    assert found.class_names == ("cat", "dog", "newt")
    assert named(found)[:3] == [("r0", "cat"), ("r1", "dog"), ("r2", "newt")]
    assert found.unlabelled.labels.tolist() == [-1, -1]
    # Of classes that have names, the file gives the order.
    file.write_text("newt\nowl\ncat\ndog\n")
    again = with_classes(found, file)
    assert again.class_names == ("newt", "cat", "dog")
    assert named(again) == named(found)


@pytest.mark.parametrize(
    "text, said",
    [
        ("a\nb\n", "has 2 lines, for the labels 0 to 1, and made has the label 2"),
        ("a\n\nb\nc\n", "has an empty line"),
        ("a\nb\na\n", "has a twice"),
        (b"\xff", "it is not in UTF-8"),
        (None, "No such file"),
    ],
)
def test_files_of_names_that_cannot_be(raw, tmp_path, text, said):
    file = tmp_path / "names.txt"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said):
        with_classes(raw, file)


def test_a_name_that_the_file_lacks(raw, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("cat\ndog\nnewt")
    found = with_classes(raw, file)
    file.write_text("cats\ndog\nnewt")
    with pytest.raises(UserError, match=r"does not list the class cat .*did you mean cats"):
        with_classes(found, file)


def test_merging(raw):
    found = with_classes(raw, None, ["even=0,2"])
    assert found.class_names == ("even", "1")
    assert found.train.labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert found.validation.labels.tolist() == [1, 1, 0]
    assert found.train.ids == raw.train.ids
    # Into a class that there is, and several at once.
    assert with_classes(raw, None, ["1=2"]).class_names == ("0", "1")
    assert with_classes(raw, None, ["a=1", "b=0,2"]).class_names == ("b", "a")


@pytest.mark.parametrize("word", ["a", "a=", "=b", "a=0,,1"])
def test_merges_that_say_nothing(raw, word):
    with pytest.raises(UserError, match="give NEW=CLASS,CLASS"):
        with_classes(raw, None, [word])


def test_merges_and_drops_of_nobody(raw):
    with pytest.raises(UserError, match=r"--merge-classes 7: made has no such class; it has 0, 1"):
        with_classes(raw, None, ["a=0,7"])
    with pytest.raises(UserError, match=r"--drop-class 7: made has no such class"):
        with_classes(raw, None, (), ["7"])
    with pytest.raises(UserError, match="0 is already a part of a"):
        with_classes(raw, None, ["a=0,1", "b=0"])


def test_dropping(raw):
    found = with_classes(raw, None, (), ["1"])
    assert found.class_names == ("0", "2")
    assert named(found) == [("r0", "0"), ("r2", "2"), ("r3", "0"), ("r5", "2")]
    np.testing.assert_array_equal(found.train.images.array, raw.train.images.array[[0, 2, 3, 5]])
    assert found.test.ids == ("r0", "r2")
    assert found.validation.ids == ("r2",)
    merged = with_classes(raw, None, ["even=0,2"], ["even"])
    assert merged.class_names == ("1",)


def test_of_a_built_in_data_set(tmp_path):
    found = load_dataset(
        "digits", data_dir=tmp_path, merge_classes=("low=0,1,2",), drop_class=("9",)
    )
    assert found.class_names == ("low", "3", "4", "5", "6", "7", "8")
    whole = load_dataset("digits", data_dir=tmp_path)
    assert (found.train.labels == 0).sum() == (whole.train.labels < 3).sum()
    assert len(found.test) == (whole.test.labels < 9).sum()
    assert found.digest != whole.digest
