"""Accuracy against labels: the draws, the intervals, and the fits against scikit-learn's."""

import json
from dataclasses import replace
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from scipy.stats import ttest_1samp
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsOneClassifier
from sklearn.preprocessing import StandardScaler

from classify import MultinomialLogistic, OneVsOneLogistic
from classify.__main__ import main
from classify.analysis.few_shot import (
    DRAWS,
    draw_rows,
    drawable,
    few_shot,
    ladder,
    t_interval,
)
from classify.report.run_report import report_context, write_report
from classify.report.runs import read_results
from classify.wording import labels_sentence
from data.common.errors import UserError
from data.format.records import FeatureSplit
from data.reading import open_features


@pytest.fixture(scope="module")
def features(make_store, tmp_path_factory):
    store = tmp_path_factory.mktemp("few") / "features" / "toys" / "toynet-8px-00000000.h5"
    return open_features(make_store(store, n=120, d=20, dataset="toys"))


@pytest.fixture(scope="module")
def fitted(features):
    X, y = features.train.features, features.train.labels
    return {
        "multinomial": MultinomialLogistic(0.3, standardize=True).fit(X, y),
        "ovo": OneVsOneLogistic(0.1, standardize=True).fit(X, y),
    }


@pytest.fixture(scope="module")
def found(features, fitted):
    return few_shot(features, fitted, seed=3, jobs=2)


def test_counts_are_those_of_a_logarithmic_axis():
    assert ladder(5000) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
    assert ladder(11) == [1, 2, 5, 10]
    assert ladder(2) == [1]
    assert ladder(1) == ladder(0) == []


def test_draws_are_stratified_nested_and_reproducible():
    labels = np.random.default_rng(0).choice(4, 300, p=[0.5, 0.3, 0.19, 0.01])
    sizes = np.bincount(labels, minlength=4)
    sets = draw_rows(labels, [1, 5, 60], draw=2, seed=7)
    for count, rows in zip([1, 5, 60], sets, strict=True):
        assert np.bincount(labels[rows], minlength=4).tolist() == np.minimum(sizes, count).tolist()
        assert np.array_equal(rows, np.unique(rows))
    assert set(sets[0]) < set(sets[1]) < set(sets[2])
    assert np.array_equal(draw_rows(labels, [5], draw=2, seed=7)[0], sets[1])
    assert not np.array_equal(draw_rows(labels, [5], draw=3, seed=7)[0], sets[1])
    assert not np.array_equal(draw_rows(labels, [5], draw=2, seed=8)[0], sets[1])


def test_interval_is_that_of_scipys_t_test():
    values = np.random.default_rng(0).uniform(0.4, 0.6, 5)
    theirs = ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((theirs.low, theirs.high))
    assert t_interval([0.0, 1.0]) == (0.0, 1.0)


def test_accuracies_are_those_of_scikit_learn_on_the_drawn_rows(features, found):
    X, y = np.asarray(features.train.features, dtype=np.float64), features.train.labels
    X_test = np.asarray(features.test.features, dtype=np.float64)
    for name, make in (
        ("multinomial", lambda: LogisticRegression(C=0.3, tol=1e-8, max_iter=5000)),
        (
            "ovo",
            lambda: OneVsOneClassifier(LogisticRegression(C=0.1, tol=1e-8, max_iter=5000)),
        ),
    ):
        curve = found["curves"][name]
        assert [point["per_class"] for point in curve] == [1, 2, 5, 10, 20, None]
        for draw in range(DRAWS):
            sets = draw_rows(y, [1, 2, 5, 10, 20], draw, seed=3)
            for rows, point in zip(sets, curve, strict=False):
                scaler = StandardScaler().fit(X[rows])
                theirs = make().fit(scaler.transform(X[rows]), y[rows])
                accuracy = theirs.score(scaler.transform(X_test), features.test.labels)
                # One test row of 60 may lie on the border, within the tolerance of these fits.
                assert abs(point["accuracies"][draw] - accuracy) <= 1 / 60 + 1e-9
        for point in curve[:-1]:
            assert point["mean"] == pytest.approx(np.mean(point["accuracies"]))
            assert point["ci95"] == pytest.approx(t_interval(point["accuracies"]))


def test_all_labels_are_the_fit_that_exists(features, fitted, found):
    for name, estimator in fitted.items():
        last = found["curves"][name][-1]
        score = estimator.score(features.test.features, features.test.labels)
        assert (last["per_class"], last["ci95"], last["n_train"]) == (None, None, 120)
        assert last["mean"] == score


@pytest.mark.parametrize("backend", ["sequential", "threading", "loky"])
def test_every_joblib_backend_gives_the_same(features, fitted, found, backend):
    with joblib.parallel_config(backend=backend, n_jobs=2):
        assert few_shot(features, fitted, seed=3) == found


def test_a_worker_refuses_another_store(features, fitted, tmp_path, make_store):
    other = make_store(tmp_path / "features" / "toys" / "toynet-8px-00000000.h5", n=60, size=99)
    swapped = SimpleNamespace(
        path=other, key="0" * 64, train=features.train, test=features.test, kept_classes=()
    )
    with joblib.parallel_config(backend="loky", n_jobs=2), pytest.raises(UserError, match="key"):
        few_shot(swapped, fitted)


