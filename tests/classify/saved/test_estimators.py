"""`classify.load_head`: the heads of files as fitted classifiers, against what read them before."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from specs_for_tests import spec_of

import classify
from classify.heads.estimator import HeadEstimator
from classify.heads.interface import FitContext, RowSet
from classify.heads.registry import head_kind
from classify.linear_head import PairHead
from classify.saved.estimators import ESTIMATORS, estimator_of
from classify.saved.heads import SavedHead, save_head
from classify.saved.models import SavedModel, load_model, save_model
from classify.saved.reading import load_head as read_head
from classify.solver.codes import code_book
from classify.solver.strategies import strategy_of
from data.common.errors import UserError
from data.reading import open_features

SORTED = ("ant", "bee", "cat", "dog")
UNSORTED = ("dog", "ant", "cat", "bee")  # as the labels of many datasets are
D = 5
COMMON = {"spec": spec_of(), "store_key": "ab" * 32, "temperature": 0.7}


def saved(strategy, names, **changes):
    """A head of the solver with random weights."""
    rng, k = np.random.default_rng(1), len(names)
    coding, n_heads = strategy_of(strategy).coding, strategy_of(strategy).n_heads(k)
    values = {
        "coef": rng.normal(size=(n_heads, D)).astype(np.float32),
        "intercept": rng.normal(size=n_heads).astype(np.float32),
        "C": 0.25,
        **COMMON,
    }
    if strategy not in ("multinomial", "ovr", "ovo"):
        values |= {"coding": coding, "setting": {"C": 0.25}}
    if strategy == "ecoc" and k > 2:
        values["code"] = code_book(k)
        values["setting"] = {"C": 0.25, "code_seed": 3}
    return SavedHead(strategy, names, **{**values, **changes})


def rows(n=60, seed=2, width=D):
    return (np.random.default_rng(seed).normal(size=(n, width)) * 2).astype(np.float32)


def load(tmp_path, head):
    path = tmp_path / "head.safetensors"
    save_head(path, head)
    return classify.load_head(path), read_head(path)


def same(estimator, head, X):
    """Compare labels, probabilities and their logarithms with those of the file."""
    columns = np.searchsorted(estimator.classes_, head.class_names)
    chances = estimator.predict_proba(X)
    np.testing.assert_allclose(chances[:, columns], head.probabilities(X), rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.exp(estimator.predict_log_proba(X)), chances, atol=1e-12)
    names = np.array(head.class_names)[head.predict(X)]
    np.testing.assert_array_equal(estimator.predict(X), names)
    assert estimator.score(X, names) == 1
    assert estimator.n_features_in_ == X.shape[1]
    assert estimator.classes_.tolist() == sorted(head.class_names)
    values = estimator.decision_function(X)
    if values.ndim == 1:
        values = np.stack([-values, values], axis=1)
    chosen = values[np.arange(len(X)), np.searchsorted(estimator.classes_, names)]
    np.testing.assert_array_equal(chosen, values.max(axis=1))


@pytest.mark.parametrize("names", [SORTED, UNSORTED, ("sick", "healthy"), ("a", "b")])
@pytest.mark.parametrize("strategy", ESTIMATORS)
def test_heads_of_the_solver_are_their_estimators(tmp_path, strategy, names):
    for norm, dtype in ((None, np.float32), ("l2", np.float32), (None, np.float64)):
        estimator, head = load(tmp_path, saved(strategy, names, normalize=norm))
        same(estimator, head, rows().astype(dtype))
    assert type(estimator) is ESTIMATORS[strategy]
    assert (estimator.C, estimator.fit_intercept, estimator.normalize) == (0.25, True, None)
    assert estimator.temperature_ == 0.7
    assert estimator.coef_.dtype == np.float64
    for name in ("n_iter_", "certificate_", "device_"):
        with pytest.raises(AttributeError, match=name):
            getattr(estimator, name)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict_proba(rows()), estimator.predict_proba(rows()))
    assert f"{type(estimator).__name__}(C=0.25" in repr(estimator)


def test_parts_of_rows_have_norms_of_their_own():
    head = saved("ovr", UNSORTED, normalize=(2, 3))
    same(estimator_of(head), head, rows())


@pytest.mark.parametrize("strategy", ["multinomial", "ovr", "ovo"])
def test_scikit_learns_own_agree_with_the_weights(tmp_path, strategy):
    estimator, _ = load(tmp_path, saved(strategy, UNSORTED))
    X, k = rows().astype(np.float64), 4
    if strategy == "multinomial":
        theirs = binary(estimator.coef_, estimator.intercept_, estimator.classes_)
        calibrated = scipy.special.softmax(theirs.decision_function(X) / 0.7, axis=1)
        np.testing.assert_allclose(estimator.predict_proba(X), calibrated, atol=1e-12)
    else:
        kind = OneVsRestClassifier if strategy == "ovr" else OneVsOneClassifier
        theirs = kind(LogisticRegression()).fit(X, np.array(SORTED)[np.arange(60) % k])
        for i, one in enumerate(theirs.estimators_):
            one.coef_, one.intercept_ = estimator.coef_[i, None], estimator.intercept_[i, None]
    np.testing.assert_allclose(
        estimator.decision_function(X), theirs.decision_function(X), atol=1e-12
    )
    np.testing.assert_array_equal(estimator.predict(X), theirs.predict(X))
    if strategy == "ovo":
        assert estimator.pairs_.tolist() == [[a, b] for a in range(k) for b in range(a + 1, k)]


def binary(coef, intercept, classes):
    model = LogisticRegression()
    model.coef_, model.intercept_, model.classes_ = coef, intercept, classes
    model.n_features_in_ = coef.shape[1]
    return model


@pytest.mark.parametrize("names", [SORTED, UNSORTED])
def test_sums_of_rows_are_put_in_order(names, monkeypatch):
    monkeypatch.setattr("classify.saved.heads.COMPACT_NUMBERS", 1)
    rng = np.random.default_rng(0)
    starts = np.array([0, 2, 3, 6, 8])
    own = np.repeat(np.arange(4), np.diff(starts))
    duals = np.where(own[:, None] == np.arange(4), 0, rng.normal(size=(8, 4)))
    sums = PairHead(rows(8), rng.normal(size=D), starts, duals, rng.normal(size=6))
    none = {"coef": np.empty((0, D), np.float32), "intercept": np.empty(0, np.float32)}
    head = saved("ovo", names, **none, sums=sums)
    estimator = estimator_of(head)
    same(estimator, head, rows())
    written_out = saved("ovo", names, coef=sums.coef, intercept=sums.intercept)
    np.testing.assert_allclose(estimator.coef_, estimator_of(written_out).coef_, atol=1e-12)
    np.testing.assert_allclose(
        estimator.intercept_, estimator_of(written_out).intercept_, atol=1e-12
    )


SETTINGS = {
    "ridge": {"alpha": 1.0},
    "lda": {"shrinkage": 0.1},
    "nearest-mean": {"distance": "cosine"},
    "knn": None,
    "tree": None,
    "forest-ovr": {"n_estimators": 3},
    "boosting": None,
}


def other(name, n_classes=4):
    rng = np.random.default_rng(0)
    y = np.arange(80) % n_classes
    X = (rng.normal(size=(n_classes, D))[y] * 2 + rng.normal(size=(80, D))).astype(np.float32)
    rows_of = RowSet(X, np.arange(80), y, n_classes)
    setting = {**head_kind(name).grid(rows_of)[0], **(SETTINGS[name] or {})}
    return head_kind(name).fit(rows_of, setting, FitContext(n_jobs=1)), X


@pytest.mark.parametrize("norm", [None, "l2"])
@pytest.mark.parametrize("names", [UNSORTED, ("sick", "healthy")])
@pytest.mark.parametrize("name", SETTINGS)
def test_heads_that_the_solver_does_not_fit(tmp_path, name, names, norm):
    trained, X = other(name, len(names))
    if name in ("ridge", "lda"):
        path = tmp_path / f"{name}.safetensors"
        weights = {"coef": trained.head.coef, "intercept": trained.head.intercept, "C": None}
        more = {"coding": "multinomial", "setting": trained.setting, "normalize": norm}
        save_head(path, SavedHead(name, names, **weights, **more, **COMMON))
        head = read_head(path)
    else:
        path = tmp_path / f"{name}.skops"
        save_model(path, SavedModel(name, names, trained, normalize=norm, **COMMON))
        head = load_model(path)
    estimator = classify.load_head(path)
    same(estimator, head, X)
    assert type(estimator) is HeadEstimator
    assert estimator.get_params()["setting"] == trained.setting
    assert hasattr(estimator, "coef_") == (name in ("ridge", "lda"))
    if hasattr(estimator, "coef_") and norm is None:
        scores = X.astype(np.float64) @ estimator.coef_.T + estimator.intercept_
        values = estimator.decision_function(X)
        np.testing.assert_allclose(scores.reshape(values.shape), values, atol=1e-10)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict_proba(X), estimator.predict_proba(X))
    # A clone is fitted anew, with the same setting, and has no temperature.
    y = np.array(names)[np.arange(80) % len(names)]
    fitted = clone(estimator).set_params(n_jobs=1).fit(X, y)
    assert not hasattr(fitted, "temperature_")
    if norm is None:  # but for votes that are equal
        assert (fitted.predict(X) == estimator.predict(X)).mean() > 0.97


def test_the_estimator_of_other_heads_passes_scikit_learns_checks():
    check_estimator(HeadEstimator("ridge", {"alpha": 1.0}), on_skip=None)


def test_a_fit_forgets_the_file(tmp_path):
    estimator, _ = load(tmp_path, saved("svm-ovo", UNSORTED))
    X, y = rows(), np.array(SORTED)[np.arange(60) % 4]
    assert hasattr(estimator, "predict_proba")
    fresh = classify.OneVsOneSVM(0.25).fit(X, y)
    estimator.fit(X, y)
    assert not hasattr(estimator, "predict_proba") and not hasattr(fresh, "predict_proba")
    assert vars(estimator).keys() == vars(fresh).keys()
    np.testing.assert_array_equal(estimator.decision_function(X), fresh.decision_function(X))
    ovo, _ = load(tmp_path, saved("ovo", UNSORTED))
    np.testing.assert_array_equal(
        ovo.fit(X, y).predict_proba(X), classify.OneVsOneLogistic(0.25).fit(X, y).predict_proba(X)
    )


def test_what_may_be_answered(tmp_path, make_store):
    torch = pytest.importorskip("torch")
    estimator, head = load(tmp_path, saved("ovo", UNSORTED, normalize="l2"))
    X = rows()
    expected = estimator.predict_proba(X)
    np.testing.assert_array_equal(estimator.predict_proba(torch.from_numpy(X)), expected)
    half = X.astype(np.float16)
    same(estimator, head, half)
    np.testing.assert_array_equal(
        estimator.predict_proba(torch.from_numpy(half)), estimator.predict_proba(half)
    )
    for wrong in (estimator, HeadEstimator.of("tree", other("tree")[0], UNSORTED)):
        with pytest.raises(ValueError, match=r"X has 7 features, but .* is expecting 5"):
            wrong.predict(rows(width=7))


@pytest.mark.parametrize("norm", [None, "l2"])
def test_rows_on_the_disk_are_answered(tmp_path, make_store, norm):
    path = make_store(tmp_path / "s" / "m.h5", names=SORTED, n=60, d=D)
    stored = open_features(path, in_memory=False).train.features
    X = open_features(path).train.features
    trained, _ = other("tree")
    ridge, _ = other("ridge")
    for estimator in (
        load(tmp_path, saved("ovr", SORTED, normalize=norm))[0],
        HeadEstimator.of("tree", trained, UNSORTED, normalize=norm),
        HeadEstimator.of("ridge", ridge, UNSORTED, normalize=norm),
    ):
        expected = estimator.predict_proba(np.asarray(X))
        np.testing.assert_allclose(estimator.predict_proba(stored), expected, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(estimator.predict(stored), estimator.predict(X))


def test_scikit_learns_tools_take_a_fitted_head(tmp_path):
    estimator, head = load(tmp_path, saved("multinomial", UNSORTED))
    X = rows(200)
    y = np.array(UNSORTED)[np.random.default_rng(0).integers(0, 4, 200)]
    frozen = FrozenEstimator(estimator)
    found = cross_val_score(frozen, X, y, scoring="neg_log_loss", cv=4)
    # By hand, with the columns where the file has them.
    chances = head.probabilities(X)[np.arange(200), [UNSORTED.index(name) for name in y]]
    assert found.mean() == pytest.approx(np.log(chances).mean(), rel=0.02)
    assert -log_loss(y, estimator.predict_proba(X)) == pytest.approx(np.log(chances).mean())
    pipeline = make_pipeline(FunctionTransformer(), estimator)
    np.testing.assert_array_equal(pipeline.predict_proba(X), estimator.predict_proba(X))
    CalibratedClassifierCV(frozen).fit(X, y).predict_proba(X)

    two, head = load(tmp_path, saved("ovo", ("sick", "healthy")))
    truth = np.where(rows(200)[:, 0] > 0, "sick", "healthy")
    healthy = head.probabilities(X)[:, 1]
    expected = roc_auc_score(truth == "healthy", healthy)
    scored = cross_val_score(FrozenEstimator(two), X, truth, scoring="roc_auc", cv=2)
    assert scored.mean() == pytest.approx(expected, abs=0.05)
    assert roc_auc_score(truth, two.predict_proba(X)[:, 1]) == pytest.approx(expected)


def test_files_that_are_something_else_are_told(tmp_path):
    run = tmp_path / "run"
    (run / "heads").mkdir(parents=True)
    save_head(run / "heads" / "ovr.safetensors", saved("ovr", SORTED))
    (run / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"folder of a run; give one of its heads: .*ovr.safeten"):
        classify.load_head(run)
    folder = tmp_path / "made"
    folder.mkdir()
    with pytest.raises(UserError, match="is a folder, not the file of a head; give a file"):
        classify.load_head(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="export --to timm"):
        classify.load_head(folder)
    (folder / "config.json").unlink()
    for name in ("weights.safetensors", "load.py"):
        (folder / name).touch()
    with pytest.raises(UserError, match="export --to torch"):
        classify.load_head(folder)
    for name, what in (("m.onnx", "ONNX"), ("m.pt2", "torch.export"), ("m.pkl", "a pickle")):
        (tmp_path / name).write_bytes(b"PK\x03\x04")
        with pytest.raises(UserError, match=rf"{what}.*not the file of a head; give a file"):
            classify.load_head(tmp_path / name)
    with pytest.raises(UserError, match=r"no head at .*; give a file heads/NAME"):
        classify.load_head(str(tmp_path / "none.skops"))
    (tmp_path / "other.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        classify.load_head(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"'later', with scores of ovr, .*no estimator"):
        estimator_of(replace(saved("ovr", SORTED, coding="ovr"), strategy="later"))
