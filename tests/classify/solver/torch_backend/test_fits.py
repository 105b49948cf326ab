"""Whole fits by the device's code, on torch's CPU tensors: numpy's optimum and manners."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch_fits_for_tests import OURS, data

from classify import MultinomialLogistic, OneVsOneLogistic, OneVsRestLogistic
from classify.__main__ import main
from classify.report.runs import read_results
from classify.selection import select_C
from classify.solver import backend as engines
from classify.solver.backend import (
    TORCH_ON_CPU,
    DeviceMemoryWarning,
    DeviceMissingError,
    choose_device,
)
from classify.solver.torch_backend import fit as torch_fitting
from classify.solver.torch_backend import precondition as torch_precondition
from data.common.cli import run


def agree(strategy, X, y, tol=1e-6, **options):
    host = OURS[strategy](tol=tol, **options).fit(X, y)
    there = OURS[strategy](tol=tol, device=TORCH_ON_CPU, **options).fit(X, y)
    assert (host.device_, there.device_) == ("cpu", TORCH_ON_CPU)
    expected = np.array(host.certificate_["problems"]["objective"])
    found = np.array(there.certificate_["problems"]["objective"])
    assert there.certificate_["converged"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    scores = np.atleast_2d(host.decision_function(X).T).T
    ordered = np.sort(np.column_stack([scores, np.zeros(len(X))] if scores.shape[1] == 1 else
                                      [scores]), axis=1)  # fmt: skip
    clear = ordered[:, -1] - ordered[:, -2] > 0.02
    if strategy == "ovo":  # a pair that is undecided turns a whole vote
        clear &= np.abs(X @ host.coef_.T + host.intercept_).min(axis=1) > 0.02
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(there.predict(X)[clear], host.predict(X)[clear])
    return host, there


@pytest.mark.parametrize("strategy", OURS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("standardize", [False, True])
def test_the_same_optimum(strategy, dtype, standardize):
    agree(strategy, *data(dtype=dtype), standardize=standardize)


@pytest.mark.parametrize("strategy", OURS)
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ({"n": 60, "d": 200}, {"C": 0.1}),  # fewer rows than features
        ({"n": 4000, "d": 5}, {}),  # more rows than are sampled
        ({"n": 2000, "d": 1100, "k": 3}, {"C": 0.01}),
        ({"k": 2}, {"class_weight": "balanced"}),
        ({"k": 5}, {"class_weight": {"a": 3.0, "b": 0.2}, "standardize": True}),
    ],
)
def test_other_shapes_and_weights(strategy, shape, options):
    agree(strategy, *data(**shape), **options)


@pytest.mark.parametrize("strategy", OURS)
def test_a_tight_tolerance_gives_the_same_weights(strategy):
    host, there = agree(strategy, *data(dtype=np.float64), tol=1e-13)
    np.testing.assert_allclose(there.coef_, host.coef_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", OURS)
@pytest.mark.parametrize("limits", [["WORK", "PASSES"], ["NUMBERS"]])
def test_too_many_problems_for_the_device_are_fitted_on_the_cpu(strategy, limits, monkeypatch):
    for limit in limits:
        monkeypatch.setattr(f"classify.solver.torch_backend.fit.DEVICE_FACTOR_{limit}", 0)
    X, y = data()
    with pytest.warns(DeviceMemoryWarning, match="the CPU does it instead"):
        there = OURS[strategy](device=TORCH_ON_CPU).fit(X, y)
    assert there.device_ == "cpu"
    np.testing.assert_array_equal(there.coef_, OURS[strategy]().fit(X, y).coef_)


@pytest.mark.parametrize("strategy", OURS)
def test_the_same_bits_again(strategy):
    X, y = data(n=3000)
    first, second = (
        OURS[strategy](device=TORCH_ON_CPU, standardize=True).fit(X, y) for _ in range(2)
    )
    assert first.coef_.tobytes() == second.coef_.tobytes()
    assert first.intercept_.tobytes() == second.intercept_.tobytes()


def test_the_limit_of_iterations_is_still_told():
    X, y = data()
    with pytest.warns(ConvergenceWarning, match="the limit of iterations"):
        MultinomialLogistic(device=TORCH_ON_CPU, max_iter=1).fit(X, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_tensor_is_used_where_it_lies(dtype, monkeypatch):
    X, y = data()
    tensor = torch.from_numpy(X).to(dtype).requires_grad_()
    untouched = tensor.detach().clone()
    monkeypatch.setattr(
        "classify.estimator_base.as_features", lambda X: pytest.fail("copied to the host")
    )
    fitted = OneVsRestLogistic(device=TORCH_ON_CPU, standardize=True).fit(tensor, y)
    assert fitted.n_features_in_ == 8 and torch.equal(tensor, untouched)
    monkeypatch.undo()
    host = OneVsRestLogistic(standardize=True).fit(untouched, y)
    np.testing.assert_allclose(
        fitted.certificate_["objective"], host.certificate_["objective"], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda X: X[:, 0], "X must be a matrix"),
        (lambda X: X * float("nan"), "NaN or infinity"),
        (lambda X: X.index_fill(0, torch.tensor([3]), float("nan")), "NaN or infinity"),
        (lambda X: X.index_fill(0, torch.tensor([3]), -float("inf")), "NaN or infinity"),
        (lambda X: X[:-1], "inconsistent numbers of samples"),
    ],
)
def test_bad_tensors(spoil, told):
    X, y = data()
    with pytest.raises(ValueError, match=told):
        OneVsRestLogistic(device=TORCH_ON_CPU).fit(spoil(torch.from_numpy(X)), y)


def test_labels_and_weights_may_be_tensors():
    X, y = data()
    labels = np.unique(y, return_inverse=True)[1]
    weight = np.random.default_rng(0).uniform(0, 2, len(X))
    tensors = (torch.from_numpy(X), torch.from_numpy(labels), torch.from_numpy(weight))
    there = OneVsOneLogistic(device=TORCH_ON_CPU).fit(*tensors)
    host = OneVsOneLogistic().fit(X, labels, weight)
    np.testing.assert_allclose(
        there.certificate_["objective"], host.certificate_["objective"], rtol=1e-6
    )
    np.testing.assert_allclose(there.intercept_, OneVsOneLogistic().fit(*tensors).intercept_,
                               atol=1e-2)  # fmt: skip


def test_arrays_that_must_not_be_written_to():
    X, y = data()
    weight = np.ones(len(X))
    before = X.copy()
    for array in (X, y, weight):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MultinomialLogistic(device=TORCH_ON_CPU, standardize=True).fit(X, y, weight)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("legacy", [False, True])
def test_settings_of_torch_are_left_alone(legacy, monkeypatch):
    matmul = torch.backends.cuda.matmul
    name = "allow_tf32" if legacy or not hasattr(matmul, "fp32_precision") else "fp32_precision"
    loose = True if name == "allow_tf32" else "tf32"
    before, seen = getattr(matmul, name), []
    fused = torch_fitting.TorchBinaryProblems.evaluate

    def spy(self, *args):
        seen.append(getattr(matmul, "fp32_precision", None) or matmul.allow_tf32)
        seen.append(torch.is_autocast_enabled("cpu") or torch.is_grad_enabled())
        return fused(self, *args)

    monkeypatch.setattr(torch_fitting.TorchBinaryProblems, "evaluate", spy)
    try:
        setattr(matmul, name, loose)
        with torch.autocast("cpu"):
            OneVsRestLogistic(device=TORCH_ON_CPU).fit(*data())
            assert torch.is_autocast_enabled("cpu")
        assert getattr(matmul, name) == loose
        assert set(seen) <= {"ieee", False}
    finally:
        setattr(matmul, name, before)
    assert getattr(matmul, name) == before and torch.is_grad_enabled()


def test_a_thousand_classes_of_a_million_rows_have_inverses_on_a_device():
    """What the inverses may be depends on the device's memory and on what a pass costs."""
    shape = SimpleNamespace(n_rows=1_281_167, n_features=768, dtype=np.dtype(np.float32))
    problems = SimpleNamespace(n_problems=1, columns=1000, meetings=shape.n_rows * 1000)
    fitter = SimpleNamespace(design=shape, _room_for_inverses=lambda: 0.25 * 24e9 / 4)
    made = torch_fitting.TorchFitter._choose(fitter, problems)
    assert made.sample_rows == 4 * 768
    fitter._room_for_inverses = lambda: 0.25 * 8e9 / 4
    with pytest.raises(torch_fitting.OutOfDeviceMemoryError, match=r"1,000 problems.*2\.4 GB"):
        torch_fitting.TorchFitter._choose(fitter, problems)


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has the old switch"
)
def test_the_old_switch_can_be_read_during_a_fit_where_it_was_used_before(monkeypatch):
    """Parts of torch read it, and raise where both forms have been set."""
    seen = []
    fused = torch_fitting.TorchBinaryProblems.evaluate

    def spy(self, *args):
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return fused(self, *args)

    monkeypatch.setattr(torch_fitting.TorchBinaryProblems, "evaluate", spy)
    torch.set_float32_matmul_precision("high")
    try:
        OneVsRestLogistic(device=TORCH_ON_CPU).fit(*data())
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen and not any(seen)


