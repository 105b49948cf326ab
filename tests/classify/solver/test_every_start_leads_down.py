"""No fit ends above its start, or above scikit-learn's best solver, whatever the sizes and C."""

import os
import warnings

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.solver.line_search import Look, search
from classify.solver.problems import class_pairs

ALL = [MultinomialLogistic, OneVsRestLogistic, OneVsOneLogistic]
DEVICES = ["cpu", "torch-cpu"]
LENGTHY = bool(os.environ.get("ICEBOX_FAULTS"))
WIDE = 2048 if LENGTHY else 512  # more than twice the rows in either case


def quiet_fit(model, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*arguments, **options)


def problems_of(strategy, y, k):
    """Which rows each problem has, and what it is asked of them."""
    if k == 2:
        return [(np.ones(len(y), bool), (y == 1).astype(int))]
    if strategy == "multinomial":
        return [(np.ones(len(y), bool), y)]
    if strategy == "ovr":
        return [(np.ones(len(y), bool), (y == c).astype(int)) for c in range(k)]
    return [((y == a) | (y == b), (y == b).astype(int)) for a, b in class_pairs(k)]


def slow_objective(X, t, weight, C, coef, intercept):
    """``C * sum(weight * loss) + ||coef||^2 / 2`` as it reads, one row after the other."""
    total = 0.0
    for row, label, s in zip(X.astype(np.float64), t, weight, strict=True):
        scores = coef @ row + intercept
        if len(scores) == 1:
            scores = np.array([0.0, scores[0]])
        others = np.delete(scores, label) - scores[label]
        # logsumexp(scores) - scores[label] would cancel all digits of a small loss.
        total += s * (np.log1p(np.exp(others).sum()) if others.max() < 500 else logsumexp(others))
    return C * total + 0.5 * (coef**2).sum()


def objectives(model, X, y, weight=None):
    """Every problem's objective at a fitted model, in the features that the penalty sees."""
    k, strategy = len(model.classes_), model._strategy
    weight = np.ones(len(y)) if weight is None else weight
    return [
        slow_objective(X[rows], t[rows] if len(t) == len(rows) else t, weight[rows], model.C, *part)
        for (rows, t), part in zip(problems_of(strategy, y, k), parts(model), strict=True)
    ]


def parts(model):
    if model._strategy == "multinomial" or len(model.coef_) == 1:
        return [(model.coef_, model.intercept_)]
    return [(model.coef_[i : i + 1], model.intercept_[i : i + 1]) for i in range(len(model.coef_))]


def best_of_scikit_learn(X, y, weight, C, strategy):
    """Of each problem, the lowest objective that any of its solvers finds in float64."""
    k, X = int(y.max()) + 1, X.astype(np.float64)
    weight = np.ones(len(y)) if weight is None else weight
    lowest = []
    for rows, t in problems_of(strategy, y, k):
        found = []
        for solver in ("lbfgs", "newton-cg", "newton-cholesky"):
            peer = LogisticRegression(C=C, solver=solver, tol=1e-10, max_iter=1000)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    peer.fit(X[rows], t[rows], sample_weight=weight[rows])
                except (ValueError, np.linalg.LinAlgError):
                    continue  # a solver that gives up says nothing
            if np.isfinite(peer.coef_).all():
                at = peer.coef_, peer.intercept_
                found.append(slow_objective(X[rows], t[rows], weight[rows], C, *at))
        lowest.append(min(found))
    return lowest


