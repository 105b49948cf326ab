"""Stores side by side: the columns of each by ids, in memory and on the disk; what is refused."""

import json
import os
import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from data.common.errors import UserError
from data.exchange.exporting import export_store
from data.format.records import SplitSource
from data.format.sums import absolute_store, sum_parts
from data.reading import open_features, read_header
from data.writing import join

NAMES = ("ant", "bee", "cat")
SIZES = {"train": 120, "test": 40, "validation": 30}


def write(path, *, model="one", width=5, dtype="float32", seed=0, change=None, shuffle=False):
    """Write a store of made rows; `change` may replace the columns of a split before it is kept."""
    rng = np.random.default_rng(seed)
    splits = {}
    for split, rows in SIZES.items():
        columns = {
            "ids": [f"{split}/{row}.png" for row in range(rows)],
            "labels": np.arange(rows) % 3,
            "groups": np.arange(rows) // 4,
            "weights": 1.0 + np.arange(rows) % 2,
            "image_sha256": np.arange(rows * 32).reshape(rows, 32).astype(np.uint8),
            "features": rng.normal(size=(rows, width)).astype(dtype),
        }
        columns = columns if change is None else change(split, columns)
        if columns is None:
            continue
        order = rng.permutation(len(columns["ids"])) if shuffle else np.arange(len(columns["ids"]))
        taken = {
            name: [value[i] for i in order] if name == "ids" else value[order]
            for name, value in columns.items()
            if value is not None
        }
        X = taken.pop("features")
        splits[split] = SplitSource(
            blocks=[(X, np.ones(len(X), bool))],
            **{name: taken.get(name) for name in ("ids", "labels", "groups", "weights")},
            image_sha256=taken.get("image_sha256"),
        )
    spec = {
        "dataset": {"name": "toys", "digest": "0" * 64},
        "model": {"name": model, "weights": {"source": "hub"}},
        "precision": "fp32",
        "store_dtype": dtype,
    }
    names = [f"g{i}" for i in range(30)]
    provenance = {
        "images_per_second": 20.0 if model == "one" else 30.0,
        "seconds": 2,
        "engine": model,
    }
    request = {"options": {"model": model}}
    join(path, spec=spec, request=request, provenance=provenance, class_names=NAMES, splits=splits,
         group_names=names)  # fmt: skip
    return path


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("dtypes", ["float32 float32", "float16 float32", "float16 float16"])
def test_a_sum_has_the_columns_of_each_store_by_id(
    tmp_path, monkeypatch, dtypes, shuffle, in_memory
):
    monkeypatch.setattr("data.format.stored_rows.SPAN_BYTES", 400)
    monkeypatch.setattr("data.format.stored_rows.PIECE_BYTES", 100)
    one, two = dtypes.split()
    a = write(tmp_path / "a.h5", dtype=one)
    b = write(tmp_path / "b.h5", model="two", width=3, dtype=two, seed=1, shuffle=shuffle)
    c = write(tmp_path / "c.h5", model="three", width=1, dtype=two, seed=2)
    both = open_features(f"{a}+{b}+{c}", in_memory=in_memory)
    alone = [open_features(path) for path in (a, b, c)]
    for split, rows in SIZES.items():
        parts = [store.splits[split] for store in alone]
        # A slow and obvious join: each id looked up in each store.
        expected = np.stack(
            [
                np.concatenate([part.features[part.ids.index(name)] for part in parts])
                for name in parts[0].ids
            ]
        ).astype(both.dtype)
        found = both.splits[split]
        X = found.features if in_memory else found.features.read(0, rows)
        np.testing.assert_array_equal(X, expected)
        if not in_memory:
            out = np.empty((9, 9), np.float32)
            assert found.features.read(3, 12, out) is out
            np.testing.assert_array_equal(out, expected[3:12])
            some = np.random.default_rng(0).integers(0, rows, 17)
            np.testing.assert_array_equal(found.features.gather(some), expected[some])
            assert found.features.shape == (rows, 9) and len(found.features) == rows
            assert found.features.nbytes == rows * 9 * 4
            with pytest.raises(IndexError):
                found.features.read(0, rows + 1)
        assert found.ids == parts[0].ids
        for column in ("labels", "groups", "weights", "image_sha256"):
            np.testing.assert_array_equal(getattr(found, column), getattr(parts[0], column))
    assert both.dtype == ("float16" if dtypes == "float16 float16" else "float32")
    assert [part.columns for part in both.parts] == [slice(0, 5), slice(5, 8), slice(8, 9)]


def test_a_sum_says_what_its_stores_say(tmp_path):
    paths = [write(tmp_path / "a.h5"), write(tmp_path / "b.h5", model="two", width=3, seed=1)]
    path = Path("+".join(map(str, paths)))
    header, alone = read_header(path), [read_header(p) for p in paths]
    keys = json.dumps([store.key for store in alone], separators=(",", ":"))
    assert header.key == sha256(keys.encode()).hexdigest()
    assert header.key == open_features(path).key and header.path == path
    assert header.n_features == 8 and header.sizes == SIZES
    assert header.spec["parts"] == [store.spec for store in alone]
    assert header.spec["dataset"] == alone[0].spec["dataset"]
    assert header.spec["model"]["name"] == "one + two"
    assert header.spec["precision"] == "fp32"
    made = header.provenance
    assert made["images_per_second"] == pytest.approx(12.0) and made["seconds"] == 4
    assert made["engine"] == "one + two"
    assert [part["provenance"] for part in made["parts"]] == [store.provenance for store in alone]
    assert [part["n_features"] for part in made["parts"]] == [5, 3]
    assert header.request == {"parts": [store.request for store in alone]}


