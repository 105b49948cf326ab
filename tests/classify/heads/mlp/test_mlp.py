import sys

import numpy as np
import pytest

from classify.heads.interface import FitContext, RowSet
from classify.heads.mlp import head as module
from classify.heads.mlp.head import MAX_EPOCHS, Mlp, TrainedMlp
from data.common.errors import UserError

torch = pytest.importorskip("torch")
SETTING = {"dropout": 0.2}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Layers of the real widths would take a minute."""
    monkeypatch.setattr(module, "HIDDEN", (32, 16))


def xor(n=600, seed=0, noise=0.25):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 2, (n, 2))
    X = 1000 + 30 * (corners + noise * rng.normal(size=(n, 2)))
    return X.astype(np.float32), corners[:, 0] ^ corners[:, 1]


def row_set(X, y, weights=None, k=2):
    return RowSet(X, np.arange(len(X), dtype=np.intp), y.astype(np.intp), k, weights)


def accuracy(head, X, y):
    return (head.answers(X).values.argmax(axis=1) == y).mean()


def test_it_learns_what_a_linear_head_cannot_and_stops_when_it_has():
    (X, y), (H, h), (T, u) = (xor(seed=seed) for seed in range(3))
    steps, kind = [], Mlp("mlp")
    context = FitContext(n_jobs=1, on_steps=steps.append)
    grid = [SETTING]
    (head,) = kind.path(row_set(X, y), row_set(H, h), grid, context)
    assert accuracy(head, T, u) > 0.93
    assert head.converged and head.setting["dropout"] == 0.2
    curves, epochs = head.notes["curves"], head.setting["epochs"]
    lengths = {len(values) for values in curves.values()}
    assert set(curves) == {"loss", "accuracy", "validation_loss", "validation_accuracy"}
    assert lengths == {epochs + module.PATIENCE} and epochs + module.PATIENCE < MAX_EPOCHS
    assert np.argmin(curves["validation_loss"]) == epochs - 1
    # What it says of the best epoch is what the head of that epoch answers.
    found = head.answers(H).log_probabilities
    assert curves["validation_loss"][epochs - 1] == pytest.approx(
        -found[np.arange(len(h)), h].mean(), rel=1e-5
    )
    assert curves["validation_accuracy"][epochs - 1] == pytest.approx(accuracy(head, H, h))
    assert head.setting["steps"] == epochs * 20  # 600 rows are 20 batches
    everything = row_set(np.concatenate([X, H]), np.concatenate([y, h]))
    again = kind.fit(everything, head.setting, context)
    assert accuracy(again, T, u) > 0.93
    assert sum(steps) == kind.n_steps(grid)


def test_one_seed_is_one_head_and_leaves_torchs_own_random_numbers_alone():
    X, y = xor(200)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    heads = [
        Mlp("mlp").fit(row_set(X, y), {**SETTING, "epochs": 3}, FitContext(seed=seed, n_jobs=1))
        for seed in (1, 1, 2)
    ]
    assert (torch.rand(3) == expected).all()
    first, same, other = (head.answers(X).values for head in heads)
    assert (first == same).all() and not np.allclose(first, other)


def test_it_answers_as_torchs_own_layers_and_as_its_file(tmp_path):
    X, y = xor(200)
    head = Mlp("mlp").fit(row_set(X, y % 2, k=3), SETTING | {"epochs": 2}, FitContext(n_jobs=1))
    layers = []
    for weight, bias in zip(head.layers.weights, head.layers.biases, strict=True):
        layer = torch.nn.Linear(*weight.shape)
        layer.load_state_dict({"weight": torch.tensor(weight.T), "bias": torch.tensor(bias)})
        layers += [layer, torch.nn.ReLU()]
    standard = torch.tensor((X - head.layers.mean) / head.layers.scale)
    expected = torch.nn.Sequential(*layers[:-1])(standard).detach()
    answers = head.answers(X)
    np.testing.assert_allclose(answers.values, expected, atol=1e-4)
    logs = torch.log_softmax(expected, dim=1)
    np.testing.assert_allclose(answers.log_probabilities, logs, atol=1e-4)
    again = TrainedMlp.from_state(head.state()).answers(X)
    assert (again.values == answers.values).all()


def test_features_are_standardised_by_the_weighted_rows():
    X, y = xor(300)
    weights = np.where(y, 3.0, 1.0)
    head = Mlp("mlp").fit(row_set(X, y, weights), SETTING | {"epochs": 1}, FitContext(n_jobs=1))
    np.testing.assert_allclose(head.layers.mean, np.average(X, axis=0, weights=weights), rtol=1e-6)
    twice = np.repeat(X, weights.astype(int), axis=0)
    np.testing.assert_allclose(head.layers.scale, twice.std(axis=0), rtol=1e-4)


def test_weights_count():
    X, y = xor(400)
    y = np.where(np.random.default_rng(0).random(400) < 0.3, 1 - y, y)  # labels that overlap
    context, setting = FitContext(n_jobs=1), SETTING | {"epochs": 20}
    shares = [
        Mlp("mlp").fit(row_set(X, y, weights), setting, context).answers(X).values.argmax(1).mean()
        for weights in (None, np.where(y == 1, 9.0, 1.0))
    ]
    assert shares[1] > shares[0] + 0.2


def test_held_out_rows_that_teach_nothing_end_it_at_once_and_their_weights_count():
    (X, y), (H, h) = xor(300), xor(300, seed=1)
    kind, context = Mlp("mlp"), FitContext(n_jobs=1)
    (head,) = kind.path(row_set(X, y), row_set(H, 1 - h), [SETTING], context)
    assert head.setting["epochs"] < 6
    weights = np.where(np.arange(300) < 150, 1e-9, 1.0)
    mixed = np.where(np.arange(300) < 150, 1 - h, h)
    (head,) = kind.path(row_set(X, y), row_set(H, mixed, weights), [SETTING], context)
    assert max(head.notes["curves"]["validation_accuracy"]) > 0.9


def test_few_rows_and_features_that_do_not_vary():
    X, y = xor(12, noise=0.01)
    X = np.hstack([X, np.full((12, 1), 5, np.float32)])
    head = Mlp("mlp").fit(
        row_set(X, y), {"dropout": 0.0, "epochs": 1, "steps": 300}, FitContext(n_jobs=1)
    )
    assert accuracy(head, X, y) == 1.0  # a single step of a single epoch would not do
    assert head.notes == {"epochs": 150}
    assert np.isfinite(head.answers(X + 1e6).log_probabilities).all()


def test_a_training_that_does_not_end_says_so(monkeypatch):
    monkeypatch.setattr(module, "MAX_EPOCHS", 2)
    X, y = xor(200)
    (head,) = Mlp("mlp").path(row_set(X, y), row_set(X, y), [SETTING], FitContext(n_jobs=1))
    assert not head.converged and head.setting["epochs"] == 2


def test_without_torch_one_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "classify.heads.mlp.training", None)
    X, y = xor(50)
    with pytest.raises(UserError, match=r"--head mlp is trained with torch.*pip install torch"):
        Mlp("mlp").fit(row_set(X, y), SETTING, FitContext())


@pytest.mark.parametrize("name", ["mean", "scale", "weights", "biases"])
def test_layers_that_do_not_fit_are_refused(name):
    X, y = xor(50)
    state = Mlp("mlp").fit(row_set(X, y), SETTING | {"epochs": 1}, FitContext(n_jobs=1)).state()
    bad = (
        [state[name][0][:-1], *state[name][1:]]
        if name in ("weights", "biases")
        else -state[name][:1]
    )
    with pytest.raises(ValueError, match="layer"):
        TrainedMlp.from_state({**state, name: bad})
