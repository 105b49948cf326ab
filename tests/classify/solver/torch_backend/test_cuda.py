"""The device's code on a CUDA device, where there is one."""

import numpy as np
import pytest
import torch
from torch_fits_for_tests import OURS, data

from classify.solver.backend import DeviceMemoryWarning, choose_device, device_title

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
