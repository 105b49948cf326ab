"""Every part of the solver's twin on a device against numpy's, on torch's CPU tensors."""

import numpy as np
import pytest
import torch
from problems_for_tests import blobs, loss_of, make, sides_of

from classify.solver.certificate import certify
from classify.solver.design import DesignMatrix, mean_and_scale
from classify.solver.losses import logistic, softmax
from classify.solver.threads import Workers
from classify.solver.torch_backend import design as torch_design
from classify.solver.torch_backend import losses as torch_losses
from classify.solver.torch_backend import passes as torch_passes
from classify.solver.torch_backend import precondition as torch_precondition
from classify.solver.torch_backend.design import TorchDesign
from classify.solver.torch_backend.problems import TorchBinaryProblems, TorchSoftmaxProblems

KINDS = ["ovr", "ovo", "softmax", "svm-ovr", "svm-ovo", "code"]
DTYPES = [np.float32, np.float64]


def twin(kind, X, labels, C=0.7, weight=None, design=None):
    """The problems that `problems_for_tests.make` sets up, on a torch tensor."""
    design = TorchDesign(torch.from_numpy(X)) if design is None else design
    k, common = int(labels.max()) + 1, (labels, weight)
    if kind == "softmax":
        return TorchSoftmaxProblems(design, *common, np.atleast_1d(C), k, Workers())
    sides = sides_of(kind, k)
    return TorchBinaryProblems(
        design, *common, np.full(len(sides.positive), C), sides, Workers(), loss=loss_of(kind)
    )


def both(kind, dtype, weighted=False, standardized=False, n=5000, k=4, **options):
    X, labels = blobs(n=n, k=k, dtype=dtype, **options)
    X /= 4
    weight = np.random.default_rng(3).uniform(0, 2, n) if weighted else None
    host, device = DesignMatrix(X), TorchDesign(torch.from_numpy(X))
    if standardized:
        moments = mean_and_scale(host, Workers(), weight)
        host, device = host.standardized(*moments), device.standardized(*moments)
    ours = make(kind, X, labels, weight=weight, design=host)
    return ours, twin(kind, X, labels, weight=weight, design=device)


def points_of(objective, seed=0):
    rng = np.random.default_rng(seed)
    return 0.3 * rng.standard_normal((objective.n_problems, objective.n_parameters))


def close(found, expected, dtype):
    tolerance = 2e-5 if dtype is np.float32 else 1e-11
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.fixture
def small_chunks(monkeypatch):
    """Cut everything into pieces that end in the middle of blocks."""
    for module in (torch_design, torch_passes, torch_precondition):
        monkeypatch.setattr(module, "DEVICE_CHUNK_NUMBERS", 10_000)
    monkeypatch.setattr(torch_passes, "DEVICE_BLOCK_ROWS", 300)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("weighted", "standardized"), [(False, False), (True, True)])
