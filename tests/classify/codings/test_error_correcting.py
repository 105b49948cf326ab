"""Code books: what they are, what is fitted to them, and how scores are decoded."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OutputCodeClassifier

from classify import ErrorCorrectingLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.codings.code_books import code_log_probabilities, code_values
from classify.codings.decisions import decision_values
from classify.estimators import answers_of
from classify.selection import select_C
from classify.solver.codes import code_book, one_vs_one_code, one_vs_rest_code


def digits(n=600):
    X, y = load_digits(return_X_y=True)
    return X[:n] / 16, y[:n]


@pytest.mark.parametrize("k", [2, 3, 5, 7, 8, 10, 37])
def test_every_problem_divides_the_classes_in_its_own_way(k):
    code = code_book(k)
    assert code.shape == (k, {2: 1, 3: 3, 5: 15, 7: 63, 8: 30, 10: 34, 37: 53}[k])
    assert set(np.unique(code)) == {-1, 1}
    divisions = {frozenset([column.tobytes(), (-column).tobytes()]) for column in code.T}
    assert len(divisions) == code.shape[1]
    assert (np.abs(code.sum(axis=0)) < k).all()
    assert not code.flags.writeable


def nearest_rows(code):
    """In how many problems the two classes differ that are nearest to each other."""
    return min((a != b).sum() for i, a in enumerate(code) for b in code[:i])


def test_the_best_of_many_draws_is_taken():
    random = np.random.RandomState(0)
    usual = [nearest_rows(random.randint(0, 2, (10, 34))) for _ in range(200)]
    assert nearest_rows(code_book(10)) > np.quantile(usual, 0.9)
    assert not np.array_equal(code_book(10, 1), code_book(10))


@pytest.mark.parametrize(
    ("make", "estimator", "decoding"),
    [(one_vs_rest_code, OneVsRestLogistic, "loss"), (one_vs_one_code, OneVsOneLogistic, "votes")],
)
def test_one_vs_rest_and_one_vs_one_are_code_books(make, estimator, decoding):
    X, y = digits()
    usual = estimator(0.1, tol=1e-11).fit(X[:400], y[:400])
    ours = ErrorCorrectingLogistic(0.1, code=make(10), decoding=decoding, tol=1e-11)
    ours.fit(X[:400], y[:400])
    np.testing.assert_allclose(ours.coef_, usual.coef_, atol=2e-5)
    np.testing.assert_allclose(ours.intercept_, usual.intercept_, atol=2e-5)
    assert np.array_equal(ours.predict(X[400:]), usual.predict(X[400:]))
    # The decoder alone: the same scores, and answers that differ by what is the same for all.
    scores = np.random.default_rng(0).normal(size=(200, len(usual.coef_)))
    apart = code_values(make(10), scores, decoding) - decision_values(usual._strategy, scores, 10)
    np.testing.assert_allclose(apart, np.repeat(apart[:, :1], 10, axis=1), atol=1e-9)


def test_against_scikit_learn_on_its_code_book():
    X, y = digits()
    theirs = OutputCodeClassifier(
        LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000), code_size=1.5, random_state=2
    )
    theirs.fit(X[:400], y[:400])
    code = theirs.code_book_.astype(int)
    ours = ErrorCorrectingLogistic(0.1, code=code, tol=1e-11).fit(X[:400], y[:400])
    coef = np.concatenate([each.coef_ for each in theirs.estimators_])
    np.testing.assert_allclose(ours.coef_, coef, atol=1e-4)
    # scikit-learn answers with the nearest row of the code book.
    scores = X[400:] @ ours.coef_.T + ours.intercept_
    nearest = ((scores[:, None] - code) ** 2).sum(axis=2).argmin(axis=1)
    assert np.array_equal(theirs.predict(X[400:]), nearest)
    assert ours.score(X[400:], y[400:]) >= theirs.score(X[400:], y[400:]) - 0.02


def test_decoding_is_a_slow_loops():
    rng = np.random.default_rng(1)
    code = rng.integers(-1, 2, (5, 9)).astype(np.int8)
    scores = 3 * rng.normal(size=(40, 9))
    sums = np.array(
        [
            [sum(np.log1p(np.exp(-m * f)) for m, f in zip(row, each, strict=True)) for row in code]
            for each in scores
        ]
    )
    np.testing.assert_allclose(code_values(code, scores, "loss"), -sums, rtol=1e-12)
    chances = np.exp(-sums) / np.exp(-sums).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(code_log_probabilities(code, scores)), chances, rtol=1e-9)
    assert np.isfinite(code_log_probabilities(code, 1e5 * scores)).all()


def test_answers_agree_with_each_other_and_one_fit_serves_all():
    X, y = digits()
    model = ErrorCorrectingLogistic(0.1, standardize=True).fit(X, y)
    values, chances, margins = answers_of(model, X)
    assert margins is None
    np.testing.assert_array_equal(values, model.decision_function(X))
    np.testing.assert_array_equal(chances, model.predict_proba(X))
    assert np.array_equal(model.predict(X), chances.argmax(axis=1))
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    np.testing.assert_allclose(np.log(chances[chances > 1e-300]),
                               model.predict_log_proba(X)[chances > 1e-300], atol=1e-8)  # fmt: skip
    assert len(model.certificate_["problems"]["status"]) == model.code_.shape[1] == 34


def test_a_device_finds_the_same_heads():
    pytest.importorskip("torch")
    X, y = load_iris(return_X_y=True)
    model = ErrorCorrectingLogistic(0.1, tol=1e-10).fit(X, y)
    again = ErrorCorrectingLogistic(0.1, tol=1e-10, device="torch-cpu").fit(X, y)
    np.testing.assert_allclose(again.coef_, model.coef_, atol=1e-5)


def test_a_path_judges_every_problem_on_the_rows_of_its_classes():
    X, y = load_iris(return_X_y=True)
    found = select_C("ecoc", X, y, grid=[1e-3, 0.1, 10.0], full_path=True)
    assert found.per_problem_c.shape == (3,)
    assert max(step["accuracy"] for step in found.path) > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"code": [[1, -1], [-1, 1]]}, "one row for each of the 3 classes"),
        ({"code": [[1], [2], [-1]]}, "-1, 0 and 1 only"),
        ({"code": [[1, 1], [1, -1], [0, 1]]}, r"column 0 of code has no negative"),
        ({"code": [[1], [1], [-1]]}, "two classes with the same row"),
        ({"decoding": "hamming"}, "decoding must be"),
        ({"random_state": -1}, "random_state must be"),
    ],
)
def test_bad_code_books_are_refused(options, message):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=message):
        ErrorCorrectingLogistic(**options).fit(X, y)
