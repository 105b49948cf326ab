"""The simulation of many classifiers of known accuracies: what it draws, and that it runs."""

import json

import numpy as np

from benchmarks import best_of_many
from benchmarks.best_of_many import Case, draw, judge_case, judge_draw
from classify.analysis.best_of_many import AgainstBest


def test_accuracies_are_those_asked_for_and_images_are_shared():
    case = Case(40_000, 4, "ladder", 0.8, groups=4_000)
    rights, units = draw(case, np.random.default_rng(0))
    np.testing.assert_allclose(rights.mean(axis=1), [0.9, 0.895, 0.89, 0.885], atol=0.01)
    assert np.corrcoef(rights)[0, 1] > 0.4
    assert units.n_groups == 4_000
    assert draw(Case(100, 2, "all equal", 0.8), np.random.default_rng(0))[1] is None


def test_what_a_page_says_wrongly_is_counted():
    def entry(low, high):
        return AgainstBest(0, 0.0, low, high, 1.0, 1.0, 1 if high < 0 else None)

    truth = np.array([0.01, -0.01, -0.02])
    right = [entry(-0.01, 0.02), entry(-0.05, 0.0), entry(-0.05, -0.01)]
    assert judge_draw(right, truth)[::2] == (False, False)
    left_out, wrong, failed = judge_draw([entry(-0.05, -0.001), *right[1:]], truth)
    assert left_out and failed and wrong.tolist() == [True, False, False]
    # An upper limit of another row that is too low is no promise of all at once.
    left_out, wrong, failed = judge_draw([right[0], entry(-0.05, -0.02), right[2]], truth)
    assert (left_out, failed) == (False, False) and wrong.tolist() == [False, True, False]
    assert judge_draw([right[0], entry(-0.005, 0.0), right[2]], truth)[2]


def test_the_part_runs_and_keeps_to_its_limits(monkeypatch, settings):
    monkeypatch.setattr(best_of_many, "CASES", (Case(200, 3, "one is best", 0.8),))
    best_of_many.run(settings)
    found = json.loads((settings.results / "best-of-many.json").read_text())
    (case,) = [entry for entry in found["results"] if "missed" in entry]
    assert case["classifiers"] == 3 and 1 <= case["kept"] <= 3
    many = judge_case(Case(300, 5, "all equal", 0.3), 100)
    assert many["missed"] <= 0.08 < many["leader_only"]