def test_a_file_whose_name_has_a_plus_is_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.h5", "a+b.h5", "b.h5", "a.h5+b.h5"):
        write(Path(name), model=name)
    assert sum_parts("a.h5+b.h5") == [Path("a.h5+b.h5")]
    assert open_features("a.h5+b.h5").spec["model"]["name"] == "a.h5+b.h5"
    os.remove("a.h5+b.h5")
    assert sum_parts("a.h5+b.h5") == [Path("a.h5"), Path("b.h5")]
    assert sum_parts("a.h5+a+b.h5+b.h5") == [Path("a.h5"), Path("a+b.h5"), Path("b.h5")]
    assert sum_parts("no+such.h5") == [Path("no+such.h5")]
    assert sum_parts("a.h5+no+such.h5") == [Path("a.h5"), Path("no+such.h5")]
    here = Path.cwd()
    assert absolute_store(Path("a.h5+b.h5")) == Path(f"{here}/a.h5+{here}/b.h5")


def test_a_sum_is_exported_beside_its_first_store(tmp_path):
    (tmp_path / "f").mkdir()
    a, b = write(tmp_path / "a.h5"), write(tmp_path / "f" / "b.h5", model="two", seed=1)
    path = export_store(Path(f"{a}+{b}"), "npz")
    assert path == tmp_path / "a+b.npz"
    with np.load(path) as found:
        both = open_features(f"{a}+{b}")
        np.testing.assert_array_equal(found["X_test"], both.test.features)


def replaced(split, column, row, value):
    def change(name, columns):
        if name == split:
            columns[column] = list(columns[column]) if column == "ids" else columns[column].copy()
            columns[column][row] = value
        return columns

    return change


def without(split, *columns):
    def change(name, found):
        if name != split:
            return found
        return {**found, **dict.fromkeys(columns)} if columns else None

    return change


def cut(split, rows):
    def change(name, columns):
        if name != split:
            return columns
        return {key: value[:rows] for key, value in columns.items()}

    return change


REFUSED = {
    "id": (
        replaced("test", "ids", 7, "test/x.png"),
        "test row 7 is 'test/7.png' in the first, and the second has 'test/x.png' there, and "
        "'test/7.png' nowhere",
    ),
    "fewer": (
        cut("train", 100),
        "train row 100 is 'train/100.png' in the first, and the second has no such row",
    ),
    "label": (
        replaced("validation", "labels", 4, 2),
        "the label of validation row 4 ('validation/4.png') is 'bee' in the first and 'cat' in",
    ),
    "group": (replaced("train", "groups", 9, 29), "group of train row 9 ('train/9.png') is 'g2' in "
              "the first and 'g29' in the second"),
    "weight": (replaced("test", "weights", 2, 8.5), "weight of test row 2 ('test/2.png') is 1 in "
               "the first and 8.5 in the second"),
    "image": (replaced("test", "image_sha256", 3, 0), "image of test row 3 ('test/3.png') is "),
    "groups": (without("train", "groups"), "only the first has groups of train rows"),
    "splits": (without("validation"), "the first has the splits train, test, validation, the "
               "second train, test"),
}  # fmt: skip


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("what", REFUSED)
def test_stores_that_do_not_pair_are_refused_with_the_first_row(tmp_path, what, shuffle):
    change, told = REFUSED[what]
    a = write(tmp_path / "a.h5")
    b = write(tmp_path / "b.h5", model="two", seed=1, change=change, shuffle=shuffle)
    if shuffle and what == "id":  # what stands there depends on the order
        told = "test row 7 is 'test/7.png' in the first, and the second has "
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        open_features(f"{a}+{b}")
    assert str(a) in str(caught.value) and str(b) in str(caught.value)
    if what == "fewer":
        with pytest.raises(UserError, match=r"train row 100 is 'train/100\.png' in the second"):
            open_features(f"{b}+{a}")


def test_what_cannot_be_a_sum_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("a.h5"))
    write(Path("same.h5"))
    doubled = replaced("test", "ids", 1, "test/0.png")
    with monkeypatch.context() as patched:  # ours never writes such files
        patched.setattr("data.writing.Counter", lambda ids: {})
        write(Path("twice.h5"), model="t", change=doubled)
        write(Path("twice2.h5"), model="u", change=doubled, shuffle=True)
    for path in ("a.h5+a.h5", "a.h5+same.h5"):
        with pytest.raises(UserError, match="they hold the same features"):
            read_header(path)
    with pytest.raises(UserError, match=r"b\.h5"):
        open_features("a.h5+b.h5")
    with pytest.raises(UserError, match=r"a name is missing beside a \+"):
        open_features("a.h5+")
    with pytest.raises(UserError, match=r"twice\.h5 has 'test/0.png' twice"):
        open_features("twice.h5+twice2.h5")


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_features_of_every_store_are_verified(tmp_path, in_memory):
    a, b = write(tmp_path / "a.h5"), write(tmp_path / "b.h5", model="two", seed=1)
    content = bytearray(b.read_bytes())
    content[content.index(open_features(b).test.features[30].tobytes())] ^= 1
    b.write_bytes(content)
    with pytest.raises(UserError, match=r"b\.h5 is damaged: /test/features has sha256"):
        open_features(f"{a}+{b}", in_memory=in_memory)
    open_features(f"{a}+{b}", in_memory=in_memory, verify=False)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_file_stays_open_in_memory(tmp_path):
    a, b = write(tmp_path / "a.h5"), write(tmp_path / "b.h5", model="two", seed=1)
    before = len(os.listdir("/proc/self/fd"))
    found = open_features(f"{a}+{b}")
    assert len(os.listdir("/proc/self/fd")) == before
    assert not found.train.features.flags.writeable
