"""Names, limits and digests: what every source has in common."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.common.errors import UserError
from data.dataset import dataset_name, load_dataset, source_fingerprint
from data.images.arrays import ArrayImages, Split
from data.images.digests import digest_dataset
from data.images.sampling import hold_out, stratified_subset


def draw_labels(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels).astype(np.int64)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3) | st.integers(1, 500), min_size=1, max_size=12),
    share=st.floats(0, 1.2),
    seed=st.integers(0, 5),
)
def test_subset_is_stratified(sizes, share, seed):
    labels = draw_labels(sizes)
    limit = max(1, round(share * len(labels)))
    rows = stratified_subset(labels, limit, seed)
    assert len(rows) == min(limit, len(labels))
    assert np.all(np.diff(rows) > 0)  # order kept, no row twice
    counts = np.bincount(labels[rows], minlength=len(sizes))
    assert np.all(counts <= sizes)
    exact = np.array(sizes) * len(rows) / len(labels)
    if limit >= len(sizes):
        assert counts.min() >= 1
        # A class gets its share to within a row, less where small classes got their one row.
        assert np.all(counts <= np.maximum(np.ceil(exact), 1))
        if exact.min() >= 1:
            assert np.all(counts >= np.floor(exact))
    else:
        assert np.all(np.abs(counts - exact) < 1)
    np.testing.assert_array_equal(rows, stratified_subset(labels, limit, seed))


def test_subset_pays_for_small_classes_from_large_ones():
    labels = draw_labels([1000, 100, 1, 1, 1])
    counts = np.bincount(labels[stratified_subset(labels, 10)])
    assert counts.tolist() == [6, 1, 1, 1, 1]


def test_subset_is_frozen():
    """These rows are in people's stores: the choice must never change."""
    labels = np.arange(40, dtype=np.int64) % 4
    assert stratified_subset(labels, 8).tolist() == FROZEN
    assert stratified_subset(labels, 8, seed=1).tolist() != FROZEN


FROZEN = [2, 3, 11, 13, 18, 20, 21, 32]


def test_subset_is_spread_over_the_rows():
    labels = np.zeros(10_000, np.int64)
    rows = stratified_subset(labels, 1000)
    assert 4700 < rows.mean() < 5300


@given(st.integers(1, 50), st.floats(0.01, 0.99), st.integers(0, 3))
def test_hold_out_depends_on_names_alone(count, fraction, seed):
    names = [f"cats/{index:03}.jpg" for index in range(count)]
    held = hold_out(names, fraction, seed)
    backwards = hold_out(names[::-1], fraction, seed)
    np.testing.assert_array_equal(held, backwards[::-1])
    if count == 1:
        assert not held.any()
    else:
        assert 1 <= held.sum() <= count - 1
        assert abs(held.sum() - fraction * count) <= 1


def test_hold_out_seed_matters():
    names = [str(index) for index in range(100)]
    assert (hold_out(names, 0.5, 0) != hold_out(names, 0.5, 1)).any()


def test_limit_applies_to_both_splits(tmp_path):
    small = load_dataset("digits", data_dir=tmp_path, limit=100)
    assert len(small.train) == len(small.train.images) == len(small.train.labels) == 100
    assert len(small.test) == 25  # ceil(100 * 355 / 1442)
    assert small.limit == 100
    assert set(small.train.labels) == set(small.test.labels) == set(range(10))
    again = load_dataset("digits", data_dir=tmp_path, limit=100, seed=5)
    assert again.digest == small.digest
    assert again.train.ids == small.train.ids
    whole = load_dataset("digits", data_dir=tmp_path)
    rows = [whole.train.ids.index(name) for name in small.train.ids]
    np.testing.assert_array_equal(whole.train.labels[rows], small.train.labels)
    np.testing.assert_array_equal(whole.train.images.array[rows], small.train.images.array)
    assert whole.digest != small.digest


def test_limit_of_one_a_class_still_tests_every_class(tmp_path):
    small = load_dataset("digits", data_dir=tmp_path, limit=10)
    assert np.bincount(small.train.labels).tolist() == [1] * 10
    assert np.bincount(small.test.labels).tolist() == [1] * 10


def test_limit_beyond_the_data_is_no_limit(tmp_path):
    whole = load_dataset("digits", data_dir=tmp_path)
    more = load_dataset("digits", data_dir=tmp_path, limit=1442)
    assert more.digest == whole.digest
    assert more.limit is None


@pytest.mark.parametrize(
    "limit, message",
    [(0, "--limit 0 is not possible"), (-3, "--limit -3"), (9, "each of the 10 classes")],
)
def test_limits_that_cannot_be(tmp_path, limit, message):
    with pytest.raises(UserError, match=message):
        load_dataset("digits", data_dir=tmp_path, limit=limit)


@pytest.mark.parametrize("name, hint", [("cifar1", "cifar10"), ("digit", "digits")])
def test_unknown_dataset_names_the_nearest(tmp_path, name, hint):
    with pytest.raises(UserError) as caught:
        load_dataset(name, data_dir=tmp_path)
    message = str(caught.value)
    assert repr(name) in message
    assert f"did you mean {hint}" in message
    assert "no folder of that name" in message


