"""Fits without intercepts and on rows of norm 1, everywhere that features are seen."""

import json
from pathlib import Path

import numpy as np
import pytest
from rows_for_tests import Rows
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from specs_for_tests import spec_of

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.__main__ import main
from classify.saved.heads import SavedHead, save_head
from classify.saved.reading import load_head
from classify.selection import select_C
from classify.solver.row_norms import normalized
from data.common.cli import run
from data.common.errors import UserError
from data.reading import open_features

ALL = [MultinomialLogistic, OneVsRestLogistic, OneVsOneLogistic]
DEVICES = ["cpu", "torch-cpu"]
WRAP = {
    MultinomialLogistic: lambda model: model,
    OneVsRestLogistic: OneVsRestClassifier,
    OneVsOneLogistic: OneVsOneClassifier,
}


def data(n_classes=3, dtype=np.float64):
    X, y = load_iris(return_X_y=True)
    X, y = X[y < n_classes], y[y < n_classes]
    return (X * np.linspace(0.5, 3, len(X))[:, None]).astype(dtype), y


def coefficients(theirs):
    if hasattr(theirs, "estimators_"):
        return np.vstack([one.coef_ for one in theirs.estimators_])
    return theirs.coef_


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("normalize", [None, "l2"])
def test_the_optimum_without_intercepts_is_scikit_learns(
    estimator, n_classes, standardize, normalize, device
):
    X, y = data(n_classes)
    plain = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-11, max_iter=10**5)
    seen, scale = (Normalizer().transform(X) if normalize else X), 1.0
    if standardize:
        scale = StandardScaler(with_mean=False).fit(seen).scale_
    theirs = WRAP[estimator](plain).fit(seen / scale, y)
    ours = estimator(
        2.0, tol=1e-12, fit_intercept=False, standardize=standardize, normalize=normalize,
        device=device,
    ).fit(X, y)  # fmt: skip
    assert ours.certificate_["converged"]
    assert not ours.intercept_.any()
    np.testing.assert_allclose(ours.coef_, coefficients(theirs) / scale, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(seen / scale))


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
def test_rows_are_normalised_before_everything(estimator, fit_intercept, standardize):
    X, y = data(dtype=np.float32)
    options = {"fit_intercept": fit_intercept, "standardize": standardize, "tol": 1e-8}
    inside = estimator(normalize="l2", **options).fit(X, y)
    outside = make_pipeline(Normalizer(), estimator(**options)).fit(X, y)
    np.testing.assert_allclose(inside.coef_, outside[-1].coef_, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(inside.predict_proba(X), outside.predict_proba(X), atol=1e-4)
    np.testing.assert_allclose(
        inside.predict_proba(X), inside.predict_proba(X * np.float32(7)), atol=1e-5
    )


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
def test_out_of_core_is_as_in_memory(estimator, fit_intercept, standardize):
    X, y = data(dtype=np.float32)
    options = {
        "fit_intercept": fit_intercept, "standardize": standardize, "normalize": "l2", "tol": 1e-9,
        "C": 0.3,
    }  # fmt: skip
    weight = np.arange(len(y)) % 4.0  # some of them zero
    inside = estimator(**options).fit(X, y, sample_weight=weight)
    source = Rows(X)
    outside = estimator(**options, memory=10**8).fit(source, y, sample_weight=weight)
    np.testing.assert_allclose(outside.coef_, inside.coef_, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(outside.predict_proba(source), inside.predict_proba(X), atol=1e-3)
    assert bool(outside.intercept_.any()) == fit_intercept


def test_the_certificate_without_intercepts_bounds_the_gap():
    X, y = data()
    for estimator in ALL:
        for device in DEVICES:
            rough = estimator(fit_intercept=False, max_iter=3, tol=1e-9, device=device)
            with pytest.warns(UserWarning):
                rough.fit(X, y)
            exact = estimator(fit_intercept=False, tol=1e-13).fit(X, y)
            above = np.subtract(
                rough.certificate_["problems"]["objective"],
                exact.certificate_["problems"]["objective"],
            )
            bound = np.array(rough.certificate_["problems"]["gap_bound"])
            assert np.all(above <= bound * (1 + 1e-9) + 1e-9)
            assert np.all(bound > 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_of_huge_tiny_and_zero_rows(dtype):
    torch = pytest.importorskip("torch")
    X = np.array([[3, 4], [0, 0], [3e30, 4e30], [3e-30, 4e-30]], dtype)
    expected = np.array([[0.6, 0.8], [0, 0], [0.6, 0.8], [0.6, 0.8]])
    for found in (
        normalized(X, "l2"),
        normalized(torch.tensor(X), "l2").numpy(),
        normalized(Rows(X), "l2").read(0, 4),
        normalized(Rows(X), "l2").gather(np.arange(4)),
    ):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert normalized(X, None) is X


def test_the_choice_of_C_sees_the_same_rows():
    X, y = data(dtype=np.float32)
    grid = [0.01, 1.0, 100.0]
    for options in ({"fit_intercept": False}, {}):
        inside = select_C("ovr", X, y, grid=grid, normalize="l2", **options)
        outside = select_C("ovr", normalized(X, "l2"), y, grid=grid, **options)
        assert inside.path == outside.path
        assert inside.path != select_C("ovr", X, y, grid=grid, **options).path


def test_log_probabilities_and_the_number_of_classes():
    X, y = data()
    for estimator in ALL:
        model = estimator(C=100).fit(X, y)
        assert model.n_classes_ == 3
        logs = model.predict_log_proba(X)
        np.testing.assert_allclose(np.exp(logs), model.predict_proba(X), rtol=1e-12)
        assert np.isfinite(model.predict_log_proba(X * 1e6)).all()
        two = estimator().fit(*data(2))
        np.testing.assert_allclose(np.exp(two.predict_log_proba(X)), two.predict_proba(X))


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("C", bad) for bad in (0, -1, np.nan, np.inf, True, "1", None)),
        *(("tol", bad) for bad in (0, -1e-3, np.nan, "a", False)),
        *(("max_iter", bad) for bad in (0, 2.5, "9", True, None)),
        *(("standardize", bad) for bad in ("yes", 1, None)),
        *(("fit_intercept", bad) for bad in ("no", 0, None)),
        *(("normalize", bad) for bad in ("l1", "none", True, 2)),
        *(("n_jobs", bad) for bad in (1.5, 0, "2", True)),
        *(("memory", bad) for bad in (0, -5, "2GB", True)),
        *(("device", bad) for bad in ("gpu", None, 0, "cuda:x")),
    ],
)
def test_parameters_of_another_kind_are_refused(estimator, name, value):
    X, y = data()
    for features in (X, Rows(X)):
        with pytest.raises(ValueError, match=name) as caught:
            estimator(**{name: value}).fit(features, y)
        assert repr(value) in str(caught.value)


