"""The simulation of two classes: what it knows of them, and that it runs."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from benchmarks import binary
from benchmarks.binary import Case, cost_above, draw, judge_case, truth_of


def test_what_is_known_is_what_very_many_images_show():
    case = Case(40_000, 120_000, 1.5)
    rows = draw(case, np.random.default_rng(0))
    known = truth_of(case)
    assert roc_auc_score(rows.truth, rows.log_odds) == pytest.approx(known.auc, abs=0.005)
    found = average_precision_score(rows.truth, rows.log_odds)
    assert found == pytest.approx(known.average_precision, abs=0.01)
    alarms, hits, _ = roc_curve(rows.truth, rows.log_odds)
    assert np.interp(binary.ALARMS, alarms, hits) == pytest.approx(known.detected, abs=0.01)
    # The log-odds are what they say, and a cost is that of the flagged and missed images.
    some = np.abs(rows.log_odds) < 0.1
    assert rows.truth[some].mean() == pytest.approx(0.5, abs=0.03)
    flagged = rows.log_odds > -1
    wrong = np.where(rows.truth, 5.0 * ~flagged, 1.0 * flagged).mean()
    assert cost_above(case, -1.0) == pytest.approx(wrong, abs=0.01)


def test_scores_of_a_group_are_alike():
    rows = draw(Case(4000, 4000, 1.5, group_size=8, correlation=0.4), np.random.default_rng(0))
    score = rows.log_odds / 1.5 + 0.75 - 1.5 * rows.truth
    means = np.bincount(rows.units.of_rows, score) / np.bincount(rows.units.of_rows)
    assert rows.units.n_groups == 1000
    assert means.var() == pytest.approx(0.4 + 0.6 / 8, rel=0.2)


def test_the_part_runs_and_its_intervals_hold(monkeypatch, settings):
    monkeypatch.setattr(binary, "CASES", (Case(40, 40, 1.5),))
    binary.run(settings)
    found = json.loads((settings.results / "binary.json").read_text())
    (case,) = [entry for entry in found["results"] if "auc" in entry]
    assert case["auc"] >= 0.8
    many = judge_case(Case(60, 60, 1.5), 10)
    assert min(many[name] for name in binary.COLUMNS) >= 0.7
