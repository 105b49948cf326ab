"""No changed setting meets the wrong cache: every field of `spec` and every option is covered."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from pathlib import Path

import pytest
from fault_world import DIGITS, TINY, call, save_image
from hypothesis import given, settings
from hypothesis import strategies as st

from data.format.spec import SPEC_SHAPE, spec_key
from data.reading import read_header, verify_store
from extract.options import Options

SPEC = {
    "dataset": {"name": "digits", "digest": "0" * 64, "limit": None},
    "model": {"name": "m", "args": {}, "weights": {"source": "random", "digest": "1" * 64}},
    "preprocessing": {
        "image_size": 32, "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic",
        "antialias": True, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    },
    "pool": "default", "precision": "fp32", "store_dtype": "float32", "seed": 0,
}  # fmt: skip

# Only models with a configuration of their own (tests/extract/model/test_sources.py), and what is
# said of image files alone, where it is not the default (tests/extract/test_decoding.py).
# A layer, only where one is named (tests/extract/test_several_features.py).
OPTIONAL = {
    *(("model", "config"), ("preprocessing", "decode"), ("dataset", "max_pixels"), ("layer",)),
}

# Every option of a run. What an option in IN_THE_SPEC does is in the spec under the name beside
# it; the others decide where, when or how fast, and tests show that they leave the rows alone.
IN_THE_SPEC = {
    "dataset": None,  # its name, and the digest of the rows: tests/data/test_dataset.py
    "limit": {"limit": 20},
    "test_fraction": None,  # the digest of the rows: tests/data/images/test_folder.py
    "merge_classes": {"merge_classes": ("low=0,1",)},
    "drop_class": {"drop_class": ("9",)},
    "class_names_file": None,  # the digest of the names: tests/data/images/test_classes.py
    "columns": None,  # the digest of the rows: tests/data/images/tables/test_columns.py
    "image_root": None,  # the same
    "given": None,  # the digest of the rows: tests/extract/test_from_python.py
    "decode": None,  # of image files: tests/extract/test_decoding.py
    "max_pixels": None,  # of those, where it decides which rows there are: the same
    "model": {"model": "test_convnext"},
    "weights": None,  # their digest: tests/extract/test_run.py
    "model_args": {"model_args": {"drop_rate": 0.5}},
    "image_size": {"image_size": 40},
    "pool": {"pool": "avg"},
    "layer": {"layer": "-2"},
    "crop_pct": {"crop_pct": 0.5},
    "interpolation": {"interpolation": "bilinear"},
    "mean": {"mean": (0.1, 0.2, 0.3)},
    "std": {"std": (0.1, 0.2, 0.3)},
    "precision": {"precision": "bf16"},
    "store_dtype": {"store_dtype": "float16"},
    "seed": {"seed": 1},
}
WITHOUT_EFFECT = {
    "data_dir": "the digest is of the rows, wherever they lie",
    "data_url": "the same",
    "data_sha256": "the same",
    "skip_bad_images": "a store without some rows is not given to a run that did not ask for it",
    "device": "its precision is in the spec; fp32 agrees to rounding (test_embed.py)",
    "engine": "fp32 agrees to rounding (engines/test_build.py), and others are refused",
    "compile": "chooses the engine, and is refused where it contradicts --engine",
    "batch_size": "a row does not depend on its batch (test_run.py: to rounding)",
    "jobs": "test_what_may_not_change_the_numbers_does_not",
    "cluster": "the same bits: tests/extract/cluster/test_coordinator.py",
    "scheduler": "the same",
    "address": "the same",
    "join": "where the rows lie: tests/data/test_virtual.py",
    "features_dir": "where the store goes",
    "dry_run": "computes nothing",
    "force": "test_what_may_not_change_the_numbers_does_not",
}


def leaves(value, path=()):
    """Yield the path of every value of nested dicts and lists, and of the dicts themselves."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, (dict, list)):
            yield from leaves(inner, (*path, key))
        else:
            yield (*path, key)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(path=st.sampled_from(list(leaves(SPEC))), value=VALUES)
def test_every_field_that_changes_changes_the_key(path, value):
    changed = copy.deepcopy(SPEC)
    node = changed
    for step in path[:-1]:
        node = node[step]
    same = type(node[path[-1]]) is type(value) and node[path[-1]] == value
    node[path[-1]] = value
    assert (spec_key(changed) == spec_key(SPEC)) == same


def test_the_spec_above_is_the_specs_shape(world):
    # A sum's list of its stores' specs is in no store: its key is that of their keys.
    of_a_store = {name: shape for name, shape in SPEC_SHAPE.items() if name != "parts~"}
    assert {tuple(n.rstrip("~") for n in p) for p in leaves(of_a_store)} - OPTIONAL == {
        p for p in leaves(SPEC) if not isinstance(p[-1], int)
    }
    real = read_header(world["store"]).spec
    assert set(leaves(real)) == set(leaves(SPEC))


def test_every_option_is_accounted_for():
    names = {field.name for field in fields(Options)}
    assert set(IN_THE_SPEC) | set(WITHOUT_EFFECT) == names
    assert not set(IN_THE_SPEC) & set(WITHOUT_EFFECT)


def spec_of(options):
    from extract.request import Request
    from extract.shards.job import prepare, read_dataset

    return prepare(options, Request(options), read_dataset(options)).spec


BASE = Options(
    dataset="digits", limit=40, model="test_efficientnet", weights="random", image_size=32
)


@pytest.mark.parametrize("name", [name for name, change in IN_THE_SPEC.items() if change])
def test_an_option_that_changes_the_numbers_changes_the_key(name):
    base = replace(BASE, limit=None) if name == "limit" else BASE
    changed = replace(base, **IN_THE_SPEC[name])
    assert spec_key(spec_of(changed)) != spec_key(spec_of(base))


def rows_of(path):
    return {entry.name: entry.sha256 for entry in verify_store(path).datasets}


def run(features, *more, options=DIGITS):
    done = call(["extract", *options, f"--features-dir={features}", *more])
    assert done.code == 0, done.err
    return Path(done.out.strip())


def test_what_may_not_change_the_numbers_does_not(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/b"):
        for number in range(5):
            save_image(tmp_path / "images" / name / f"{number}.png", 40 * number + len(name))
    options = [f"--dataset={tmp_path}/images", *TINY]
    first = run(tmp_path / "one", options=options)
    wanted = rows_of(first)
    assert rows_of(run(tmp_path / "two", "--jobs=3", options=options)) == wanted
    assert rows_of(run(tmp_path / "one", "--force", options=options)) == wanted
    assert rows_of(run(tmp_path / "three", f"--data-dir={tmp_path}", options=options)) == wanted
