import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import skops.io
from sklearn.tree import DecisionTreeClassifier

from classify.codings.decisions import temper
from classify.heads.interface import FitContext, RowSet
from classify.heads.registry import head_kind
from classify.saved.models import SavedModel, is_model, load_model, save_model
from data.common.errors import UserError

SPEC = {"model": {"name": "m", "weights": {"source": "hub", "digest": "00"}}, "seed": None}


def trained(name="forest"):
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = (rng.normal(size=(3, 5))[y] * 2 + rng.normal(size=(90, 5))).astype(np.float32)
    rows = RowSet(X, np.arange(90), y, 3)
    setting = {**head_kind(name).grid(rows)[0]}
    setting |= {"n_estimators": 4} if name.startswith("forest") else {}
    return head_kind(name).fit(rows, setting, FitContext(n_jobs=1)), X


def model_of(name="forest", **changes):
    values = {
        "strategy": name,
        "class_names": ("ant", "bee", "猫"),
        "trained": trained(name)[0],
        "spec": SPEC,
        "store_key": "ab" * 32,
    }
    return SavedModel(**{**values, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "forest.skops"


@pytest.mark.parametrize("name", ["tree", "forest-ovo", "boosting", "boosting-ovr", "knn"])
def test_a_file_answers_as_the_head_that_was_trained(path, name):
    model, X = model_of(name, temperature=1.7, weights_file="w\udc80.pt"), trained()[1]
    size = save_model(path, model)
    read = load_model(path)
    assert read.n_bytes == size == path.stat().st_size
    assert (read.predict(X) == model.predict(X)).all()
    assert (read.probabilities(X) == model.probabilities(X)).all()
    logs = model.trained.answers(X).log_probabilities
    np.testing.assert_allclose(read.probabilities(X), temper(np.exp(logs), 1.7))
    for field in ("class_names", "spec", "store_key", "weights_file", "setting", "n_features"):
        assert getattr(read, field) == getattr(model, field)
    assert read.predict(X[:0]).shape == (0,) and read.probabilities(X[:0]).shape == (0, 3)
    assert is_model(path)


def test_rows_are_divided_by_their_norms_where_the_head_says_so(path):
    save_model(path, model_of(normalize="l2"))
    X = trained()[1]
    lengths = np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    plain = replace(load_model(path), normalize=None)
    assert (load_model(path).predict(X) == plain.predict(X / lengths)).all()
    assert (load_model(path).predict(X * 3) == load_model(path).predict(X)).all()


def test_another_process_writes_the_same_bytes_and_needs_no_torch(path):
    save_model(path, model_of())
    other = path.with_name("other.skops")
    code = (
        "import sys; from pathlib import Path; filler = [object() for _ in range(1000)]\n"
        "from classify.saved.models import load_model, save_model\n"
        "save_model(Path(sys.argv[2]), load_model(Path(sys.argv[1])))\n"
        "print(sorted({'torch', 'timm', 'extract'} & set(sys.modules)))\n"
        "print('sklearn.externals.array_api_compat.torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(path), str(other)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert other.read_bytes() == path.read_bytes()
    assert done.stdout.split() == ["[]", "False"]  # what stood in for the bridge is gone


def rewritten(path, change):
    """Change the content of a file as skops reads it, and write it by skops itself."""
    save_model(path, model_of())
    content = skops.io.load(path)
    change(content)
    path.write_bytes(skops.io.dumps(content))


def estimator(content):
    content["state"]["extra"] = DecisionTreeClassifier(random_state=0)


def function(content):
    content["setting"]["call"] = np.sin


def objects(content):
    content["state"]["baseline"] = np.array(["a", None], dtype=object)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (estimator, r"sklearn\.tree\._classes\.DecisionTreeClassifier"),
        (function, "numpy.sin"),
        (objects, r"numpy\.ndarray"),
    ],
)
def test_any_other_type_is_refused_and_named(path, change, named):
    rewritten(path, change)
    with pytest.raises(UserError, match=rf"holds a .*{named}.*nothing of it has been loaded"):
        load_model(path)


def test_nothing_that_a_file_names_is_imported(path, tmp_path, monkeypatch):
    save_model(path, model_of())
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    for loader, kind in [
        ("ObjectNode", "Anything"), ("FunctionNode", "run"), ("MethodNode", "run"),
        ("DictNode", "Mine"), ("JsonNode", "str"), ("TypeNode", "int"),
    ]:  # fmt: skip
        node = {"__class__": kind, "__module__": "evil", "__loader__": loader, "content": {}}
        with zipfile.ZipFile(path) as old:
            schema = json.loads(old.read("schema.json"))
            arrays = {name: old.read(name) for name in old.namelist() if name != "schema.json"}
        schema["content"]["setting"] = node
        with zipfile.ZipFile(tmp_path / "bad.skops", "w") as new:
            for name, content in (arrays | {"schema.json": json.dumps(schema)}).items():
                new.writestr(name, content)
        with pytest.raises(UserError, match=rf"evil\.{kind} \({loader}\)"):
            load_model(tmp_path / "bad.skops")
    assert "evil" not in sys.modules


def newer(content):
    content["format_version"] = 3


def unknown(content):
    content["head"] = "forest-of-2031"


def linear(content):
    content["head"] = "ovr"


def other_head(content):
    content["head"] = "knn"


def fewer_names(content):
    content["class_names"].pop()


def wrong_index(content):
    content["state"]["trees"]["children"][0, 0] = 10**8


def no_state(content):
    del content["state"]


def cold(content):
    content["temperature"] = -1.0


def foreign(content):
    content["format"] = "something"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (newer, "head format 3, newer than 2"),
        (unknown, "'forest-of-2031', which this Icebox does not have"),
        (linear, "'ovr', which this Icebox does not have"),
        (other_head, "its state is not that of a knn head"),
        (fewer_names, "3 classes and 5 features, but it names 2 classes"),
        (wrong_index, "nodes that lead nowhere"),
        (no_state, "state"),
        (cold, "temperature is -1.0"),
        (foreign, "not a head of Icebox"),
    ],
)
def test_files_that_are_no_heads_of_this_icebox(path, change, says):
    rewritten(path, change)
    with pytest.raises(UserError, match=says):
        load_model(path)


def test_damage_is_told(path):
    save_model(path, model_of())
    whole = path.read_bytes()
    for step in range(1, 12):
        path.write_bytes(whole[: len(whole) * step // 12])
        with pytest.raises(UserError, match="damaged or something else"):
            load_model(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(UserError, match=r"damaged|not a usable head"):
        load_model(path)
    path.write_bytes(b"PK\x03\x04 not a zip archive")
    with pytest.raises(UserError, match="damaged or something else"):
        load_model(path)
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    path.write_bytes(empty.getvalue())
    with pytest.raises(UserError, match="not a skops file"):
        load_model(path)
    path.unlink()
    with pytest.raises(UserError, match="no head at"):
        load_model(path)


def test_more_than_the_memory_holds_is_refused_before_it_is_read(path, monkeypatch):
    save_model(path, model_of())
    monkeypatch.setattr("classify.saved.models.free_memory", lambda: 1000)
    with pytest.raises(UserError, match="1,000 are free"):
        load_model(path)


def test_what_no_file_may_hold_is_not_written(path):
    head = trained()[0]
    head.setting["estimator"] = DecisionTreeClassifier()
    with pytest.raises(TypeError, match=r"head\.setting\.estimator is a DecisionTreeClassifier"):
        save_model(path, model_of(trained=head))
    assert not path.exists()


def test_a_missing_skops_is_said(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(UserError, match="pip install skops"):
        save_model(path, model_of())