def everyday(shape):
    rng = np.random.default_rng(0)
    k, n_each, d, dtype = shape
    y = np.repeat(np.arange(k), n_each)
    return rng.normal(size=(len(y), d)).astype(dtype), y


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("estimator", "shape", "C"),
    [
        (OneVsOneLogistic, (5, 10, 100, np.float64), 3e4),
        (OneVsOneLogistic, (5, 10, 100, np.float64), 1e10),
        (OneVsRestLogistic, (5, 10, 100, np.float32), 1e8),
        (MultinomialLogistic, (5, 10, 100, np.float64), 1e10),
        (OneVsOneLogistic, (10, 20, WIDE, np.float32), 1e3),
        (OneVsRestLogistic, (10, 20, WIDE, np.float32), 1e5),
        (MultinomialLogistic, (10, 20, WIDE, np.float32), 1e5),
        (OneVsRestLogistic, (2, 25, 100, np.float64), 1e5),
        (OneVsOneLogistic, (20, 5, 64, np.float32), 1e4),  # few-shot: five rows a class
    ],
)
def test_few_rows_at_a_large_C_are_fitted(estimator, shape, C, device):
    X, y = everyday(shape)
    model = quiet_fit(estimator(C=C, device=device), X, y)
    assert model.certificate_["converged"], model.certificate_["status"]
    assert model.n_iter_.min() > 0
    assert model.score(X, y) == 1.0


def cases():
    """Sizes, kinds of data and C, seeded; more of them where ICEBOX_FAULTS is set."""
    rng = np.random.default_rng(9)
    for number in range(400 if LENGTHY else 40):
        yield pytest.param(
            {
                "seed": number,
                "n": int(rng.choice([4, 10, 30, 60])),
                "d": int(rng.choice([1, 3, 8, 40])),
                "k": int(rng.choice([2, 3, 4])),
                "C": float(10 ** rng.uniform(-8, 10)),
                "dtype": [np.float32, np.float64][number % 2],
                "apart": float(rng.choice([0, 1, 10])),
                "weighted": bool(rng.random() < 0.4),
                "standardize": bool(rng.random() < 0.5),
                "estimator": ALL[int(rng.integers(3))],
                "device": "torch-cpu" if rng.random() < 0.3 else "cpu",
            },
            id=str(number),
        )


def made(case):
    rng = np.random.default_rng(case["seed"])
    n, d, k = case["n"], case["d"], case["k"]
    y = np.arange(n) % k
    X = rng.normal(size=(n, d)) + case["apart"] * rng.normal(size=(k, d))[y]
    X = X.astype(case["dtype"])
    if case["standardize"]:  # of the same numbers as the model's, so that the objective is too
        X = ((X - X.mean(axis=0)) / X.std(axis=0)).astype(case["dtype"])
    weight = 10 ** rng.uniform(-2, 2, n) if case["weighted"] else None
    return X, y, weight


@pytest.mark.parametrize("case", list(cases()))
def test_no_fit_ends_above_its_start_or_above_scikit_learns(case):
    X, y, weight = made(case)
    model = case["estimator"](C=case["C"], device=case["device"])
    quiet_fit(model, X, y, sample_weight=weight)
    status = model.certificate_["problems"]["status"]
    found = np.array(objectives(model, X, y, weight))
    start = case["estimator"](C=case["C"])
    start.classes_ = model.classes_
    start.coef_, start.intercept_ = 0 * model.coef_, 0 * model.intercept_
    assert np.all(found <= (1 + 1e-6) * np.array(objectives(start, X, y, weight)))
    np.testing.assert_allclose(model.certificate_["problems"]["objective"], found, rtol=1e-5)
    best = np.array(best_of_scikit_learn(X, y, weight, case["C"], model._strategy))
    for mine, theirs, ended, n_iter in zip(found, best, status, model.n_iter_, strict=True):
        # A row's rounding in single precision is in the sum that the test makes, too.
        assert mine <= theirs * (1 + 3e-6) + 1e-300 or ended != "CONVERGED"
        assert n_iter > 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_along_a_path_of_C_no_start_is_left_upwards(estimator, dtype, device):
    from classify.linear_head import LinearHead

    X, y = everyday((4, 8, 30, dtype))
    start = None
    for C in np.logspace(-8, 10, 10):
        before = np.inf
        if start is not None:
            old = estimator(C=C)
            old.classes_, old.coef_, old.intercept_ = np.arange(4), start.coef, start.intercept
            before = np.array(objectives(old, X, y))
        model = quiet_fit(estimator(C=C, device=device), X, y, start=start)
        assert model.certificate_["converged"]
        assert np.all(np.array(objectives(model, X, y)) <= before * (1 + 1e-5))
        start = LinearHead(model.coef_, model.intercept_)


