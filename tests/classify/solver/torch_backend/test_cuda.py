"""The device's code on a CUDA device, where there is one."""

import numpy as np
import pytest
import torch
from torch_fits_for_tests import OURS, data

from classify.__main__ import main
from classify.report.runs import read_results
from classify.selection import select_C
from classify.solver.backend import DeviceMemoryWarning, choose_device, device_title
from data.common.cli import run

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("strategy", OURS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ({"n": 6000, "d": 60}, {"standardize": True}),
        ({"n": 80, "d": 300}, {"C": 0.1, "class_weight": "balanced"}),
    ],
)
def test_the_same_optimum_as_on_the_cpu(strategy, dtype, shape, options):
    X, y = data(dtype=dtype, **shape)
    host = OURS[strategy](**options).fit(X, y)
    there = OURS[strategy](device="cuda", **options).fit(X, y)
    assert there.device_ == choose_device("cuda") and there.certificate_["converged"]
    assert device_title(there.device_) == torch.cuda.get_device_name()
    np.testing.assert_allclose(
        there.certificate_["problems"]["objective"],
        host.certificate_["problems"]["objective"],
        rtol=2e-6,
    )
    assert np.mean(there.predict(X) == host.predict(X)) > 0.99


@pytest.mark.parametrize("strategy", OURS)
def test_the_same_bits_again_and_the_tensor_stays(strategy):
    X, y = data(n=20_000, d=40)
    X = torch.from_numpy(X).cuda()
    tf32 = torch.backends.cuda.matmul.allow_tf32
    fits = [OURS[strategy](device="auto").fit(X, y) for _ in range(2)]
    assert fits[0].device_ == str(X.device)
    assert fits[0].coef_.tobytes() == fits[1].coef_.tobytes()
    assert torch.backends.cuda.matmul.allow_tf32 == tf32


def test_too_little_memory_falls_back_to_the_cpu():
    X, y = data(n=50_000, d=100)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-5)
    try:
        with pytest.warns(DeviceMemoryWarning, match="too little memory"):
            fitted = OURS["ovr"](device="cuda").fit(X, y)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert fitted.device_ == "cpu"


@pytest.mark.parametrize("strategy", OURS)
def test_a_path_of_c_on_a_device(strategy):
    X, y = data(n=3000, d=40)
    grid = [1e-4, 1e-2, 1.0]
    host, there = (select_C(strategy, X, y, grid=grid, device=at) for at in ("cpu", "cuda"))
    assert there.device == choose_device("cuda")
    for a, b in zip(host.path, there.path, strict=True):
        assert b["converged"]
        np.testing.assert_allclose(a["log_loss"], b["log_loss"], rtol=1e-2)


def test_a_run_on_a_device_names_it(make_store, unwritten_figures, tmp_path, capsys):
    store = make_store(tmp_path / "s.h5")
    words = ["fit", str(store), "--device", "cuda", "--c", "0.1", "--jobs", "1"]
    assert run(main, [*words, "--reports-dir", str(tmp_path / "reports")]) == 0
    (folder,) = (tmp_path / "reports").glob("*/*")
    results = read_results(folder)
    assert results["environment"]["device"] == torch.cuda.get_device_name()
    assert all(entry["converged"] for entry in results["strategies"].values())


def test_old_and_new_switches_of_torch_do_not_collide():
    """cuBLAS, which asks for them itself, raises where both forms have been set."""
    X, y = data(n=3000, d=40)
    torch.set_float32_matmul_precision("high")
    try:
        fitted = OURS["multinomial"](device="cuda", tol=1e-6).fit(X, y)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert fitted.certificate_["converged"]


def test_inverses_for_many_columns_are_made_a_few_at_a_time(monkeypatch):
    from classify.solver.torch_backend import precondition

    X, y = data(n=3000, d=40)
    whole = OURS["multinomial"](device="cuda").fit(X, y)
    monkeypatch.setattr(precondition, "DEVICE_CHUNK_NUMBERS", 1)
    apart = OURS["multinomial"](device="cuda").fit(X, y)
    np.testing.assert_allclose(apart.coef_, whole.coef_, rtol=1e-2, atol=1e-3)