@pytest.mark.parametrize("strategy", OURS)
def test_inverses_are_made_for_a_few_columns_at_a_time(strategy, monkeypatch):
    X, y = data(n=3000)
    whole = OURS[strategy](device=TORCH_ON_CPU).fit(X, y)
    made = []
    build = torch_precondition.TorchSampledHessian._build

    def spy(self, curvature, places, least):
        made.append(len(places))
        build(self, curvature, places, least)

    monkeypatch.setattr(torch_precondition.TorchSampledHessian, "_build", spy)
    monkeypatch.setattr(torch_precondition, "DEVICE_CHUNK_NUMBERS", 1)
    apart = OURS[strategy](device=TORCH_ON_CPU).fit(X, y)
    assert 1 in made
    np.testing.assert_allclose(apart.coef_, whole.coef_, rtol=1e-3, atol=1e-4)
    assert apart.n_iter_.max() <= whole.n_iter_.max() + 2


def test_a_path_is_the_same_path():
    X, y = data(n=1500)
    grid = [0.01, 0.1, 1.0]
    host = select_C("ovo", X, y, grid=grid)
    there = select_C("ovo", X, y, grid=grid, device=TORCH_ON_CPU)
    assert (host.C, host.device, there.device) == (there.C, "cpu", TORCH_ON_CPU)
    for a, b in zip(host.path, there.path, strict=True):
        np.testing.assert_allclose(a["log_loss"], b["log_loss"], rtol=1e-2)


