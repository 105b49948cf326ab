"""Nearest class means next to scikit-learn's `NearestCentroid` and to a plain loop."""

import numpy as np
import pytest
from clusters_for_tests import CONTEXT, clusters, row_set, softmax
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from classify.heads.linear import LinearTrained
from classify.heads.nearest_mean import DISTANCES, NearestMean

KIND = NearestMean("nearest-mean")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("n_classes", [2, 5])
def test_answers_are_those_of_the_nearest_mean(distance, n_classes):
    X, y = clusters(300, 12, n_classes, spread=2.0)
    new = clusters(200, 12, n_classes, seed=1, spread=2.0)[0]
    head = KIND.fit(row_set(X, y), {"distance": distance}, CONTEXT)
    assert isinstance(head, LinearTrained) == ("cosine" not in distance)
    prepare = {
        "euclidean": lambda rows: rows,
        "standardized": StandardScaler().fit(X).transform,
        "cosine": unit,
        "centred cosine": lambda rows: unit(rows - X.mean(axis=0)),
    }[distance]
    Z, queries = prepare(X), prepare(new)
    means = np.array([Z[y == k].mean(axis=0) for k in range(n_classes)])
    within = np.mean(np.sum((Z - means[y]) ** 2, axis=1)) / X.shape[1]
    if "cosine" in distance:
        nearest, scores = None, queries @ unit(means).T / within
    else:
        nearest = NearestCentroid().fit(Z, y).predict(queries)
        scores = -((queries[:, None] - means) ** 2).sum(axis=2) / (2 * within)
    answers = head.answers(new)
    expected = scores.argmax(axis=1) if nearest is None else nearest
    np.testing.assert_array_equal(answers.values.argmax(axis=1), expected)
    np.testing.assert_allclose(np.exp(answers.log_probabilities), softmax(scores), atol=1e-9)
