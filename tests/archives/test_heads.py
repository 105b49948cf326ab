"""Heads of every format that was ever released are read by every later Icebox."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from classify.saved_heads import FORMAT_VERSION, load_head

HERE = Path(__file__).parent
FROZEN = {
    1: "2bb7a255aabb0b0781ff9e500e9d41ea31973d8a2e2034a5dd6d246f47a022b3",
    2: "aef6d83f41afef97a465f2df7de40fc303496c0b224bd2e10ac5a97a9ffa86a5",
}
X = np.array([[1.0, -2.0, 0.5, 3.0], [0.25, 4.0, -1.0, 2.0]], np.float32)


def test_there_is_a_frozen_file_of_every_format():
    assert list(FROZEN) == list(range(1, FORMAT_VERSION + 1))


@pytest.mark.parametrize("version", FROZEN)
def test_the_frozen_file_was_not_made_anew(version):
    content = (HERE / f"head-{version}.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == FROZEN[version]


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
    assert (head.strategy, head.C, head.temperature) == ("ovo", 0.25, 1.5)
    assert (head.normalize, head.fit_intercept, head.n_features) == ("l2", True, 4)
    rows = X / np.linalg.norm(X, axis=1, keepdims=True)
    expected = [scores_as_documented(tensors, row) for row in rows]
    np.testing.assert_allclose(head.scores(X), expected, atol=1e-6)
    np.testing.assert_allclose(head.probabilities(X).sum(axis=1), 1)
    assert head.predict(X).shape == (2,)
