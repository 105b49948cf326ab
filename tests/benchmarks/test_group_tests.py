"""The simulation of classifiers whose errors cluster: what it draws, and that it runs."""

import json

import numpy as np

from benchmarks import group_tests
from benchmarks.group_tests import Case, draw, judge_case


def test_accuracies_and_correlations_are_those_asked_for():
    rng = np.random.default_rng(0)
    groups, a, b = draw(Case(4000, 10, 0.4, 0.8), 0.1, rng)
    assert abs(a.mean() - 0.85) < 0.01 and abs(b.mean() - 0.75) < 0.01
    independent = draw(Case(4000, 10, 0.0, 0.8), 0.0, rng)
    for (names, right, _), least, most in (((groups, a, b), 1.5, 5), (independent, 0.9, 1.1)):
        sizes = np.bincount(names)
        spread = np.bincount(names, right - right.mean()) ** 2
        effect = spread.sum() / (sizes.sum() * right.mean() * (1 - right.mean()))
        assert least < effect < most
    sizes = np.bincount(draw(Case(500, 10, 0.3, 0.8, heavy=True), 0.0, rng)[0])
    assert sizes.max() > 5 * sizes.mean() and sizes.max() <= 200


def test_the_part_runs_and_its_tests_agree_with_their_intervals(monkeypatch, settings):
    monkeypatch.setattr(group_tests, "CASES", (Case(20, 10, 0.5, 0.8),))
    group_tests.run(settings)
    found = json.loads((settings.results / "group-tests.json").read_text())
    (case,) = [entry for entry in found["results"] if "signs" in entry]
    assert case["agree"] == 1.0
    many = judge_case(Case(20, 20, 0.5, 0.8), 100)
    assert many["signs"] < 0.13 < many["mcnemar"] and many["wilson"] < 0.8 < many["bootstrap"]
