"""The bundled digits: complete, in order, split the same way everywhere."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.datasets import load_digits

from data.dataset import load_dataset, source_fingerprint, source_sha256


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_dataset("digits", data_dir=tmp_path_factory.mktemp("unused"))


def test_every_image_is_in_one_split_under_its_number(digits):
    bunch = load_digits()
    seen = {}
    for split in (digits.train, digits.test):
        for row, name in enumerate(split.ids):
            prefix, number = name.split(":")
            assert prefix == "digits"
            seen[int(number)] = (split.labels[row], split.images.array[row])
    assert sorted(seen) == list(range(1797))
    assert len(digits.train) + len(digits.test) == 1797
    labels = np.array([seen[number][0] for number in range(1797)])
    pixels = np.stack([seen[number][1] for number in range(1797)])
    np.testing.assert_array_equal(labels, bunch.target)
    assert pixels.shape == (1797, 8, 8, 3)
    for channel in range(3):
        levels = bunch.images * 255 / 16
        assert np.abs(pixels[..., channel] - levels).max() <= 0.5
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_split_is_stratified_and_fixed(digits):
    assert (len(digits.train), len(digits.test)) == (1442, 355)
    train, test = np.bincount(digits.train.labels), np.bincount(digits.test.labels)
    np.testing.assert_array_equal(test, (train + test) // 5)
    assert digits.class_names == tuple("0123456789")
    # scikit-learn ships 0 to 9 thrice and then 0 9 5 5: row 33 is the fifth 5.
    assert digits.test.ids[:4] == ("digits:33", "digits:36", "digits:37", "digits:40")


def test_seed_does_not_change_it(digits, tmp_path):
    assert load_dataset("digits", data_dir=tmp_path, seed=7).digest == digits.digest


def test_fingerprint_is_the_version_and_the_file(digits, tmp_path):
    version = importlib.metadata.version("scikit-learn")
    assert source_fingerprint("digits", data_dir=tmp_path) == {
        "path": "scikit-learn",
        "stat": version,
    }
    file = Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz"
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert source_sha256("digits", data_dir=tmp_path) == expected
    assert digits.origin["sha256"] == expected
    assert digits.origin["version"] == version
