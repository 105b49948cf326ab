import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.codings.decisions import temper
from classify.saved.heads import SavedHead, save_head
from classify.saved.reading import load_head
from data.common.errors import UserError

ESTIMATORS = {
    "multinomial": MultinomialLogistic,
    "ovr": OneVsRestLogistic,
    "ovo": OneVsOneLogistic,
}


def problem(n_classes, seed=0, n=300, d=7):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    X = (rng.normal(size=(n_classes, d))[y] * 1.5 + rng.normal(size=(n, d)) + 3).astype(np.float32)
    return X, y


def head_of(strategy, n_classes=3, n_features=4, **changes):
    rng = np.random.default_rng(1)
    rows = (
        1
        if n_classes == 2
        else n_classes * (n_classes - 1) // 2
        if strategy == "ovo"
        else n_classes
    )
    values = {
        "strategy": strategy,
        "class_names": tuple(f"class {i}" for i in range(n_classes)),
        "coef": rng.normal(size=(rows, n_features)).astype(np.float32),
        "intercept": rng.normal(size=rows).astype(np.float32),
        "spec": {"model": {"name": "m", "weights": {"source": "hub", "digest": "00"}}},
        "store_key": "ab" * 32,
        "C": 0.1,
    }
    return SavedHead(**{**values, **changes})


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("strategy", ESTIMATORS)
def test_a_stored_head_answers_as_its_estimator(tmp_path, strategy, n_classes):
    X, y = problem(n_classes)
    X_test, _ = problem(n_classes, seed=1)
    estimator = ESTIMATORS[strategy](0.5, standardize=True, n_jobs=1).fit(X, y)
    head = head_of(
        strategy,
        n_classes,
        coef=estimator.coef_.astype(np.float32),
        intercept=estimator.intercept_.astype(np.float32),
    )
    path = tmp_path / "head.safetensors"
    save_head(path, head)
    loaded = load_head(path)
    np.testing.assert_array_equal(loaded.predict(X_test), estimator.predict(X_test))
    np.testing.assert_allclose(
        loaded.probabilities(X_test), estimator.predict_proba(X_test), atol=1e-5
    )
    np.testing.assert_allclose(
        loaded.scores(X_test), X_test @ estimator.coef_.T + estimator.intercept_, atol=1e-4
    )


def test_the_heads_of_a_run_answer_as_it_did(fitted_run):
    from data import open_features

    folder, store = fitted_run
    X = open_features(store).test.features
    stored = np.load(folder / "predictions.npz", allow_pickle=False)
    for strategy in ESTIMATORS:
        head = load_head(folder / "heads" / f"{strategy}.safetensors")
        np.testing.assert_array_equal(head.predict(X), stored[f"{strategy}_predictions"])
        assert head.temperature > 0
        calibrated = temper(stored[f"{strategy}_probabilities"], head.temperature)
        np.testing.assert_allclose(head.probabilities(X), calibrated, atol=1e-5)


def test_everything_survives_the_file(tmp_path):
    head = head_of(
        "ovo", class_names=("<b>", "猫", 'q"'), weights_file="/tmp/w.safetensors", C=1 / 3,
        temperature=2 / 3,
    )  # fmt: skip
    path = tmp_path / "head.safetensors"
    save_head(path, head)
    loaded = load_head(path)
    for name in (
        "strategy",
        "class_names",
        "spec",
        "store_key",
        "C",
        "weights_file",
        "temperature",
    ):
        assert getattr(loaded, name) == getattr(head, name)
    np.testing.assert_array_equal(loaded.coef, head.coef)
    tensors = load_file(path)
    assert tensors["pairs"].tolist() == [[0, 1], [0, 2], [1, 2]]
    assert {name: t.dtype.name for name, t in tensors.items()} == {
        "coef": "float32", "intercept": "float32", "pairs": "int64",
    }  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["head.safetensors"]


def test_scores_in_blocks_equal_one_product(monkeypatch):
    from classify.saved import heads

    head = head_of("ovr")
    X = np.random.default_rng(0).normal(size=(25, 4)).astype(np.float16)
    whole = head.scores(X)
    monkeypatch.setattr(heads, "_BLOCK", 10)
    np.testing.assert_array_equal(head.scores(X), whole)