ODD = {
    "a constant feature": lambda X, y: (np.c_[X, np.full(len(X), 7.0)], y),
    "a feature of zeros": lambda X, y: (np.c_[X, np.zeros(len(X))], y),
    "rows of two labels": lambda X, y: (np.repeat(X[: len(X) // 2], 2, axis=0), y),
    "tiny features": lambda X, y: (X * 1e-15, y),
    "features of many sizes": lambda X, y: (X * 10.0 ** np.linspace(-6, 3, X.shape[1]), y),
    "one row of a class": lambda X, y: (X, np.where(np.arange(len(y)) == 0, 2, y % 2)),
    "two rows": lambda X, y: (X[:2], np.array([0, 1])),
    "one feature": lambda X, y: (X[:, :1], y),
    "apart by one feature": lambda X, y: (X, (X[:, 0] > 0).astype(int) + (X[:, 0] > 1)),
}


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("kind", ODD)
def test_odd_data_converge(estimator, kind):
    rng = np.random.default_rng(3)
    X, y = ODD[kind](rng.normal(size=(40, 5)), np.arange(40) % 3)
    for dtype in (np.float32, np.float64):
        for C in (1e-8, 1.0, 1e6):
            model = quiet_fit(estimator(C=C), X.astype(dtype), y)
            assert model.certificate_["converged"], (dtype, C)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_of_zero_are_no_answer_to_a_tiny_C(estimator, dtype, device):
    """They are within the tolerance, but the optimum's tiny weights tell the classes apart."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = (rng.normal(size=(90, 6)) + 3 * rng.normal(size=(3, 6))[y]).astype(dtype)
    model = quiet_fit(estimator(C=1e-8, device=device), X, y)
    assert model.n_iter_.min() > 0
    assert model.score(X, y) > 0.9


def test_a_gradient_of_zero_takes_no_step():
    X, y = np.ones((6, 2)), np.arange(6) % 3
    for estimator in ALL:
        model = quiet_fit(estimator(standardize=True), X, y)
        assert not model.coef_.any()
        assert model.certificate_["converged"]


def test_weights_over_twelve_orders_of_magnitude_converge():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 6)), rng.integers(0, 4, 80)
    for low, high in ((-12, 0), (-6, 6)):
        weight = 10 ** rng.uniform(low, high, 80)
        for estimator in ALL:
            model = quiet_fit(estimator(), X, y, sample_weight=weight)
            assert model.certificate_["converged"]


def test_a_limit_of_iterations_is_called_that():
    X, y = everyday((3, 20, 30, np.float64))
    model = MultinomialLogistic(C=100, max_iter=2)
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        model.fit(X, y)
    assert model.n_iter_.tolist() == [2]
    assert model.certificate_["status"] == "MAX_ITER"


def test_rounding_in_double_precision_is_not_blamed_on_single():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 6)) * 1e15, rng.integers(0, 3, 60)
    with pytest.warns(ConvergenceWarning, match="rounding") as caught:
        OneVsOneLogistic(C=1e3).fit(X, y)
    assert not [w for w in caught if "float" in str(w.message)]


def test_a_search_takes_no_flat_step_above_its_start():
    """The kink lies at 1e-4; at 1 the slope is as flat as 0.5, and the value far above."""
    looked = []

    def evaluate(step):
        looked.append(step[0])
        slope = np.where(step < 1e-4, -1.0, 0.5) + 1e-3 * step
        value = np.where(step < 1e-4, -step, -1e-4 + 0.5 * (step - 1e-4))
        return Look(slope, np.full_like(step, 1e-3), value > 0)

    steps = search(evaluate, np.array([-1.0]), 0.7)
    assert steps.found.all()
    assert steps.step[0] <= 3e-4
    assert len(looked) < 12


def test_a_search_that_finds_nothing_flat_returns_the_longest_step_that_still_falls():
    def evaluate(step):
        return Look(np.where(step < 0.3, -1.0, 1.0), np.full_like(step, 1e-9), step > 0.6)

    steps = search(evaluate, np.array([-1.0]), 0.01)
    assert not steps.found.any()
    assert steps.slope[0] < 0
    assert 0.29 < steps.step[0] < 0.3
