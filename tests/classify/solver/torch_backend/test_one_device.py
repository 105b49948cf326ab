"""Nothing that lies on the host meets what lies on the device, but where it is sent there."""

import numpy as np
import pytest
import torch
from pretended_device import pretended_device

from classify.solver.certificate import certify
from classify.solver.threads import Workers
from classify.solver.torch_backend.fit import TorchFitter
from classify.solver.torch_backend.precondition import TorchSampledHessian

# More rows than are sampled, and fewer rows than features: the preconditioner's two ways.
SHAPES = [(3000, 20), (8, 20)]


def work_through(strategy, shape, weighted, dtype):
    """Do once what a fit does again and again."""
    n = shape[0]
    rng = np.random.default_rng(0)
    weight = rng.random(n) if weighted else None
    X = rng.normal(size=shape).astype(dtype)
    fitter = TorchFitter(
        strategy, X, np.arange(n) % 4, 4, Workers(), at="cuda:0", sample_weight=weight,
        standardize=weighted,
    )  # fmt: skip
    assert fitter.design.X.device == torch.device("cuda", 0)
    objective = fitter.problems(0.1)
    everything = np.arange(objective.n_problems)
    points = 0.1 * rng.normal(size=(objective.n_problems, objective.n_parameters))
    objective.evaluate(everything, points)
    some = everything[: max(1, len(everything) // 2)]
    for problems in (everything, some):
        certify(objective, problems, points[problems])
    preconditioner = TorchSampledHessian(1024)
    preconditioner.attach(objective)
    for at in (points, np.zeros_like(points)):
        preconditioner.update(everything, type("Moves", (), {"points": at}))
    for problems in (everything, some):
        preconditioner.apply(problems, points[problems])
    fitter.design.in_double()
    return fitter.design.dense(np.arange(3))


@pytest.mark.parametrize("strategy", ["multinomial", "ovr", "ovo"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("weighted", "dtype"), [(False, np.float32), (True, np.float64)])
def test_a_fit_keeps_to_its_device(strategy, shape, weighted, dtype, monkeypatch):
    with pretended_device(monkeypatch):
        assert work_through(strategy, shape, weighted, dtype).shape == (3, shape[1])


def test_what_does_not_is_refused(monkeypatch):
    """The pretended device notices what a real one would."""
    from classify.solver.torch_backend.design import TorchDesign, tensor_of

    with pretended_device(monkeypatch):
        monkeypatch.setattr(TorchDesign, "send", lambda self, values: tensor_of(values))
        with pytest.raises((RuntimeError, AssertionError), match="device"):
            work_through("ovr", SHAPES[0], False, np.float32)
