"""Stores of every schema version that was ever released are read by every later Icebox."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from data.format.schema import READERS, SCHEMA_VERSION
from data.reading import iter_blocks, open_features, verify_store

HERE = Path(__file__).parent
# With the moments of each class, which readers skip, and without them, as written since.
FROZEN = {
    "schema-1": "e7010ec45ddd7175c12ade3a91692fa1e25a952a597c87b67116948cf2bff965",
    "schema-1-without-moments": "34d4b3401810e58463a0d7ec120b57431316e387802c756cf4f93fe685742858",
}


def script(version):
    spec = importlib.util.spec_from_file_location("made", HERE / f"make_schema_{version}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_a_frozen_file_and_a_reader_for_every_version():
    assert sorted({int(name.split("-")[1]) for name in FROZEN}) == sorted(READERS)
    assert sorted(READERS) == list(range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize("name", FROZEN)
def test_the_frozen_file_was_not_made_anew(name):
    content = (HERE / f"{name}.h5").read_bytes()
    assert hashlib.sha256(content).hexdigest() == FROZEN[name]


@pytest.mark.parametrize("name", FROZEN)
def test_schema_1(name):
    path, made = HERE / f"{name}.h5", script(1)
    found = open_features(path)
    assert found.schema_version == 1
    assert found.key == "dc280f1bc01f20a26e200e4cdcb9f927d9a5526003dfdaad40eff34ccd33f7bb"
    assert found.spec == made.SPEC
    assert found.class_names == made.CLASS_NAMES
    assert found.request == {"options": {"model": "test_model"}, "schema": 1}
    assert found.provenance["skipped_images"] == ["train/ä-2.png", "test/ä-2.png"]
    for split, n, first in ((found.train, made.N_TRAIN, 0), (found.test, made.N_TEST, 5)):
        ok = np.arange(n) != 2
        np.testing.assert_array_equal(split.features, made.rows(n, first)[ok])
        np.testing.assert_array_equal(split.labels, (np.arange(n) % 3)[ok])
    assert found.train.ids == [f"train/ä-{n}.png" for n in range(24) if n != 2]
    assert found.test.ids == ["test/ä-0.png", "test/ä-1.png", "test/ä-3.png"]
    assert verify_store(path).sealed
    assert {d.name.split("/")[-1] for d in verify_store(path).datasets} == {
        "features", "labels", "ids",
    }  # fmt: skip
    assert sum(len(block) for block, _ in iter_blocks(path, "train", 5)) == 23


OPTIONAL = HERE / "schema-1-with-optional-parts.h5"
OPTIONAL_SHA256 = "e4f6f827957392328012c202de37278e84d6dcbb09b68c696bda7d2328652d7c"


def test_optional_parts_of_schema_1():
    assert hashlib.sha256(OPTIONAL.read_bytes()).hexdigest() == OPTIONAL_SHA256
    found, made = open_features(OPTIONAL), script(1)
    assert found.sizes == {name: n - 1 for name, n in made.OPTIONAL.items()}
    assert found.group_names == made.GROUP_NAMES
    for name, n in made.OPTIONAL.items():
        ok = np.arange(n) != 2
        split = found.splits[name]
        np.testing.assert_array_equal(split.features, made.rows(n, n)[ok])
        expected = np.full(n, -1) if name == "unlabelled" else np.arange(n) % 3
        np.testing.assert_array_equal(split.labels, expected[ok])
        for column, values in made.columns(n).items():
            np.testing.assert_array_equal(getattr(split, column), values[ok])
    assert verify_store(OPTIONAL).sealed
