"""``--to sklearn``: what is written, who may be trusted, and what a changed file brings about."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import skops.io
from sklearn.tree import DecisionTreeClassifier
from specs_for_tests import spec_of

from classify import OneVsOneLogistic, load_head
from classify.__main__ import main
from classify.export import sklearn_file
from classify.export.sklearn_file import write
from classify.heads.estimator import HeadEstimator
from classify.heads.interface import FitContext, RowSet
from classify.heads.registry import head_kind
from classify.linear_head import PairHead
from classify.saved.estimators import TRUSTED
from classify.saved.heads import SavedHead, save_head
from classify.saved.models import SavedModel
from data.common.cli import run
from data.common.errors import UserError

NAMES = ("dog", "ant", "cat")
COMMON = {"spec": spec_of(), "store_key": "ab" * 32, "temperature": 0.7}


def linear(strategy="ovo", **changes):
    rng = np.random.default_rng(1)
    weights = {"coef": rng.normal(size=(3, 5)), "intercept": rng.normal(size=3)}
    single = {name: array.astype(np.float32) for name, array in weights.items()}
    return SavedHead(strategy, NAMES, **{**single, "C": 0.25, **COMMON, **changes})


def tree():
    rng = np.random.default_rng(0)
    rows = RowSet(rng.normal(size=(60, 5)), np.arange(60), np.arange(60) % 3, 3)
    kind = head_kind("tree")
    trained = kind.fit(rows, kind.grid(rows)[0], FitContext(n_jobs=1))
    return SavedModel("tree", NAMES, trained, **COMMON)


def sums():
    rng = np.random.default_rng(0)
    duals = 1.0 - np.repeat(np.eye(3), 2, axis=0)
    head = PairHead(rng.normal(size=(6, 5)), np.ones(5), np.arange(0, 7, 2), duals, np.ones(3))
    none = {"coef": np.empty((0, 5), np.float32), "intercept": np.empty(0, np.float32)}
    return linear(**none, sums=head)


def parts():
    return linear("multinomial", normalize=(2, 3))


@pytest.mark.parametrize("made", [linear, tree, sums, parts])
def test_the_same_bytes_that_answer_as_the_head(tmp_path, made):
    head, path = made(), tmp_path / "head.skops"
    said = write(head, path)
    bytes_before = path.read_bytes()
    write(made(), path)
    assert path.read_bytes() == bytes_before
    estimator = load_head(path)
    X = np.random.default_rng(3).normal(size=(40, 5)).astype(np.float32)
    columns = np.searchsorted(estimator.classes_, NAMES)
    np.testing.assert_allclose(
        estimator.predict_proba(X)[:, columns], head.probabilities(X), rtol=0, atol=1e-12
    )
    np.testing.assert_array_equal(estimator.predict(X), np.array(NAMES)[head.predict(X)])
    # One type is all that a reader has to trust, and the message names it.
    (unknown,) = skops.io.get_untrusted_types(file=path)
    assert unknown in TRUSTED and unknown in said
    theirs = skops.io.load(path, trusted=[unknown])
    np.testing.assert_array_equal(theirs.predict_proba(X), estimator.predict_proba(X))


def test_another_process_writes_the_same_bytes_without_torch(tmp_path):
    head = linear()
    save_head(tmp_path / "ovo.safetensors", head)
    write(head, tmp_path / "here.skops")
    code = (
        "import sys; from pathlib import Path; filler = [object() for _ in range(1000)]\n"
        "from classify.export.sklearn_file import write\n"
        "from classify.saved.reading import load_head\n"
        "folder = Path(sys.argv[1])\n"
        "write(load_head(folder / 'ovo.safetensors'), folder / 'there.skops')\n"
        "print(sorted({'torch', 'timm', 'extract'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (tmp_path / "there.skops").read_bytes() == (tmp_path / "here.skops").read_bytes()
    assert done.stdout.split() == ["[]"]


def test_the_command(tmp_path, capsys):
    (tmp_path / "heads").mkdir()
    path = tmp_path / "heads" / "ovo.safetensors"
    save_head(path, linear())
    assert run(main, ["export", str(path), "--to=sklearn"]) == 0
    written = tmp_path / "exports" / "ovo-sklearn.skops"
    captured = capsys.readouterr()
    assert captured.out.strip() == str(written)
    assert "trusted=['classify.estimators.OneVsOneLogistic']" in captured.err
    assert type(load_head(written)) is OneVsOneLogistic
    assert run(main, ["export", str(path), "--to=sklearn"]) == 2
    assert "--force" in capsys.readouterr().err
    # What reads heads of runs says what it is, and what to give.
    assert run(main, ["export", str(written), "--to=sklearn"]) == 2
    message = capsys.readouterr().err
    assert "is an estimator" in message and "classify.load_head" in message
    assert "give a file heads/NAME.skops" in message


def test_an_estimator_that_answers_otherwise_is_not_kept(tmp_path, monkeypatch):
    save_head(tmp_path / "ovo.safetensors", linear())
    other = linear(temperature=0.8)
    monkeypatch.setattr(
        sklearn_file, "estimator_of", lambda head, make=sklearn_file.estimator_of: make(other)
    )
    out = tmp_path / "out.skops"
    words = ["export", str(tmp_path / "ovo.safetensors"), "--to=sklearn", f"--out={out}"]
    assert run(main, words) == 2
    assert sorted(os.listdir(tmp_path)) == ["ovo.safetensors"]


class Evil:
    """An object whose state would run code, were it read as a pickle."""

    def __init__(self):
        self.command = "touch /nowhere"


def evil_attribute(estimator):
    estimator.extra = Evil()


def scikit_learns(estimator):
    estimator.extra = DecisionTreeClassifier(random_state=0)


def function(estimator):
    estimator.n_jobs = os.system


def objects(estimator):
    estimator.classes_ = np.array(["a", None, "c"], dtype=object)


def nested(estimator):
    estimator.extra = OneVsOneLogistic()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (evil_attribute, r"Evil \(ObjectNode\)"),
        (scikit_learns, "DecisionTreeClassifier"),
        (function, r"posix\.system"),
        (objects, r"numpy\.ndarray"),
        (nested, r"OneVsOneLogistic \(ObjectNode\)"),
    ],
)
def test_any_other_type_is_refused_and_named(tmp_path, change, named):
    write(linear(), tmp_path / "head.skops")
    estimator = load_head(tmp_path / "head.skops")
    change(estimator)
    skops.io.dump(estimator, tmp_path / "bad.skops")
    with pytest.raises(UserError, match=rf"holds a .*{named}.*nothing of it has been loaded"):
        load_head(tmp_path / "bad.skops")


def test_nothing_that_a_file_names_is_imported(tmp_path, monkeypatch):
    write(linear(), tmp_path / "head.skops")
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with zipfile.ZipFile(tmp_path / "head.skops") as old:
        schema = json.loads(old.read("schema.json"))
        arrays = {name: old.read(name) for name in old.namelist() if name != "schema.json"}
    for module, kind, loader in (
        ("evil", "Anything", "ObjectNode"),
        ("classify.estimators", "OneVsOneLogistic", "MethodNode"),
        ("classify.estimators", "Anything", "ObjectNode"),
        ("classify.heads.interface", "TrainedHead", "ObjectNode"),
    ):
        root = {**schema, "__module__": module, "__class__": kind, "__loader__": loader}
        with zipfile.ZipFile(tmp_path / "bad.skops", "w") as new:
            for name, content in (arrays | {"schema.json": json.dumps(root)}).items():
                new.writestr(name, content)
        with pytest.raises(UserError, match=rf"{module}\.{kind} \({loader}\)"):
            load_head(tmp_path / "bad.skops")
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("made", "changes", "says"),
    [
        (linear, {"coef_": np.zeros((2, 5))}, r"coef is not of \(3, 5\) finite numbers"),
        (linear, {"intercept_": np.array([0, np.nan, 0])}, "intercept is not of"),
        (linear, {"temperature_": -1.0}, "temperature_ is -1.0"),
        (linear, {"C": "much"}, "C must be a number above 0"),
        (linear, {"classes_": np.array(["a"])}, "not an array of two or more classes"),
        (linear, {"classes_": np.array([b"a", b"b", b"c"])}, "expected texts or numbers"),
        (linear, {"classes_": np.array(["a", "c", "b"])}, "classes_ are not sorted"),
        (linear, {"classes_": np.full(3, 2**31, np.uint32).view("U1")}, "what is no text"),
        (linear, {"n_features_in_": None}, "n_features_in_ is None"),
        (linear, {"coupled_as_": np.array([0, 0, 1])}, "coupled_as_ is not an order of 3"),
        (linear, {"normalize": (2, 2)}, "widths of normalize do not add up to 5"),
        (parts, {"C": None}, "C must be a number"),
        (sums, {"sums_": None}, ""),
        (tree, {"head": "ovr"}, "head is 'ovr'"),
        (tree, {"head": "knn"}, ""),
        (tree, {"n_features_in_": 4}, "is of 3 classes and 5 features"),
        (tree, {"normalize": "l3"}, "normalize must be"),
    ],
)
def test_attributes_that_do_not_fit_are_told(tmp_path, monkeypatch, made, changes, says):
    write(made(), tmp_path / "head.skops")
    kind = HeadEstimator if made is tree else type(load_head(tmp_path / "head.skops"))
    true = kind.__getstate__
    state = {**true(load_head(tmp_path / "head.skops")), **changes}
    monkeypatch.setattr(kind, "__getstate__", lambda _: state)
    skops.io.dump(load_head(tmp_path / "head.skops"), tmp_path / "bad.skops")
    with pytest.raises(UserError, match=rf"bad\.skops is not a usable estimator: .*{says}"):
        load_head(tmp_path / "bad.skops")


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "head.skops"
    write(linear(), path)
    whole = path.read_bytes()
    for content in (whole[:-40], b"", b"PK\x03\x04", whole[:50] + b"\0" * 30 + whole[80:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"head\.skops"):
            load_head(path)
    skops.io.dump(DecisionTreeClassifier(), path)
    with pytest.raises(UserError, match=r"holds a sklearn.*DecisionTreeClassifier"):
        load_head(path)