@pytest.mark.parametrize("estimator", ALL)
def test_labels_that_are_empty_strings_are_refused(estimator):
    X, y = data()
    with pytest.raises(ValueError, match="empty string"):
        estimator().fit(X, np.array(["", "b", "c"])[y])


def saved(**options):
    rng = np.random.default_rng(0)
    coef = rng.normal(size=(3, 4)).astype(np.float32)
    zero = np.zeros(3, np.float32)
    return SavedHead("ovr", ("a", "b", "c"), coef, zero, spec_of(), "ab" * 32, 1.0, **options)


def test_a_saved_head_normalises_raw_features(tmp_path):
    X = np.random.default_rng(1).normal(size=(5, 4)) * np.array([[1], [10], [1e-3], [5], [0]])
    head = saved(fit_intercept=False, normalize="l2")
    save_head(tmp_path / "h.safetensors", head)
    again = load_head(tmp_path / "h.safetensors")
    assert (again.fit_intercept, again.normalize) == (False, "l2")
    unit = normalized(X, "l2")
    np.testing.assert_allclose(again.scores(X), unit @ head.coef.astype(float).T, rtol=1e-12)
    np.testing.assert_allclose(again.probabilities(X), saved().probabilities(unit))


def test_heads_of_before_say_nothing_of_it(tmp_path):
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "h.safetensors"
    save_head(path, saved(normalize="l2"))
    metadata, tensors = read_metadata(path), load_file(path)
    for key in ("normalize", "fit_intercept"):
        metadata.pop(key)
    save_file(tensors, path, metadata)
    assert (load_head(path).fit_intercept, load_head(path).normalize) == (True, None)
    for key, bad in (("normalize", "l3"), ("fit_intercept", "maybe")):
        save_file(tensors, path, {**metadata, key: bad})
        with pytest.raises(UserError, match=f"{key} in its metadata is '{bad}'"):
            load_head(path)
    save_file(tensors, path, {**metadata, "class_names": json.dumps(["a", "", "c"])})
    with pytest.raises(UserError, match="empty name"):
        load_head(path)


