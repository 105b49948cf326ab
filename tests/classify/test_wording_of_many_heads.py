"""What is said of runs with many heads, in words that follow from their tests."""

import numpy as np
import pytest

from classify.analysis.significance import compare_strategies
from classify.wording import headline, setting_words, simpler_warnings

N = 1000


def run_of(accuracies, unconverged=()):
    """Entries and comparisons of heads that are right on the first rows, so many of a thousand."""
    labels = np.zeros(N, dtype=np.int64)
    right = {name: int(share * N) for name, share in accuracies.items()}
    predictions = {name: (np.arange(N) >= n).astype(np.int64) for name, n in right.items()}
    strategies = {
        name: {"test": {"accuracy": share, "accuracy_ci95": [share - 0.02, share + 0.02]}}
        for name, share in accuracies.items()
    }
    converged = {name: name not in unconverged for name in accuracies}
    return strategies, compare_strategies(labels, predictions, converged)


def test_of_many_heads_the_best_is_named_and_what_it_can_be_told_from():
    strategies, comparisons = run_of(
        {"multinomial": 0.8, "ovr": 0.799, "ovo": 0.7, "knn": 0.5, "mlp": 0.6}, ["mlp"]
    )
    told = headline(strategies, comparisons)
    assert told.startswith("Of 5 heads multinomial has the highest accuracy, 80.00 %")
    assert "Better than OvO and " in told
    assert "(adjusted for 10 tests)" in told
    assert "No detectable difference from OvR." in told
    assert "No verdict, since a fit did not converge, on MLP." in told
    assert "OvR is better than OvO by 9.90 points" in told


@pytest.mark.parametrize(("below", "words"), [(0.6, "by more than chance"), (0.799, "though ch")])
def test_heads_that_neighbours_beat_are_warned_of(below, words):
    strategies, comparisons = run_of({"ovr": below, "knn": 0.8, "multinomial": 0.9})
    (told,) = simpler_warnings(strategies, comparisons)
    assert " (80.00 %), which learns next to nothing, beats OvR, " + words in told
    assert simpler_warnings(*run_of({"ovr": 0.9, "knn": 0.8})) == []
    # Neither of the two is warned of because of the other.
    assert simpler_warnings(*run_of({"nearest-mean": 0.7, "knn": 0.8})) == []


def test_settings_in_words():
    assert setting_words({"k": 20, "alpha": 0.123456, "depth": None}) == (
        "k = 20, alpha = 0.123, depth = none"
    )