@pytest.mark.parametrize("name", ["", "no/such/folder"])
def test_unknown_folder(tmp_path, name):
    for ask in (lambda: dataset_name(name), lambda: source_fingerprint(name, data_dir=tmp_path)):
        with pytest.raises(UserError, match="unknown dataset"):
            ask()


def test_file_instead_of_a_folder(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        load_dataset(str(tmp_path / "x.tar.gz"), data_dir=tmp_path)


def test_options_of_other_datasets_are_refused(tmp_path):
    folder = str(tmp_path)
    for name in ("digits", folder):
        with pytest.raises(UserError, match="--data-url is for cifar10"):
            load_dataset(name, data_dir=tmp_path, data_url="http://x")
        with pytest.raises(UserError, match="--data-sha256 is for cifar10"):
            load_dataset(name, data_dir=tmp_path, data_sha256="0" * 64)
    for name in ("digits", "cifar10", "cifar100"):
        with pytest.raises(UserError, match="--test-fraction is for data"):
            load_dataset(name, data_dir=tmp_path, test_fraction=0.2)
    for fraction in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            load_dataset(folder, data_dir=tmp_path, test_fraction=fraction)


@pytest.mark.parametrize(
    "folder, name",
    [
        ("flowers", "flowers"),
        ("My photos (2)", "My-photos-2"),
        ("cifar10", "cifar10-folder"),
        (".hidden", "hidden"),
        ("цветы", "цветы"),
        ("(((", "folder"),
    ],
)
def test_dataset_name_of_a_folder(tmp_path, folder, name, monkeypatch):
    (tmp_path / folder).mkdir()
    assert dataset_name(str(tmp_path / folder)) == name
    monkeypatch.chdir(tmp_path / folder)
    assert dataset_name(".") == name


def test_built_in_name_wins_over_a_folder(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert dataset_name("digits") == "digits"
    assert source_fingerprint("digits", data_dir=tmp_path)["path"] == "scikit-learn"
    assert dataset_name("./digits") == "digits-folder"


def digest_rows(names, train, test):
    return digest_dataset(names, (), {"train": train, "test": test})


def small_split(seed=0, ids=("a", "b")):
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    return Split(ArrayImages(array), np.array([0, 1]), ids)


def test_digest_tells_everything_apart():
    """Each field, its boundaries and its place count."""
    base, other = small_split(), small_split(1)
    flipped = base.images.array.copy()
    flipped[1, 3, 5, 2] ^= 1
    reshaped = ArrayImages(base.images.array.reshape(2, 6, 4, 3))
    variants = [
        (("x", "y"), base, other),
        (("x", "z"), base, other),
        (("xy", ""), base, other),
        (("x", "y", ""), base, other),
        (("x", "y"), other, base),
        (("x", "y"), Split(base.images, np.array([1, 0]), base.ids), other),
        (("x", "y"), Split(base.images, base.labels, ("a", "c")), other),
        (("x", "y"), Split(base.images, base.labels, ("ab", "")), other),
        (("x", "y"), Split(base.images, base.labels, ("", "ab")), other),
        (("x", "y"), Split(ArrayImages(flipped), base.labels, base.ids), other),
        (("x", "y"), Split(reshaped, base.labels, base.ids), other),
        (("x", "y"), base.take(np.array([0])), other),
        (("x", "y"), base.take(np.array([1, 0])), other),
        (("x", "y"), base, other.take(np.array([0]))),
    ]
    digests = [digest_rows(*variant) for variant in variants]
    assert len(set(digests)) == len(variants)
    assert digest_rows(*variants[0]) == digests[0]


def test_digest_does_not_depend_on_the_memory_layout():
    base = small_split()
    strided = ArrayImages(np.asfortranarray(base.images.array))
    again = Split(strided, base.labels.astype(">i8"), base.ids)
    names = ("x", "y")
    assert digest_rows(names, again, base) == digest_rows(names, base, base)


def test_digest_is_frozen():
    """A store names its dataset by this digest: another way to compute it loses every store."""
    assert digest_rows(("x", "y"), small_split(), small_split(1)) == DIGEST


DIGEST = "e7c46bae335871ba79b96bcf0e7edfb33b1a81208e406f0384f809e5d998d641"


def test_splits_must_be_consistent():
    with pytest.raises(ValueError, match="2 images, 1 labels"):
        Split(small_split().images, np.array([0]), ("a", "b"))
    with pytest.raises(TypeError, match="uint8"):
        ArrayImages(np.zeros((2, 4, 4, 3), np.float32))


def test_origin_is_json_and_a_dataset_can_be_sent_to_a_process(tmp_path):
    dataset = load_dataset("digits", data_dir=tmp_path, limit=20)
    assert json.loads(json.dumps(dataset.origin)) == dataset.origin
    sent = pickle.loads(pickle.dumps(dataset))
    assert sent.digest == dataset.digest
    np.testing.assert_array_equal(sent.test.images.array, dataset.test.images.array)