def read_metadata(path):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size])["__metadata__"]


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_command_line_records_it_and_the_heads_answer_so(
    make_store, tmp_path, in_memory, capsys, monkeypatch
):
    few_shot = "--few-shot" if in_memory else "--no-few-shot"
    if not in_memory:
        monkeypatch.setattr("classify.fit.memory_budget.in_memory_bytes", lambda header: 10**12)
    store = make_store(tmp_path / "s.h5", d=8, n=300)
    command = [
        "fit",
        str(store),
        "--no-intercept",
        "--normalize",
        "l2",
        "--c-grid",
        "0.01,1",
        few_shot,
    ]
    assert run(main, [*command, "--memory", "1GB", "--reports-dir", str(tmp_path / "r")]) == 0
    folder = Path(capsys.readouterr().out.strip()).parent
    results = json.loads((folder / "results.json").read_text())
    assert results["settings"]["fit_intercept"] is False
    assert results["settings"]["normalize"] == "l2"
    assert results["settings"]["out_of_core"] is not in_memory
    assert "normalize" in (folder / "report.md").read_text()
    features = open_features(store)
    predictions = np.load(folder / "predictions.npz")
    X, truth = features.test.features, features.test.labels
    for name in ("multinomial", "ovr", "ovo"):
        head = load_head(folder / "heads" / f"{name}.safetensors")
        assert (head.fit_intercept, head.normalize) == (False, "l2")
        assert not head.intercept.any()
        np.testing.assert_array_equal(head.predict(X), predictions[f"{name}_predictions"])
        # Norms of rows do not matter to what was fitted on rows of norm 1: in the answers, the
        # choice of C, the calibration and the few-shot curves alike.
        np.testing.assert_array_equal(head.predict(X * 3), head.predict(X))
        assert np.mean(head.predict(X) == truth) > 0.8
    if not in_memory:
        return
    scaled = make_store(tmp_path / "t.h5", d=8, n=300, scale=np.float32(4))
    command[1] = str(scaled)
    assert run(main, [*command, "--memory", "1GB", "--reports-dir", str(tmp_path / "r")]) == 0
    other = Path(capsys.readouterr().out.strip()).parent
    again = json.loads((other / "results.json").read_text())
    assert again["few_shot"] == results["few_shot"]
    for name, entry in results["strategies"].items():
        for part in ("validation", "test", "calibration", "certificate"):
            assert again["strategies"][name][part] == entry[part], (name, part)
    assert again["own_c"] == results["own_c"]
    assert again["decoding"] == results["decoding"]


def test_a_store_with_an_empty_class_name_is_refused(make_store, tmp_path, capsys):
    store = make_store(tmp_path / "s.h5", names=("a", " ", "c"))
    assert run(main, ["fit", str(store), "--reports-dir", str(tmp_path / "r")]) == 2
    assert "a class whose name is empty" in capsys.readouterr().err
    assert run(main, ["fit", str(store), "--normalize", "l1"]) == 2
    assert "--normalize" in capsys.readouterr().err
