"""The rows of some classes: those that picking them by hand out of the whole store gives."""

import numpy as np
import pytest

from data.chosen_classes import keep_classes, open_classes, parse_classes
from data.common.errors import UserError
from data.format.records import SplitSource
from data.reading import open_features
from data.writing import join

NAMES = ("ant", "bee", "cat", "dog")


def write(path, dtype="float32", without=()):
    """Write a store whose classes come in no order, with groups and weights."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, n in (("train", 60), ("validation", 20), ("test", 24)):
        labels = rng.permutation(np.arange(n) % 4)
        labels = labels[~np.isin(labels, [c for s, c in without if s == split])]
        n = len(labels)
        X = rng.normal(size=(n, 5)).astype(dtype)
        splits[split] = SplitSource(
            labels, [f"{split}:{i}" for i in range(n)], [(X, np.ones(n, bool))],
            rng.integers(0, 6, n), rng.uniform(0.5, 2, n), rng.integers(0, 256, (n, 32), np.uint8),
        )  # fmt: skip
    join(
        path, spec={"store_dtype": dtype}, request={}, provenance={}, class_names=NAMES,
        splits=splits, group_names=[f"g{i}" for i in range(6)],
    )  # fmt: skip
    return path


@pytest.mark.parametrize("wanted", [("dog", "bee"), ("bee", "dog"), ("dog", "ant", "bee")])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_rows_of_the_classes_alone_are_kept_with_all_that_belongs_to_them(
    tmp_path, wanted, dtype, in_memory
):
    path = write(tmp_path / "s.h5", dtype)
    whole, kept = open_features(path), open_classes(path, wanted, in_memory=in_memory)
    # Of two the order is the user's, of more the store's.
    names = wanted if len(wanted) == 2 else tuple(n for n in NAMES if n in wanted)
    assert kept.class_names == kept.kept_classes == names
    assert kept.key == whole.key and kept.group_names == whole.group_names
    for name in ("train", "validation", "test"):
        old, new = getattr(whole, name), getattr(kept, name)
        rows = [i for i, label in enumerate(old.labels) if NAMES[label] in wanted]
        X = new.features if in_memory else new.features.read(0, len(new))
        assert isinstance(new.features, np.ndarray) == in_memory
        np.testing.assert_array_equal(X, old.features[rows].astype(np.float32))
        assert [names[i] for i in new.labels] == [NAMES[old.labels[i]] for i in rows]
        assert new.ids == [old.ids[i] for i in rows]
        np.testing.assert_array_equal(new.groups, old.groups[rows])
        np.testing.assert_array_equal(new.weights, old.weights[rows])
        np.testing.assert_array_equal(new.image_sha256, old.image_sha256[rows])
        np.testing.assert_array_equal(new.rows, rows)
        assert kept.sizes[name] == len(rows)


def test_rows_on_the_disk_are_read_as_any_others(tmp_path):
    path = write(tmp_path / "s.h5")
    rows = open_classes(path, ("ant", "cat"), in_memory=False).train.features
    expected = open_classes(path, ("ant", "cat")).train.features
    assert rows.shape == expected.shape == (len(rows), 5) and rows.nbytes == expected.nbytes
    out = np.empty((7, 5), np.float32)
    assert rows.read(3, 10, out) is out
    np.testing.assert_array_equal(out, expected[3:10])
    assert rows.read(4, 4).shape == (0, 5)
    some = np.array([5, 0, 5, 20])
    np.testing.assert_array_equal(rows.gather(some), expected[some])
    with pytest.raises(IndexError, match="of 30"):
        rows.read(0, 31)


def test_all_rows_are_verified_not_only_those_that_are_kept(tmp_path):
    path = write(tmp_path / "s.h5")
    other = open_features(path, in_memory=False)
    row = int(np.flatnonzero(other.train.labels == 3)[0])
    content = bytearray(path.read_bytes())
    at = content.index(other.train.features.read(row, row + 1).tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="train"):
        open_classes(path, ("ant", "bee"))


@pytest.mark.parametrize(
    ("text", "names"),
    [("cat,dog", ("cat", "dog")), (' cat , "a, b"', ("cat", "a, b")), ("é,ß,x", ("é", "ß", "x"))],
)
def test_names_are_separated_by_commas(text, names):
    assert parse_classes(text) == names


@pytest.mark.parametrize(
    ("text", "why"),
    [("cat", "one class"), ("", "empty"), ("cat,,dog", "empty class; name each once: --classes"),
     ("cat,dog,cat", "'cat' twice"), ("cat,cat", "such as"), ('"cat,dog', "no list of names")],
)  # fmt: skip
def test_what_is_no_list_of_classes_is_refused(text, why):
    with pytest.raises(UserError, match=why):
        parse_classes(text)


def test_classes_that_are_not_there_are_named_with_the_nearest(tmp_path):
    features = open_features(write(tmp_path / "s.h5"))
    with pytest.raises(UserError) as caught:
        keep_classes(features, ("bees", "cat", "zebra"))
    told = str(caught.value)
    assert "'bees': did you mean bee" in told and "'zebra': nothing like it" in told
    assert "s.h5" in told and "ant, bee, cat, dog" in told and "\n" not in told


@pytest.mark.parametrize(("split", "called"), [("train", "training"), ("test", "test")])
def test_a_class_without_rows_to_fit_or_to_judge_is_refused(tmp_path, split, called):
    features = open_features(write(tmp_path / "s.h5", without=[(split, 2)]))
    with pytest.raises(UserError, match=f"no {called} rows of cat"):
        keep_classes(features, ("bee", "cat"))
