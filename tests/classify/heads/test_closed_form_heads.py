"""What ridge, LDA, nearest means and nearest rows have in common."""

import copy
import tracemalloc

import numpy as np
import pytest
from clusters_for_tests import CONTEXT, clusters, row_set
from rows_for_tests import Rows

from classify.heads import class_covariance, moments, nearest_mean, neighbours
from classify.heads.interface import FitContext, RowSet
from classify.heads.knn import FILE_COPIES
from classify.heads.registry import head_kind

SETTINGS = [
    ("ridge", {"alpha": 1.0}),
    ("lda", {"shrinkage": "ledoit-wolf"}),
    ("lda", {"shrinkage": 0.1}),
    ("nearest-mean", {"distance": "standardized"}),
    ("nearest-mean", {"distance": "centred cosine"}),
    ("knn", {"k": 10}),
]
NAMES = [f"{name} {next(iter(setting.values()))}" for name, setting in SETTINGS]
each = pytest.mark.parametrize("name, setting", SETTINGS, ids=NAMES)
shapes = pytest.mark.parametrize("n, d", [(300, 12), (30, 50)], ids=["many rows", "few rows"])


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    for name, rows in (("FEWEST_ROWS", 48), ("MOST_ROWS", 48)):
        monkeypatch.setattr(moments, name, rows)
    monkeypatch.setattr(neighbours, "ROWS", 48)


def close(a, b, atol=1e-5):
    np.testing.assert_allclose(a.values, b.values, rtol=1e-5, atol=atol * abs(b.values).max())
    np.testing.assert_allclose(a.log_probabilities, b.log_probabilities, rtol=1e-5, atol=1e-5)


@each
@shapes
def test_weights_are_repeated_rows(name, setting, n, d):
    kind = head_kind(name)
    X, y = clusters(n, d, 3)
    times = np.random.default_rng(0).integers(1, 4, n)
    again = np.repeat(np.arange(n), times)
    if name == "knn":  # a row votes with its weight, and is one of k all the same
        few, many = {"k": n}, {"k": len(again)}
    else:
        few = many = setting
    one = kind.fit(row_set(X, y, times.astype(float)), few, CONTEXT)
    other = kind.fit(row_set(X[again], y[again]), many, CONTEXT)
    a, b = one.answers(X).values, other.answers(X).values
    rounding = 2e-5 if name == "knn" else 1e-6  # of similarities in float32, over 0.07
    np.testing.assert_allclose(a, b, rtol=rounding, atol=1e-9 * abs(b).max())


@each
@shapes
@pytest.mark.parametrize("n_classes", [2, 3])
def test_rows_on_the_disk_give_the_same(name, setting, n, d, n_classes):
    kind = head_kind(name)
    X, y = clusters(n, d, n_classes, dtype=np.float32)
    source, rows = Rows(X), np.flatnonzero(np.arange(n) % 7)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(rows))
    on_disk = RowSet(source, rows, y[rows], n_classes, weights, memory=10**9)
    in_memory = RowSet(X, rows, y[rows], n_classes, weights)
    close(*(kind.fit(r, setting, CONTEXT).answers(X) for r in (on_disk, in_memory)))


@each
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_state_makes_the_same_head_again(name, setting, n_classes):
    kind = head_kind(name)
    X, y = clusters(120, 6, n_classes, dtype=np.float32)
    head = kind.fit(row_set(X, y), setting, CONTEXT)
    state = copy.deepcopy(head.state())
    again = kind.trained.from_state(state)
    assert (again.setting, again.n_features, again.n_classes) == (setting, 6, n_classes)
    for a, b in zip(again.answers(X), head.answers(X), strict=True):
        np.testing.assert_array_equal(a, b)


@each
def test_the_number_of_threads_changes_no_bit(name, setting):
    kind = head_kind(name)
    X, y = clusters(500, 20, 3, dtype=np.float32)
    one, three = (
        kind.fit(row_set(X, y), setting, FitContext(n_jobs=n)).answers(X).values for n in (1, 3)
    )
    np.testing.assert_array_equal(one, three)


@each
@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_features_far_from_zero_keep_their_digits(name, setting, offset):
    if name == "knn":
        pytest.skip("the cosine of raw features is that of their offset")
    kind = head_kind(name)
    X, y = clusters(400, 6, 3)
    far = (X + offset).astype(np.float32)
    near = far.astype(np.float64) - offset
    a = kind.fit(row_set(far, y), setting, CONTEXT).answers(far)
    b = kind.fit(row_set(near, y), setting, CONTEXT).answers(near)
    np.testing.assert_allclose(
        a.log_probabilities, b.log_probabilities, rtol=1e-4, atol=1e-4
    )  # float32 features differ by 0.06 at 1e6, and both see the same ones


@each
@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1e15, 1e25])
def test_features_of_any_size_are_told_apart(name, setting, scale):
    kind = head_kind(name)
    X, y = clusters(400, 6, 3, spread=0.2)
    scaled = (X * scale).astype(np.float32)
    expected = kind.fit(row_set(X, y), setting, CONTEXT).answers(X).values.argmax(axis=1)
    found = kind.fit(row_set(scaled, y), setting, CONTEXT).answers(scaled)
    assert np.mean(found.values.argmax(axis=1) == expected) > 0.99
    assert np.isfinite(found.log_probabilities).all()


