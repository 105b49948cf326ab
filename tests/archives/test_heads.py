"""Heads of every format that was ever released are read by every later Icebox."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from classify.saved.heads import FORMAT_VERSION
from classify.saved.models import FORMAT_VERSION as MODEL_VERSION
from classify.saved.models import load_model
from classify.saved.reading import load_head

HERE = Path(__file__).parent
FROZEN = {
    1: "2bb7a255aabb0b0781ff9e500e9d41ea31973d8a2e2034a5dd6d246f47a022b3",
    2: "aef6d83f41afef97a465f2df7de40fc303496c0b224bd2e10ac5a97a9ffa86a5",
    3: "ca08278b45dc960f6d9cae2cd65b34cf65f3c117019df3f51b604f380901ff22",
    4: "e94aa2c7402d3bbb447fb6ee79750be2c8f7f2731839d49e7ebe716ea057d14e",
}
MODELS = {
    1: "fb4b27fff049abba803001112e148f5143f7a23fde02435c13488e1b08cb6218",
    2: "f98417c6bb0799d09eeacde599da5f0564e0330ebaca656fd0015c3105d7bfa4",
}
NAMES = {version: f"head-{version}.safetensors" for version in FROZEN}
NAMES |= {10 + version: f"model-{version}.skops" for version in MODELS}
X = np.array([[1.0, -2.0, 0.5, 3.0], [0.25, 4.0, -1.0, 2.0]], np.float32)


def test_there_is_a_frozen_file_of_every_format():
    assert list(FROZEN) == list(range(1, FORMAT_VERSION + 1))
    assert list(MODELS) == list(range(1, MODEL_VERSION + 1))


@pytest.mark.parametrize(
    ("name", "digest"), zip(NAMES.values(), [*FROZEN.values(), *MODELS.values()], strict=True)
)
def test_the_frozen_file_was_not_made_anew(name, digest):
    assert hashlib.sha256((HERE / name).read_bytes()).hexdigest() == digest


def divided(parts):
    """Divide each part of the rows by its own norm."""
    edges = np.cumsum([part.n_features for part in parts])[:-1]
    pieces = np.split(X, edges, axis=1) if parts else [X]
    return np.hstack([piece / np.linalg.norm(piece, axis=1, keepdims=True) for piece in pieces])


def scores_as_documented(tensors, row):
    """The scores of a row for the pairs (0, 1), (0, 2), (1, 2), as formats.md defines them."""
    if "coef" in tensors:
        return tensors["coef"] @ row + tensors["intercept"]
    products, starts = tensors["span"] @ (row - tensors["shift"]), tensors["starts"]
    found = []
    for offset, (a, b) in zip(tensors["offset"], [(0, 1), (0, 2), (1, 2)], strict=True):
        score = float(offset)
        for mine, other in ((a, b), (b, a)):
            for i in range(starts[mine], starts[mine + 1]):
                score += tensors["duals"][i, other] * products[i]
        found.append(score)
    return found


@pytest.mark.parametrize("version", FROZEN)
def test_its_scores_are_those_of_its_format(version):
    path = HERE / f"head-{version}.safetensors"
    head, tensors = load_head(path), load_file(path)
    assert ("span" in tensors) == (version == 2)
    assert head.class_names == ("airplane", "Käse", "cat")
    assert (head.coded, head.C, head.temperature) == ("ovo", 0.25, 1.5)
    assert (head.strategy, head.setting) == (
        ("svm-ovo", {"C": 0.25}) if version == 3 else ("ovo", None)
    )
    assert (head.normalize, head.fit_intercept, head.n_features) == (
        (1, 3) if version == 4 else "l2", True, 4,
    )  # fmt: skip
    assert [part.key[:2] for part in head.parts] == (["cd", "ef"] if version == 4 else [])
    rows = divided(head.parts)
    expected = [scores_as_documented(tensors, row) for row in rows]
    np.testing.assert_allclose(head.scores(X), expected, atol=1e-6)
    np.testing.assert_allclose(head.probabilities(X).sum(axis=1), 1)
    assert head.predict(X).shape == (2,)


@pytest.mark.parametrize("version", MODELS)
def test_answers_of_heads_that_are_not_linear_are_those_of_their_format(version):
    head = load_model(HERE / f"model-{version}.skops")
    assert (head.strategy, head.setting) == ("nearest-mean", {"distance": "centred cosine"})
    assert (head.normalize, head.n_features) == ((1, 3) if version == 2 else "l2", 4)
    assert [part.n_features for part in head.parts] == ([1, 3] if version == 2 else [])
    state = head.trained.state()
    rows = divided(head.parts) - state["centre"]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scores = state["sharpness"] * (rows @ state["directions"].T + state["offsets"])
    expected = np.exp(scores / head.temperature)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.probabilities(X), expected, rtol=1e-6)
    assert head.predict(X).tolist() == scores.argmax(axis=1).tolist()
