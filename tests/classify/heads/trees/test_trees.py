import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from classify.heads.interface import FitContext, RowSet
from classify.heads.registry import HEADS, head_kind
from classify.heads.trees.heads import STEPS, TrainedTrees

NAMES = [name for name in HEADS if name.partition("-")[0] in ("tree", "forest", "boosting")]
SETTINGS = {
    "tree": {"components": None, "min_samples_leaf": 3},
    "forest": {"components": None, "min_samples_leaf": 2, "n_estimators": 7},
    "boosting": {"components": None, "learning_rate": 0.2, "max_iter": 9, "iterations": 6},
}
THEIRS = {
    "tree": DecisionTreeClassifier(min_samples_leaf=3, random_state=3),
    "forest": RandomForestClassifier(7, min_samples_leaf=2, random_state=3),
    "boosting": HistGradientBoostingClassifier(
        max_iter=6, learning_rate=0.2, min_samples_leaf=8, early_stopping=False, random_state=3
    ),
}
CONTEXT = FitContext(seed=3, n_jobs=1)


def problem(n_classes=3, n=400, d=6, seed=0):
    rng = np.random.default_rng(seed)
    y = np.sort(rng.integers(0, n_classes, n))
    X = rng.normal(size=(n_classes, d))[y] + rng.normal(size=(n, d))
    order = rng.permutation(n)
    return X[order].astype(np.float32), y[order]


def row_set(X, y, weights=None):
    return RowSet(X, np.arange(len(X), dtype=np.intp), y, int(y.max()) + 1, weights)


def fitted(name, X, y, weights=None, context=CONTEXT, **setting):
    kind = head_kind(name)
    setting = {**SETTINGS[kind.base], **setting}
    return kind.fit(row_set(X, y, weights), setting, context)