def tampered(tmp_path, tensors=None, **metadata):
    """A head file with parts replaced; None removes them."""
    from safetensors import safe_open

    path = tmp_path / "head.safetensors"
    save_head(path, head_of("ovo"))
    with safe_open(path, framework="numpy") as stored:
        texts = dict(stored.metadata())
    arrays = load_file(path)
    texts = {k: v for k, v in {**texts, **metadata}.items() if v is not None}
    arrays = {k: v for k, v in {**arrays, **(tensors or {})}.items() if v is not None}
    save_file(arrays, path, metadata=texts)
    return path


F32 = np.float32


@pytest.mark.parametrize(
    ("tensors", "metadata", "told"),
    [
        (None, {"format": None}, "not a head"),
        (None, {"format": "other"}, "not a head"),
        (None, {"format_version": "5"}, "newer than 4"),
        (None, {"format_version": "3"}, "coding '' is none of multinomial, ovr, ovo"),
        (None, {"format_version": "3", "coding": "ovr"}, "has no setting"),
        (None, {"format_version": "3", "coding": "ovr", "setting": "[1]"}, "is not a JSON object"),
        (None, {"format_version": "one"}, "expected a number"),
        (None, {"strategy": "knn"}, "strategy 'knn'"),
        (None, {"class_names": "[1, 2, 3]"}, "class_names"),
        (None, {"class_names": '["a"]'}, "class_names"),
        (None, {"class_names": '["a", "b", "c", "d"]'}, "expected float32 (6, n)"),
        (None, {"class_names": "{"}, "not JSON"),
        (None, {"class_names": None}, "no class_names"),
        (None, {"spec": "[]"}, "in its metadata spec is a list, expected an object"),
        (None, {"spec": "[" * 100_000}, "not JSON"),
        (None, {"C": "nan"}, "expected a positive number"),
        (None, {"C": None}, "expected a positive number"),
        (None, {"temperature": "-1"}, "temperature in its metadata is '-1'"),
        (None, {"n_features": "5"}, "n_features is '5' but coef has 4"),
        ({"coef": None}, {}, "the tensor coef is missing"),
        ({"coef": np.zeros((3, 4))}, {}, "coef is float64"),
        ({"coef": np.zeros((3, 4, 1), F32)}, {}, "coef is float32 (3, 4, 1)"),
        ({"coef": np.full((3, 4), np.nan, F32)}, {}, "coef holds NaN"),
        ({"coef": np.zeros((3, 0), F32)}, {"n_features": "0"}, "coef is float32 (3, 0)"),
        ({"intercept": np.zeros(2, F32)}, {}, "intercept is float32 (2,)"),
        ({"pairs": None}, {}, "the tensor pairs is missing"),
        ({"pairs": np.array([[0, 1], [1, 2], [0, 2]])}, {}, "not in the order"),
    ],
)
def test_bad_heads_are_refused(tmp_path, tensors, metadata, told):
    path = tampered(tmp_path, tensors, **metadata)
    with pytest.raises(UserError) as error:
        load_head(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 not safetensors",
        (2**62).to_bytes(8, "little") + b"{}",
        len(json.dumps({"coef": {}})).to_bytes(8, "little") + json.dumps({"coef": {}}).encode(),
    ],
)
def test_what_is_not_safetensors_is_refused(tmp_path, content):
    path = tmp_path / "head.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_head(path)


def test_truncated_head(tmp_path):
    path = tampered(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="damaged"):
        load_head(path)


def test_missing_head(tmp_path):
    with pytest.raises(UserError, match="no head at"):
        load_head(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="no head at"):
        load_head(tmp_path)


def test_a_weights_file_whose_name_is_no_utf8(tmp_path):
    name = os.fsdecode(b"/tmp/caf\xe9 \xff/w.safetensors")
    save_head(tmp_path / "head.safetensors", head_of("ovr", weights_file=name))
    assert load_head(tmp_path / "head.safetensors").weights_file == name