def test_a_fused_pass(kind, dtype, weighted, standardized):
    ours, its = both(kind, dtype, weighted, standardized)
    everything, points = np.arange(ours.n_problems), points_of(ours)
    for found, expected in zip(
        its.evaluate(everything, points), ours.evaluate(everything, points), strict=True
    ):
        assert found.dtype == np.float64
        close(found, expected, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_change_rounding_only(kind, small_chunks):
    ours, its = both(kind, np.float64, weighted=True, standardized=True)
    everything, points = np.arange(ours.n_problems), points_of(ours)
    for found, expected in zip(
        its.evaluate(everything, points), ours.evaluate(everything, points), strict=True
    ):
        close(found, expected, np.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_back_and_curvature(kind, dtype):
    ours, its = both(kind, dtype, weighted=True, standardized=True)
    everything, points = np.arange(ours.n_problems), points_of(ours)
    groups, factors = ours.groups(everything), ours.split(points)
    expected, found = ours.passes.scores(groups, *factors), its.passes.scores(groups, *factors)
    link = ours.weighted_link(everything)
    for z, of_z, group in zip(expected, found, groups, strict=True):
        assert of_z.dtype == torch.from_numpy(z).dtype
        close(of_z.numpy(), z, dtype)
        curvatures = its.curvatures(of_z, everything, group)
        for columns in (
            np.arange(z.shape[1]),
            np.array([z.shape[1] - 1]),
            np.array([0, z.shape[1] - 1]),
        ):
            host = link.curvature(z, group.start, group.stop, group)[:, columns]
            close(curvatures(columns).numpy(), host, dtype)
    n_columns = len(factors[0])
    on_device = [torch.from_numpy(z) for z in expected]
    for a, b in zip(
        its.passes.back(groups, on_device, n_columns),
        ours.passes.back(groups, expected, n_columns),
        strict=True,
    ):
        close(a, b, dtype)


@pytest.mark.parametrize("kind", ["ovr", "ovo"])
def test_some_of_the_problems(kind):
    ours, its = both(kind, np.float64, weighted=True)
    some = np.array([3, 1])
    points = points_of(ours)[some]
    for found, expected in zip(
        its.evaluate(some, points), ours.evaluate(some, points), strict=True
    ):
        close(found, expected, np.float64)


def test_values_of_C_ride_in_one_pass():
    X, labels = blobs(n=700)
    C = np.array([0.1, 3.0])
    ours, its = make("softmax", X, labels, C=C), twin("softmax", X, labels, C=C)
    points = 0.1 * points_of(ours)
    for found, expected in zip(
        its.evaluate(np.arange(2), points), ours.evaluate(np.arange(2), points), strict=True
    ):
        close(found, expected, np.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_certificates(kind, dtype, weighted):
    ours, its = both(kind, dtype, weighted, standardized=True, n=900)
    everything, points = np.arange(ours.n_problems), points_of(ours)
    expected = certify(ours, everything, points)
    before = [z.clone() for z in its.passes.scores(its.groups(everything), *its.split(points))]
    found = certify(its, everything, points)
    for name in ("points", "objective", "grad_norm", "gap_bound"):
        close(getattr(found, name), getattr(expected, name), dtype)
    after = its.passes.scores(its.groups(everything), *its.split(points))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_certificates_in_pieces(kind, monkeypatch):
    monkeypatch.setattr("classify.solver.torch_backend.arrays.DEVICE_CHUNK_NUMBERS", 16 * 500)
    ours, its = both(kind, np.float64, weighted=True, n=900)
    everything, points = np.arange(ours.n_problems), points_of(ours)
    expected = certify(ours, everything, points)
    close(certify(its, everything, points).gap_bound, expected.gap_bound, np.float64)


def test_losses_neither_overflow_nor_cancel():
    u = np.array([-800.0, -40.0, -1.0, 0.0, 40.0, 800.0])
    for found, expected in zip(
        torch_losses.logistic(torch.from_numpy(u)), logistic(u.copy()), strict=True
    ):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-14)
    z = np.array([[40.0, 0.0, 0.0], [-800.0, 0.0, 0.0], [900.0, 0.0, 900.0]])
    labels = np.zeros(3, dtype=np.int64)
    for found, expected in zip(
        torch_losses.softmax(torch.from_numpy(z.copy()), torch.from_numpy(labels)[:, None]),
        softmax(z.copy(), labels),
        strict=True,
    ):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("weighted", [False, True])
def test_moments(weighted, small_chunks):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((9001, 5)) * [1, 1e-3, 1e3, 1, 0] + [0, 1e3, -5, 1, 7.3]
    X = X.astype(np.float32)
    weight = rng.integers(0, 3, len(X)).astype(float) if weighted else None
    found = TorchDesign(torch.from_numpy(X)).moments(weight)
    for a, b in zip(found, mean_and_scale(DesignMatrix(X), Workers(), weight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    assert found[1][4] == 1.0


def test_rows_are_taken_and_far_columns_are_copied():
    X, _ = blobs(n=50)
    X += 1e4 * np.arange(X.shape[1])
    rows = np.array([7, 3, 3, 40])
    one = Workers(1)
    host = DesignMatrix(X).take(rows, one)
    device = TorchDesign(torch.from_numpy(X)).take(rows, one)
    moments = mean_and_scale(host, Workers())
    far, far_there = host.standardized(*moments), device.standardized(*moments)
    assert far_there.shift is None
    np.testing.assert_allclose(far_there.X.numpy(), far.X)
    near, near_there = DesignMatrix(X, *moments), TorchDesign(torch.from_numpy(X), *moments)
    np.testing.assert_array_equal(near_there.dense(rows), near.dense(rows))
    assert device.take(np.arange(4), one) is device


def test_systematic_rows_are_in_proportion():
    size = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (2, 500)))
    size[:, 17], size[1, 40:60] = 30.0, 0.0
    rows, total = torch_precondition.systematic_rows(size, 100)
    torch.testing.assert_close(total, size.sum(dim=1), rtol=1e-8, atol=0)
    for drawn, sizes, mass in zip(rows, size, total, strict=True):
        times = torch.bincount(drawn, minlength=500)
        assert (times - 100 * sizes / mass).abs().max() < 1.01
        assert times.sum() == 100 and times[sizes == 0].sum() == 0
    rows, total = torch_precondition.systematic_rows(torch.zeros(1, 9, dtype=torch.float64), 4)
    assert total == 0 and rows.max() < 9


@pytest.mark.parametrize("n", [3, 300])
def test_inverse_plus_identity(n):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((2, n, n))
    gram = A @ A.transpose(0, 2, 1) / n
    found = torch_precondition.inverse_plus_identity(torch.from_numpy(gram.copy()))
    np.testing.assert_allclose(found.numpy(), np.linalg.inv(np.eye(n) + gram), atol=1e-10)
    spoilt = torch.from_numpy(np.stack([np.eye(n), -5 * np.eye(n)]))
    found = torch_precondition.inverse_plus_identity(spoilt)
    torch.testing.assert_close(found[0], torch.eye(n, dtype=torch.float64) / 2)
    assert bool(torch.isfinite(found).all())
    spoilt = torch.from_numpy(np.stack([np.eye(n), np.full((n, n), np.nan)]))
    found = torch_precondition.inverse_plus_identity(spoilt)
    torch.testing.assert_close(found[0], torch.eye(n, dtype=torch.float64) / 2)
    torch.testing.assert_close(found[1], torch.eye(n, dtype=torch.float64))