def test_the_memory_of_a_run_leaves_out_what_it_has_no_room_for(features, fitted):
    few = few_shot(features, fitted, memory=4 * 20 * 4 * 40)
    assert few["left_out"] == [20]
    assert [point["per_class"] for point in few["curves"]["ovo"]] == [1, 2, 5, 10, None]


def test_classes_of_two_rows_have_no_curve(features, fitted):
    train = replace(
        features.train,
        labels=np.repeat(np.arange(30), 2),
        features=features.train.features[:60],
        ids=features.train.ids[:60],
    )
    two = replace(features, train=train)
    found = few_shot(two, fitted, whole={"ovo": 0.25})
    assert [point["per_class"] for point in found["curves"]["ovo"]] == [None]
    assert found["curves"]["ovo"][0]["mean"] == 0.25
    assert found["left_out"] == []


def test_enough_is_where_the_curve_stays_near_its_end():
    def curve(*means):
        return [{"per_class": 10**i, "mean": mean} for i, mean in enumerate(means)]

    from classify.analysis.few_shot import _enough

    assert _enough(curve(0.3, 0.795, 0.8)) == 10
    assert _enough(curve(0.3, 0.7, 0.8)) is None
    assert _enough(curve(0.795, 0.7, 0.8)) is None
    assert _enough(curve(0.9, 0.8, 0.8)) == 1
    said = labels_sentence(
        {
            "near": 0.01,
            "curves": {"ovr": curve(0.3, 0.8, 0.8), "ovo": curve(0.3, 0.4, 0.8)},
            "enough": {"ovr": 10, "ovo": None},
        }
    )
    assert said.endswith(
        "within 1 point of its accuracy with all of them: OvR 10, OvO more than 10."
    )


@pytest.mark.figures
def test_the_report_shows_every_number(fitted_run):
    folder, _ = fitted_run
    results = read_results(folder / "results.json")
    few = results["few_shot"]
    assert list(few["curves"]) == ["multinomial", "ovr", "ovo"]
    assert results["timings"]["few_shot"] > 0
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for document in (page, text):
        assert labels_sentence(few) in document
        for curve in few["curves"].values():
            for point in curve:
                assert f"{100 * point['mean']:.2f}" in document
    assert "(figures/few-shot.svg)" in text
    assert (folder / "figures" / "few-shot.svg").is_file()


def test_runs_without_curves_have_no_such_section(make_store, tmp_path):
    store = make_store(tmp_path / "features" / "toys" / "toynet-8px-00000000.h5", dataset="toys")
    reports = tmp_path / "reports"
    main(["fit", str(store), f"--reports-dir={reports}", "--c=1", "--jobs=1", "--no-few-shot"])
    (folder,) = next(reports.iterdir()).iterdir()
    assert "few_shot" not in json.loads((folder / "results.json").read_text())
    assert "How many labels" not in (folder / "report.html").read_text()


def test_one_image_per_class_draws_no_curve(make_store, tmp_path):
    store = make_store(
        tmp_path / "features" / "toys" / "toynet-8px-00000000.h5", labels_train=[0, 1, 2]
    )
    reports = tmp_path / "reports"
    main(["fit", str(store), f"--reports-dir={reports}", "--c=1", "--jobs=1"])
    (folder,) = next(reports.iterdir()).iterdir()
    assert "there is no curve to draw" in (folder / "report.html").read_text()


def test_damaged_curves_are_named(make_results, tmp_path, found):
    results, *_ = make_results(strategies=("multinomial", "ovo"))
    results["few_shot"] = json.loads(json.dumps(found))
    (tmp_path / "results.json").write_text(json.dumps(results))
    write_report(tmp_path)
    assert report_context(read_results(tmp_path / "results.json"))["few_shot"] == found
    results["few_shot"]["curves"]["ovo"].pop()
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"few_shot\.curves"):
        read_results(tmp_path / "results.json")


def test_draws_take_groups_one_after_the_other_and_leave_out_those_of_the_test_split():
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(0, 12, 400), rng.integers(0, 3, 400)
    (few, more) = draw_rows(labels, [5, 40], draw=1, seed=2, groups=groups)
    assert set(few) < set(more)
    for k in range(3):
        taken, left = more[labels[more] == k], np.setdiff1d(np.flatnonzero(labels == k), more)
        assert len(taken) == 40
        assert (
            len(set(groups[taken]) & set(groups[left])) <= 1
        )  # one group is cut, the others whole
    assert not np.array_equal(few, draw_rows(labels, [5], draw=1, seed=2)[0])

    def store(train_groups, test_groups, weights=None):
        y = np.array([0, 0, 1, 1])
        train = FeatureSplit(np.zeros((4, 2), np.float32), y, list("abcd"), train_groups, weights)
        return SimpleNamespace(train=train, test=SimpleNamespace(groups=test_groups))

    rows, note = drawable(store(np.array([0, 1, 2, 3]), np.array([1, 9])))
    assert rows.tolist() == [0, 2, 3] and not note
    rows, note = drawable(store(np.array([0, 1, 2, 3]), np.array([2, 3])))
    assert rows.tolist() == [0, 1, 2, 3] and "without them a class has no rows" in note
    weights = np.array([0, 1.0, 1, 1])
    assert drawable(store(None, None, weights))[0].tolist() == [1, 2, 3]
