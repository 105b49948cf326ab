"""Nothing in a file of features is run, and a package that is missing is named."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from features_for_tests import NAMES, content, made, refusal, store_of, whole

from data.exchange.classes import coded, together
from data.exchange.names import find_columns, parse_key, parse_stem, wide_columns
from data.exchange.records import Reading

ROOT = Path(__file__).parents[3]


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("name", ["a.npz", "X_train.npy", "a.pt", "labels.npz"])
def test_pickles_are_not_run(tmp_path, monkeypatch, capsys, name, warm_stage_one):
    import torch

    monkeypatch.chdir(tmp_path)
    evil, (X, y, Xt, yt) = Evil(tmp_path / "was run"), made()
    files = [name]
    if name == "a.npz":
        np.savez(name, X_train=np.array([evil] * len(y), object), y_train=y, X_test=Xt, y_test=yt)
    elif name == "labels.npz":
        labels = np.array([evil] * len(y), object)
        np.savez(name, X_train=X, y_train=labels, X_test=Xt, y_test=yt)
    elif name == "a.pt":
        torch.save({"X_train": torch.tensor(X), "y_train": evil}, name)
    else:
        np.save(name, np.array([evil] * len(y), object), allow_pickle=True)
        np.save("y_train.npy", y)
        files.append("y_train.npy")
    said = refusal(capsys, "import", *files, "--name", "s")
    assert "can run" in said
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize(
    ("package", "suffix", "extra"),
    [("pyarrow", "parquet", "parquet"), ("anndata", "h5ad", "anndata")],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys, package, suffix, extra):
    X, y, split = whole()
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", X=X, y=NAMES[y], split=split)
    store = store_of(capsys, "import", "a.npz", "--name", "s")
    to = "anndata" if suffix == "h5ad" else suffix
    file = store_of(capsys, "export", store, "--to", to)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    for words in (["import", file, "--name", "t"], ["export", store, "--to", to, "--force"]):
        said = refusal(capsys, *words)
        assert f"pip install {package}" in said and f"[{extra}]" in said


def test_the_command_starts_without_heavy_imports():
    code = (
        "import sys\nfrom data.__main__ import parse\nparse(['import', 'a.npz', '--name', 'x'])\n"
        "import data.exchange.importing, data.exchange.registry\n"
        "heavy = {'torch', 'pandas', 'pyarrow', 'anndata', 'safetensors', 'scipy', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch, capsys):
    from data.exchange import importing

    monkeypatch.chdir(tmp_path)
    X, y, Xt, yt = made()
    arrays = {"X_train": X, "y_train": y, "X_test": Xt, "y_test": yt}
    np.savez("a.npz", **arrays)
    good = importing.read_files

    def reading(paths, how):
        found = good(paths, how)
        np.savez("a.npz", **{**arrays, "X_train": X + 1})
        return found

    monkeypatch.setattr(importing, "read_files", reading)
    said = refusal(capsys, "import", "a.npz", "--name", "s")
    assert "has changed while it was being read" in said
    assert not list(tmp_path.glob("features/s/*"))


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("X_train", ("train", "features")), ("y_test", ("test", "labels")),
        ("X_val", ("validation", "features")), ("train_features", ("train", "features")),
        ("/dev/labels", ("validation", "labels")), ("Xtrain", ("train", "features")),
        ("test.sample_weight", ("test", "weights")), ("X_unlabelled", ("unlabelled", "features")),
        ("X", (None, "features")), ("Patient_ID", (None, "groups")),
        ("class_names", (None, "class_names")),
        ("trainer", None), ("X_foo", None), ("matrix", None), ("", None),
    ],
)  # fmt: skip
def test_names_of_arrays(key, found):
    assert parse_key(key) == found


def test_names_of_files_and_columns():
    assert parse_stem("clip_train_embeddings", 2) == ("train", "features")
    assert parse_stem("clip", 2) == (None, "features")
    assert parse_stem("clip", 1) == (None, "labels")
    assert find_columns("t", ["ID", "Class", "FOLD", "other"], Reading()) == {
        "labels": "Class", "split": "FOLD", "ids": "ID",
    }  # fmt: skip
    assert find_columns("t", ["id", "y"], Reading({"ids": "none"})) == {"labels": "y"}
    assert wide_columns(["f10", "f2", *[f"f{i}" for i in range(12) if i not in (2, 10)]]) == [
        f"f{i}" for i in range(12)
    ]
    assert wide_columns(["x0", "x2"]) == [] and wide_columns(["x0"]) == []
    assert wide_columns(["1", "2", "3"]) == ["1", "2", "3"]


def test_values_of_any_type_become_codes():
    def read(values, dtype=None):
        one = coded(np.array(values, dtype=dtype), "here")
        return [one.names[code] if code >= 0 else None for code in one.codes]

    assert read([3, -1, 3]) == ["3", "-1", "3"]
    assert read([1.0, np.nan, 2.0]) == ["1", None, "2"]
    assert read([b"a", b"b"]) == ["a", "b"]
    assert read(["a", " ", "b"]) == ["a", None, "b"]
    assert read(["a", None, 1, 2.0, float("nan")], object) == ["a", None, "1", "2", None]
    assert read([True, False]) == ["True", "False"]
    names, codes = together([coded(np.array(["10", "9"]), "a"), coded(np.array([2, 9]), "b")], None)
    assert names == ("2", "9", "10") and codes.tolist() == [2, 1, 0, 1]


def test_names_beside_whole_numbers(tmp_path, monkeypatch, capsys):
    """Names that are themselves numbers are not taken for positions."""
    monkeypatch.chdir(tmp_path)
    X, y, split = whole()
    np.savez("a.npz", X=X, y=y.astype(str), split=split)
    (tmp_path / "n.txt").write_text("3\n2\n1\n0\n")
    found = content(store_of(capsys, "import", "a.npz", "--name", "s", "--class-names", "n.txt"))
    assert found["train"]["names"] == y[:40].astype(str).tolist()
    assert found["classes"] == ["3", "2", "1", "0"]
