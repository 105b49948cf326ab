"""What holds for the coding and decoding of classes, whatever the scores are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classify.codings.decisions import decide, decision_values, probabilities
from classify.solver.problems import class_pairs, n_heads

STRATEGIES = ("multinomial", "ovr", "ovo")
# Zeros and equal scores are where decoding goes wrong.
SCORE = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30, 700.0, -700.0]),
    st.floats(-1e4, 1e4, allow_nan=False, width=32),
)


@st.composite
def tables(draw):
    strategy = draw(st.sampled_from(STRATEGIES))
    k, n = draw(st.integers(2, 7)), draw(st.integers(1, 5))
    columns = n_heads(strategy, k)
    size = n * columns
    flat = draw(st.lists(SCORE, min_size=size, max_size=size))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return strategy, np.array(flat, dtype).reshape(n, columns), k


@settings(max_examples=300, deadline=None, derandomize=True)
@given(tables())
def test_the_answer_is_where_the_decision_is_largest(table):
    strategy, scores, k = table
    values, answers = decision_values(strategy, scores, k), decide(strategy, scores, k)
    assert answers.shape == (len(scores),)
    if k == 2:
        assert np.array_equal(answers, (np.ravel(values) > 0).astype(int))
    else:
        assert values.shape == (len(scores), k)
        assert np.array_equal(answers, values.argmax(axis=1))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(tables())
def test_probabilities_are_probabilities(table):
    strategy, scores, k = table
    found = probabilities(strategy, scores, k)
    assert found.shape == (len(scores), k)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    k=st.integers(3, 9),
    margin=st.floats(1e-3, 50),
    noise=st.floats(0, 0.999),
    seed=st.integers(0, 2**31),
)
def test_what_is_coded_is_decoded(strategy, k, margin, noise, seed):
    """Heads that are right about the true class are enough, whatever the others say."""
    rng = np.random.default_rng(seed)
    labels = np.arange(k)
    if strategy == "ovo":
        scores = noise * margin * rng.uniform(-1, 1, (k, n_heads(strategy, k)))
        for head, (negative, positive) in enumerate(class_pairs(k)):
            scores[negative, head], scores[positive, head] = -margin, margin
    else:
        scores = noise * margin * rng.uniform(-1, 1, (k, k))
        scores[labels, labels] = margin
    assert np.array_equal(decide(strategy, scores, k), labels)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(k=st.integers(3, 7), seed=st.integers(0, 2**31))
def test_other_names_for_the_classes_rename_the_answers(k, seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(k)  # class c is called order[c]
    scores = rng.standard_normal((4, n_heads("ovo", k)))
    place = {tuple(pair): head for head, pair in enumerate(class_pairs(k).tolist())}
    renamed = np.empty_like(scores)
    for (a, b), head in place.items():
        new = order[a], order[b]
        sign = 1 if new[0] < new[1] else -1
        renamed[:, place[tuple(sorted(new))]] = sign * scores[:, head]
    assert np.array_equal(decide("ovo", renamed, k), order[decide("ovo", scores, k)])
