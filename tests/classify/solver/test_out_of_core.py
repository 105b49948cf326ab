"""Fits whose features stay on the disk: the same optimum and answers, in bounded memory."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rows_for_tests import Rows

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.selection import select_C
from classify.solver.fit import Fitter, plan
from classify.solver.memory import MemoryPlan, TooLittleMemoryError
from classify.solver.out_of_core import ChunkedDesign, is_source
from classify.solver.threads import workers
from classify.solver.tuning import SHARED_SAMPLES
from data.common.cli import run
from data.common.errors import UserError
from data.reading import open_features

ESTIMATORS = {
    "multinomial": MultinomialLogistic,
    "ovr": OneVsRestLogistic,
    "ovo": OneVsOneLogistic,
}
STRATEGIES = list(ESTIMATORS)
NAMES = tuple("abcde")


@pytest.fixture(scope="module", params=["float32", "float16"])
def both(request, tmp_path_factory, make_store):
    """One store of mixed-up classes, of unequal sizes: in memory, and left on the disk."""
    path = tmp_path_factory.mktemp("ooc") / "s.h5"
    labels = np.random.default_rng(1).choice(5, 1500, p=[0.4, 0.3, 0.2, 0.09, 0.01])
    make_store(path, names=NAMES, d=12, dtype=request.param, labels_train=labels,
               labels_test=labels[:200])  # fmt: skip
    whole = open_features(path)
    return whole, open_features(path, in_memory=False)


def solve(strategy, X, labels, layout, *, C=0.05, weight=None, standardize=True, threads=1):
    with workers(threads) as pool:
        fitter = Fitter(
            strategy, X, labels, int(labels.max()) + 1, pool,
            sample_weight=weight, standardize=standardize, memory_plan=layout,
        )  # fmt: skip
        return fitter.solve(C, tol=1e-8, max_iter=500)


WAYS = [(name, *both) for name in STRATEGIES for both in itertools.product((False, True), repeat=2)]


@pytest.mark.parametrize(
    ("strategy", "weighted", "standardize"),
    [*WAYS, *((name, True, True) for name in ("svm-ovr", "svm-ovo", "ecoc"))],
)
def test_the_objective_is_that_in_memory(both, strategy, weighted, standardize):
    whole, left = both
    X, labels = whole.train.features.astype(np.float32), whole.train.labels
    weight = np.random.default_rng(2).uniform(0, 3, len(X)) if weighted else None
    options = {"weight": weight, "standardize": standardize}
    _, expected = solve(strategy, X, labels, None, **options)
    for chunk_rows in (37, 512, 1499, 1500):  # shorter than a class's rows, and one chunk
        for sampled in (False, True):
            layout = MemoryPlan(chunk_rows, 1, sampled)
            _, found = solve(strategy, left.train.features, labels, layout, **options)
            np.testing.assert_allclose(found.objective, expected.objective, rtol=2e-7)
            assert np.all(found.gap_bound <= 1e-6 * found.objective)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_bits_do_not_depend_on_the_threads(both, strategy):
    left = both[1]
    heads = [
        solve(strategy, left.train.features, left.train.labels, MemoryPlan(100), threads=threads)[0]
        for threads in (1, 2, 5)
    ]
    for head in heads[1:]:
        np.testing.assert_array_equal(head.coef, heads[0].coef)
        np.testing.assert_array_equal(head.intercept, heads[0].intercept)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_estimators_take_a_source(both, strategy, class_weight):
    whole, left = both
    X, y = whole.train.features.astype(np.float32), np.array(NAMES)[whole.train.labels]
    weight = np.random.default_rng(3).uniform(0.5, 2, len(X))
    options = {"C": 0.1, "class_weight": class_weight, "standardize": True, "tol": 1e-8}
    options["n_jobs"] = 2
    inside = ESTIMATORS[strategy](**options).fit(X, y, sample_weight=weight)
    outside = ESTIMATORS[strategy](**options, memory=100_000_000)
    outside.fit(left.train.features, y, sample_weight=weight)
    assert outside.n_features_in_ == 12
    np.testing.assert_allclose(
        outside.certificate_["objective"], inside.certificate_["objective"], rtol=1e-7
    )
    T, test = whole.test.features.astype(np.float32), left.test.features
    np.testing.assert_array_equal(outside.predict(test), outside.predict(T))
    np.testing.assert_allclose(outside.predict_proba(test), outside.predict_proba(T), atol=1e-5)
    values = outside.decision_function(test)
    np.testing.assert_allclose(values, outside.decision_function(T), atol=1e-4)
    labels = np.array(NAMES)[whole.test.labels]
    assert outside.score(test, labels) == inside.score(T, labels)
    with pytest.raises(ValueError, match="12 features"):
        outside.predict(Rows(np.zeros((4, 5), np.float32)))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_answers_come_block_by_block(strategy, monkeypatch):
    monkeypatch.setattr("classify.solver.out_of_core.STEP_NUMBERS", 60)
    monkeypatch.setattr("classify.solver.out_of_core.STEP_ROWS", 1)
    X = np.random.default_rng(0).standard_normal((300, 4))
    y = X[:, :3].argmax(axis=1)
    model = ESTIMATORS[strategy]().fit(X, y)
    source = Rows(X)
    for method in ("predict", "predict_proba", "decision_function"):
        answers = getattr(model, method)
        np.testing.assert_allclose(answers(source), answers(X), atol=1e-12)
    assert source.largest == 20
    with pytest.raises(ValueError, match="0 sample"):
        model.predict(Rows(X[:0]))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_classes_and_double_precision(strategy):
    X = np.random.default_rng(0).standard_normal((200, 6))
    y = (X[:, 0] + 0.5 * np.random.default_rng(1).standard_normal(200) > 0).astype(int)
    _, expected = solve(strategy, X, y, None)
    _, found = solve(strategy, Rows(X), y, MemoryPlan(33))
    np.testing.assert_allclose(found.objective, expected.objective, rtol=1e-7)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_columns_far_from_zero_keep_their_digits(strategy):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 5)) + 1e5
    y = (X - 1e5)[:, :3].argmax(axis=1)
    _, expected = solve(strategy, X, y, None)
    _, found = solve(strategy, Rows(X), y, MemoryPlan(64))
    np.testing.assert_allclose(found.objective, expected.objective, rtol=1e-8)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_c_is_chosen_as_in_memory(both, strategy, monkeypatch):
    monkeypatch.setattr("classify.solver.memory.SMALLEST_CHUNK", 64 * 48)
    monkeypatch.setattr("classify.solver.memory.GOOD_CHUNK", 64 * 48)
    monkeypatch.setattr("classify.solver.memory.CHUNK_BYTES", 64 * 48)
    monkeypatch.setattr("classify.solver.out_of_core.STEP_NUMBERS", 100)
    monkeypatch.setattr("classify.solver.out_of_core.STEP_ROWS", 1)
    whole, left = both
    X, y = whole.train.features.astype(np.float32), whole.train.labels
    options = {"grid": [1e-4, 1e-2, 1.0], "seed": 3, "full_path": True}
    inside = select_C(strategy, X, y, **options)
    outside = select_C(strategy, left.train.features, y, **options, memory=10**9, n_jobs=2)
    assert outside.C == inside.C
    assert (outside.n_train, outside.n_validation) == (inside.n_train, inside.n_validation)
    for a, b in zip(outside.path, inside.path, strict=True):
        # A path's tolerance is 3e-4, and its rows are 150.
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.021)
        assert a["log_loss"] == pytest.approx(b["log_loss"], rel=0.01)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused(bad, standardize):
    X = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
    X[70, 2] = bad
    model = OneVsRestLogistic(standardize=standardize)
    with pytest.raises(ValueError, match="contains NaN or infinity"):
        model.fit(Rows(X), np.arange(100) % 3)


def test_a_chunk_is_read_once_a_pass_and_no_more_than_it():
    source = Rows(np.random.default_rng(0).standard_normal((1000, 4)))
    y = np.random.default_rng(1).integers(0, 6, 1000)
    count = []
    read = source.read
    source.read = lambda *args: count.append(args[:2]) or read(*args)
    with workers(1) as pool:
        fitter = Fitter("ovo", source, y, 6, pool, memory_plan=MemoryPlan(300))
        objective = fitter.problems(1.0)
        assert len(objective.groups(np.arange(15))) == 4 * 6
        count.clear()
        objective.evaluate(np.arange(15), np.zeros((15, 5)))
    assert count == [(0, 300), (300, 600), (600, 900), (900, 1000)]
    assert source.largest == 300


def test_rows_that_jump_between_chunks_are_refused():
    with pytest.raises(ValueError, match="one after the other"):
        ChunkedDesign(Rows(np.zeros((10, 2))), 5, np.array([0, 7, 1]))


def test_arrays_and_tensors_are_no_sources():
    assert not is_source(np.zeros((2, 2)))
    torch = pytest.importorskip("torch")
    assert not is_source(torch.zeros(2, 2))


def test_lengths_must_agree_and_labels_are_one_column():
    source = Rows(np.zeros((5, 2), np.float32))
    with pytest.raises(ValueError, match="inconsistent"):
        OneVsRestLogistic().fit(source, [0, 1])
    with pytest.raises(ValueError, match="1d"):
        OneVsRestLogistic().fit(source, np.zeros((5, 2)))


def layout(memory, threads=4, strategy="ovo", n=1_000_000, k=100):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("classify.solver.fit.thread_count", lambda n_jobs: n_jobs)
        return plan((n, 768), np.dtype(np.float32), strategy, k, memory, threads)


def test_chunks_follow_the_memory_and_not_the_threads():
    assert layout(9 * 10**9, 1).chunk_rows == layout(9 * 10**9, 64).chunk_rows
    with pytest.raises(TooLittleMemoryError) as error:
        layout(10**8)
    assert "memory is 100 MB, but ovo on 1,000,000 rows x 768" in str(error.value)
    least = layout(error.value.needed)
    assert least.threads == 1 and least.shared_rows == SHARED_SAMPLES[-1]
    with pytest.raises(TooLittleMemoryError):
        layout(error.value.needed - 1)
    sizes = [layout(memory, 64) for memory in (3 * 10**9, 8 * 10**9, 32 * 10**9)]
    assert sizes[0].chunk_rows <= sizes[1].chunk_rows <= sizes[2].chunk_rows
    assert sizes[0].threads <= sizes[1].threads <= sizes[2].threads


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_too_little_memory_is_one_error(both, strategy):
    left = both[1]
    with pytest.raises(TooLittleMemoryError, match="memory is 1,000 bytes"):
        ESTIMATORS[strategy](memory=1000).fit(left.train.features, left.train.labels)
    with pytest.raises(TooLittleMemoryError):
        select_C(strategy, left.train.features, left.train.labels, memory=1000)
    with pytest.raises(ValueError, match="memory must be a number above 0"):
        ESTIMATORS[strategy](memory=-1).fit(left.train.features, left.train.labels)


def test_a_store_that_is_cut_while_it_is_fitted(tmp_path, make_store):
    path = make_store(tmp_path / "s.h5", n=600)
    features = open_features(path, in_memory=False)
    os.truncate(path, 3000)
    with pytest.raises(UserError, match="was cut while it was being read"):
        OneVsOneLogistic(n_jobs=2).fit(features.train.features, features.train.labels)


def fit(capsys, store, reports, *options):
    from classify.__main__ import main
    from classify.report.runs import read_results

    code = run(main, ["fit", str(store), "--reports-dir", str(reports), "--jobs", "1", *options])
    out, err = capsys.readouterr()
    return code, err, read_results(Path(out.strip()).with_name("results.json")) if out else None


def test_the_command_line_in_and_out_of_core(tmp_path, make_store, capsys):
    store = make_store(tmp_path / "s.h5", n=4000, d=300)  # 7 MB, 12 with copies
    options = ["--c-grid", "1e-4,1e-3,1e-2", "--no-few-shot"]
    code, err, inside = fit(capsys, store, tmp_path / "a", *options)
    assert code == 0 and "stay on the disk" not in err
    assert inside["settings"]["out_of_core"] is False and inside["timings"]["memory"] > 10**7
    code, err, _ = fit(capsys, store, tmp_path / "b", *options, "--memory", "9MB")
    assert code == 2
    assert "--memory is 9 MB, and fitting" in err and "needs at least" in err
    assert len(err.strip().splitlines()) == 1
    needed = int(float(err.split("needs at least ")[1].split(" MB")[0])) + 1
    # In memory needs less here; what is tried is the other way.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("classify.fit.memory_budget.in_memory_bytes", lambda header: 10**12)
        code, err, outside = fit(capsys, store, tmp_path / "b", *options, "--memory", f"{needed}MB")
    assert code == 0
    assert sum("stay on the disk" in line for line in err.splitlines()) == 1
    assert outside["settings"]["out_of_core"] is True
    assert outside["settings"]["memory"] == needed * 10**6
    for name, entry in inside["strategies"].items():
        other = outside["strategies"][name]
        assert other["C"] == entry["C"]
        assert other["certificate"]["objective"] == pytest.approx(
            entry["certificate"]["objective"], rel=3e-6
        )
        assert other["test"]["accuracy"] == pytest.approx(entry["test"]["accuracy"], abs=0.002)


PEAK = """
import sys
import joblib, sklearn.utils, scipy.sparse, classify, classify.selection, data.reading
from classify.solver.threads import thread_count
thread_count(None)
# Not ru_maxrss, which begins with the peak of the process that started this one.
peak = lambda: 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = peak()
path, name, memory = sys.argv[1], sys.argv[2], int(sys.argv[3])
features = data.reading.open_features(path, in_memory=False)
train, test = features.train, features.test
model = getattr(classify, name)(C=1e-3, standardize=True, memory=memory, n_jobs=2)
model.fit(train.features, train.labels)
model.predict_proba(test.features)
classify.selection.select_C(
    model._strategy, train.features, train.labels, grid=[1e-3], memory=memory, n_jobs=2
)
print(peak() - before, len(train.features) * train.features.shape[1] * 4)
"""


LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults` takes the larger ones


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
# One-vs-rest has as many columns as the multinomial, and the problems of one-vs-one.
@pytest.mark.parametrize("strategy", STRATEGIES if LONG else ["multinomial", "ovo"])
def test_the_memory_promised_is_kept(strategy, large_store):
    memory = 150_000_000 if LONG else 80_000_000
    name = ESTIMATORS[strategy].__name__
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(large_store), name, str(memory)],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    taken, size = map(int, done.stdout.split())
    assert size > 1.5 * memory
    assert taken < memory


@pytest.fixture(scope="module")
def large_store(tmp_path_factory, make_store):
    path = tmp_path_factory.mktemp("large") / "s.h5"
    return make_store(path, names=tuple("abcdefgh"), n=60_000, d=1024 if LONG else 512)