def theirs(name):
    base, _, reduction = name.partition("-")
    wrap = {"": lambda e: e, "ovr": OneVsRestClassifier, "ovo": OneVsOneClassifier}[reduction]
    return wrap(THEIRS[base])


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of OpenMP that wait for each other would be most of the time of these tests."""
    with threadpool_limits(1, user_api="openmp"):
        yield


def clear(estimator, values, T):
    """Tell where neither a problem nor the decision ties but for rounding."""
    first, second = np.sort(values, axis=1)[:, -2:].T
    found = second - first > 1e-5
    if isinstance(estimator, OneVsOneClassifier):
        shares = [np.ravel(pair.predict_proba(T)[:, 1]) for pair in estimator.estimators_]
        found &= (np.abs(np.array(shares) - 0.5) > 1e-5).all(axis=0)
    return found


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_scikit_learns(name, n_classes):
    X, y = problem(n_classes)
    T, _ = problem(n_classes, seed=1)
    estimator = theirs(name).fit(X, y)
    found = fitted(name, X, y).answers(T)
    decided = clear(estimator, found.values, T)
    assert decided.mean() > 0.5
    assert (found.values.argmax(axis=1) == estimator.predict(T))[decided].all()
    compared = {"forest": "predict_proba", "tree-ovr": None, "forest-ovr": None, "tree": None}
    method = compared.get(name, "decision_function")
    if n_classes > 2 and method:
        np.testing.assert_allclose(
            found.values[decided], getattr(estimator, method)(T)[decided], atol=1e-6
        )
    chances = np.exp(found.log_probabilities)
    assert np.isfinite(found.log_probabilities).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1)


@pytest.mark.parametrize("name", ["tree", "forest", "boosting"])
def test_probabilities_are_scikit_learns_but_for_what_keeps_them_above_zero(name):
    X, y = problem(3)
    expected = theirs(name).fit(X, y).predict_proba(X)
    head = fitted(name, X, y)
    chances = np.exp(head.answers(X).log_probabilities)
    if name == "boosting":
        np.testing.assert_allclose(chances, expected, atol=1e-6)
    elif name == "forest":
        np.testing.assert_allclose(chances, (7 * expected + 1 / 3) / 8, atol=1e-6)
    else:
        leaves = THEIRS["tree"].fit(X, y).apply(X)
        n = np.bincount(leaves)[leaves][:, None]
        np.testing.assert_allclose(chances, (n * expected + 1) / (n + 3), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_weights_count_and_files_give_the_same_answers(name):
    X, y = problem(3)
    y = np.where(np.random.default_rng(2).random(len(y)) < 0.3, 0, y)  # labels that overlap
    heavy = np.where(y == 2, 50.0, 1.0)
    plain, weighted = fitted(name, X, y), fitted(name, X, y, heavy)
    answers = weighted.answers(X)
    assert (answers.values.argmax(axis=1) == 2).sum() > (
        plain.answers(X).values.argmax(axis=1) == 2
    ).sum()
    again = TrainedTrees.from_state(weighted.state()).answers(X)
    assert (again.values == answers.values).all()
    assert (again.log_probabilities == answers.log_probabilities).all()


@pytest.mark.parametrize("name", NAMES)
def test_threads_and_components_change_nothing_that_they_should_not(name):
    X, y = problem(3, d=70)
    kind, rows = head_kind(name), row_set(X, y)
    grid = kind.grid(rows)
    assert grid[0]["components"] == 64
    steps, found = [], []
    # Two threads of OpenMP wait for each other where processors are busy.
    for n_jobs in (1, 1 if name == "boosting" else 2):
        context = FitContext(seed=0, n_jobs=n_jobs, on_steps=steps.append)
        setting = {**SETTINGS[kind.base], "components": 64}
        found.append(kind.fit(rows, setting, context).answers(X).values)
    np.testing.assert_allclose(*found, atol=1e-12)
    assert sum(steps) == 2 * STEPS


@pytest.mark.parametrize("name", ["boosting", "boosting-ovo"])
def test_boosting_stops_where_held_out_rows_say(name):
    X, y = problem(3, n=300)
    T, u = problem(3, n=300, seed=0)
    u = np.random.default_rng(0).permutation(u)  # nothing to learn: every iteration makes it worse
    kind, rows = head_kind(name), row_set(X, y)
    grid = [{"components": None, "learning_rate": 0.3, "max_iter": 50}]
    (head,) = kind.path(rows, row_set(T, u), grid, CONTEXT)
    assert head.setting["iterations"] <= 5
    (head,) = kind.path(rows, rows, grid, CONTEXT)
    assert head.setting["iterations"] > 40
    again = kind.fit(rows, head.setting, CONTEXT)
    if name == "boosting":
        np.testing.assert_allclose(again.answers(X).values, head.answers(X).values, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_training_rows_has_a_small_probability(name):
    X, y = problem(4)
    some = y != 2
    kind = head_kind(name)
    rows = RowSet(X, np.flatnonzero(some), y[some], 4)
    found = kind.fit(rows, SETTINGS[kind.base], CONTEXT).answers(X[some])
    assert not (found.values.argmax(axis=1) == 2).any()
    assert np.isfinite(found.log_probabilities).all()
    # Coupling takes 0 against 1 of a class that never won for less than certain.
    assert np.exp(found.log_probabilities[:, 2]).mean() < 0.12


@pytest.mark.parametrize("change", ["feature", "children", "loop", "roots", "bounds", "values"])
def test_trees_that_lead_nowhere_are_refused(change):
    X, y = problem(3)
    state = fitted("forest", X, y).state()
    trees = {name: array.copy() for name, array in state["trees"].items()}
    if change == "loop":
        trees["children"][5] = 2
    elif change == "values":
        trees["values"][0] = 2
    else:
        trees[change].reshape(-1)[1] = 10**6
    with pytest.raises(ValueError, match=r"lead nowhere|between 0 and 1"):
        TrainedTrees.from_state({**state, "trees": trees})