AWKWARD = {
    "a row a class": (np.eye(3, 4) + 1, [0, 1, 2]),
    "two rows": (np.array([[0.0, 2.0], [1.0, 2.0]]), [0, 1]),
    "a class of one row": (np.vstack([np.eye(5, 4), np.full((1, 4), 9.0)]), [0, 0, 1, 1, 1, 2]),
    "rows of zeros": (np.vstack([np.zeros((3, 4)), np.eye(3, 4) + 3]), [0, 0, 0, 1, 1, 1]),
    "constant features": (np.c_[np.arange(6.0), np.full((6, 3), 0.1)], [0, 0, 0, 1, 1, 1]),
}


@each
@pytest.mark.parametrize("case", AWKWARD)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_awkward_rows_have_finite_answers(name, setting, case, dtype):
    kind = head_kind(name)
    X, y = AWKWARD[case]
    rows = row_set(X.astype(dtype), y)
    for chosen in [setting, *kind.grid(rows)]:
        head = kind.fit(rows, chosen, CONTEXT)
        answers = head.answers(X.astype(dtype))
        assert np.isfinite(answers.values).all() and np.isfinite(answers.log_probabilities).all()
        total = np.exp(answers.log_probabilities).sum(axis=1)
        np.testing.assert_allclose(total, 1)
        # Cosines do not see what lies on one line, nor ridge one row among many.
        told_apart = name == "lda" or (name == "ridge" and case != "a class of one row")
        if told_apart and chosen == setting:
            np.testing.assert_array_equal(answers.values.argmax(axis=1), y)


@each
def test_constant_features_have_no_part(name, setting):
    kind = head_kind(name)
    X, y = clusters(200, 5, 3, dtype=np.float32)
    constant = np.full((200, 1), 0.1, np.float32)
    both = np.hstack([X, constant])
    if name == "knn":
        pytest.skip("raw features: a constant one is part of every row")
    head = kind.fit(row_set(both, y), setting, CONTEXT)
    moved = both + np.array([0, 0, 0, 0, 0, 1], np.float32)
    if setting.get("distance") == "centred cosine":
        return
    np.testing.assert_allclose(head.answers(both).values, head.answers(moved).values, atol=1e-6)


@each
def test_a_class_without_rows_is_not_answered(name, setting):
    kind = head_kind(name)
    X, y = clusters(100, 5, 3)
    y[y == 1] = 2
    answers = kind.fit(row_set(X, y, n_classes=3), setting, CONTEXT).answers(X)
    assert 1 not in answers.values.argmax(axis=1)
    assert np.isfinite(answers.log_probabilities).all()


@each
def test_numbers_that_are_not_finite_are_refused(name, setting):
    if name == "knn":
        pytest.skip("keeps its rows unread; stores are looked through when they are written")
    X, y = clusters(100, 5, 3, dtype=np.float32)
    X[50, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        head_kind(name).fit(row_set(X, y), setting, CONTEXT)


@pytest.mark.parametrize("name", ["ridge", "lda", "nearest-mean", "knn"])
@pytest.mark.parametrize("n, d, n_classes", [(3000, 200, 4), (150, 300, 3), (900, 150, 90)])
def test_a_fit_takes_no_more_memory_than_it_says(name, n, d, n_classes, monkeypatch):
    monkeypatch.setattr(moments, "BLOCK_BYTES", 1 << 17)
    monkeypatch.setattr(nearest_mean, "NORM_NUMBERS", 1 << 13)
    monkeypatch.setattr(class_covariance, "KEPT_BYTES", 1 << 18)
    monkeypatch.setattr(neighbours, "QUERIES", 32)
    kind = head_kind(name)
    X, y = clusters(n, d, n_classes, dtype=np.float32)
    said = kind.fit_bytes(n, d, n_classes)
    rows = RowSet(Rows(X), np.arange(n), y, n_classes, memory=said)  # room for one thread
    kind.answers(list(kind.path(rows, rows, kind.grid(rows), FitContext(n_jobs=4))), X[:32])
    tracemalloc.start()
    heads = list(kind.path(rows, rows, kind.grid(rows), FitContext(n_jobs=4)))
    kind.answers(heads, X[:32])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if name == "knn":
        said -= FILE_COPIES * kind.saved_bytes(n, d, n_classes)
    assert peak < said + 200_000  # of the interpreter
    if name in ("ridge", "lda"):
        assert peak > said / 10


@pytest.mark.parametrize("name", ["ridge", "lda", "nearest-mean", "knn"])
def test_a_path_answers_as_its_heads_do_and_counts_its_steps(name):
    kind = head_kind(name)
    X, y = clusters(250, 5, 3, dtype=np.float32)
    rows = row_set(X, y)
    steps = []
    context = FitContext(n_jobs=2, on_steps=steps.append)
    grid = kind.grid(rows)
    heads = list(kind.path(rows, rows, grid, context))
    assert [head.setting for head in heads] == grid and sum(steps) == kind.n_steps(grid) - 1
    for head, answers in zip(heads, kind.answers(heads, X), strict=True):
        close(answers, head.answers(X))
        if name != "knn":
            close(kind.fit(rows, head.setting, context).answers(X), answers)