@pytest.mark.parametrize("place", ["_open", "solve"])
def test_too_little_memory_falls_back_to_the_cpu(place, monkeypatch):
    X, y = data()
    expected = OneVsRestLogistic().fit(X, y)

    def exhausted(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. And so")

    if place == "_open":
        monkeypatch.setattr(torch_fitting.TorchFitter, place, exhausted)
    else:
        monkeypatch.setattr(torch_fitting.TorchBinaryProblems, "evaluate", exhausted)
    with pytest.warns(DeviceMemoryWarning, match=r"ovr fit \(CUDA out of memory\); the CPU") as got:
        fitted = OneVsRestLogistic(device=TORCH_ON_CPU).fit(torch.from_numpy(X), y)
    assert len(got) == 1 and "\n" not in str(got[0].message)
    assert fitted.device_ == "cpu"
    assert fitted.coef_.tobytes() == expected.coef_.tobytes()

    lines = []
    with engines.redirect_notes(lines.append), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select_C("ovr", X, y, grid=[0.1, 1.0], device=TORCH_ON_CPU).device == "cpu"
    assert len(lines) == 1


def test_other_errors_of_torch_are_not_hidden(monkeypatch):
    def broken(*args):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(torch_fitting.TorchFitter, "_open", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        OneVsRestLogistic(device=TORCH_ON_CPU).fit(*data())


def test_devices_that_are_not_there(monkeypatch):
    assert choose_device("cpu") == "cpu"
    for name in ("gpu", "cuda:", "cuda:x", "mps", None, 0):
        with pytest.raises(ValueError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:N'"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceMissingError, match="device cuda: there is no CUDA device"):
        OneVsRestLogistic(device="cuda").fit(*data())
    for there in (False, True):  # a driver without a device that works is no reason to fail
        monkeypatch.setattr(engines, "may_have_nvidia", lambda there=there: there)
        assert choose_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert choose_device("auto") == choose_device("cuda") == choose_device("cuda:0") == "cuda:0"
    with pytest.raises(DeviceMissingError, match="no CUDA device with the number 3"):
        choose_device("cuda:3")


def cli(tmp_path, store, *options):
    reports = tmp_path / "reports"
    argv = ["fit", str(store), "--reports-dir", str(reports), "--c", "0.1", "--jobs", "1", *options]
    return run(main, argv), reports


def test_the_command_line_refuses_a_device_that_is_not_there(
    tmp_path, make_store, capsys, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, reports = cli(tmp_path, make_store(tmp_path / "s.h5"), "--device", "cuda")
    out, err = capsys.readouterr()
    assert code == 2 and not out and not reports.exists()
    assert err.startswith("error: --device cuda: there is no CUDA device (torch")
    assert err.endswith("use cpu, or auto\n") and err.count("\n") == 1


@pytest.mark.parametrize("enough", [True, False])
def test_a_run_records_its_device(tmp_path, make_store, capsys, monkeypatch, enough):
    def exhausted(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    if not enough:
        monkeypatch.setattr(torch_fitting.TorchSoftmaxProblems, "evaluate", exhausted)
    monkeypatch.setattr(engines, "choose_device", lambda option: TORCH_ON_CPU)
    code, reports = cli(tmp_path, make_store(tmp_path / "s.h5"))
    assert code == 0
    (path,) = reports.glob("*/*/results.json")
    results = read_results(path)
    assert results["settings"]["device"] == TORCH_ON_CPU
    told = [line for line in capsys.readouterr().err.splitlines() if "too little memory" in line]
    if enough:
        assert results["environment"]["device"] == TORCH_ON_CPU and not told
    else:
        assert results["environment"]["device"] == f"cpu, {TORCH_ON_CPU}"
        assert len(told) == 1 and "the multinomial fit" in told[0]
        assert any("too little memory" in text for text in results["warnings"])


def test_a_fit_on_the_cpu_leaves_torch_out():
    code = (
        "import sys, numpy as np, classify\n"
        "X = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)\n"
        "y = np.arange(60) % 3\n"
        "classify.OneVsOneLogistic(standardize=True).fit(X, y).predict(X)\n"
        "from classify.solver import backend\n"
        "backend.may_have_nvidia = lambda: False\n"
        "assert classify.OneVsRestLogistic(device='auto').fit(X, y).device_ == 'cpu'\n"
        "print(sorted(name for name in sys.modules if 'torch' in name))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
