"""Predictions that another precision would change: counted, said and shown."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from classify import OneVsRestLogistic
from classify.__main__ import main
from classify.analysis.precision import _tried, numerics
from classify.report.run_report import write_report
from classify.report.runs import read_results
from classify.saved.reading import load_head
from data.common.errors import UserError
from data.reading import open_features
from data.reembedded import Rechecked, digest_of, write_rechecked


@pytest.fixture
def store(make_store, tmp_path):
    return make_store(tmp_path / "features" / "toys" / "toynet-8px-00000000.h5", dataset="toys")


def fit(store, reports, *options):
    words = [f"--reports-dir={reports}", "--c=1", "--jobs=1", "--no-few-shot", *options]
    main(["fit", str(store), *words])
    folder = max(next(reports.iterdir()).iterdir())
    return folder, read_results(folder / "results.json")


def recheck(store, changed):
    """Keep rows of which `changed` test rows were embedded as something else."""
    features = open_features(store)
    rows = np.arange(0, len(features.test.labels), 2)
    stored = features.test.features[rows]
    plain = stored.copy()
    plain[:changed] = -50 * plain[:changed] - 7
    found = Rechecked(features.key, rows, digest_of(stored), plain, {"bf16, openvino": plain})
    write_rechecked(store, found)
    return features, rows, stored, plain


def predictions(folder, strategy, X):
    head = load_head(folder / "heads" / f"{strategy}.safetensors")
    return head.predict(X)


def test_flips_are_those_of_the_heads(store, tmp_path, capsys):
    _, _, stored, plain = recheck(store, changed=9)
    folder, results = fit(store, tmp_path / "reports")
    found = results["numerics"]
    halves, as_stored, other = found["cases"]
    assert halves["features"] == "stored as float16"
    assert as_stored["against"] == other["against"] == "fp32, plain torch"
    assert other["features"] == "bf16, openvino"
    assert set(other["flips"].values()) == {0}
    assert as_stored["n"] == len(plain)
    for strategy, count in as_stored["flips"].items():
        before, after = (predictions(folder, strategy, X) for X in (stored, plain))
        assert count == (before != after).sum()
    assert max(as_stored["flips"].values()) > 0
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if "would flip" in line]
    assert f"OvR {as_stored['flips']['ovr']}" in line
    assert f"of {len(plain)} test predictions" in line
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert "lower precision" in text
        assert "bf16, openvino" in text


def test_halves_are_tried_on_every_test_row(make_store, tmp_path):
    store = make_store(tmp_path / "features" / "toys" / "toynet-8px-00000000.h5", dataset="toys")
    features = open_features(store)
    folder, results = fit(store, tmp_path / "reports")
    (case,) = results["numerics"]["cases"]
    assert case["n"] == len(features.test.labels)
    halves = features.test.features.astype(np.float16).astype(np.float32)
    for strategy, count in case["flips"].items():
        before = predictions(folder, strategy, features.test.features)
        assert count == (before != predictions(folder, strategy, halves)).sum()
    assert "extract verify" in (folder / "report.html").read_text()


def test_features_left_on_the_disk_give_the_same_counts(store):
    features, *_ = recheck(store, changed=9)
    model = OneVsRestLogistic(C=1.0).fit(features.train.features, features.train.labels)
    answers = model.predict(features.test.features)
    fitted = {"ovr": SimpleNamespace(estimator=model, predictions=answers, n_scores=3)}
    loaded = numerics(features, features.test.features, fitted)
    left = open_features(store, in_memory=False)
    assert numerics(left, left.test.features, fitted) == loaded
    assert len(loaded["cases"]) == 3


def test_a_store_of_halves_is_not_compared_with_halves(make_store, tmp_path):
    path = tmp_path / "features" / "toys" / "toynet-8px-00000000.h5"
    store = make_store(path, dataset="toys", dtype="float16")
    _, results = fit(store, tmp_path / "reports")
    assert results["numerics"]["cases"] == []


def test_rows_of_an_older_store_are_not_used(store, tmp_path, capsys):
    features, rows, stored, plain = recheck(store, changed=9)
    for wrong in (
        Rechecked(features.key, rows, digest_of(stored + 1), plain, {}),
        Rechecked(features.key, rows + 10_000, digest_of(stored), plain, {}),
        Rechecked("0" * 64, rows, digest_of(stored), plain, {}),
    ):
        write_rechecked(store, wrong)
        _, results = fit(store, tmp_path / "reports")
        assert len(results["numerics"]["cases"]) == 1
    assert "would flip" not in capsys.readouterr().err


def test_damaged_counts_are_named(make_results, tmp_path):
    results, *_ = make_results(strategies=("multinomial", "ovo"))
    case = {"features": "a", "against": "b", "n": 3, "flips": {"multinomial": 1, "ovo": 0}}
    results["numerics"] = {"stored": "torch, fp32, float32", "cases": [case, dict(case)]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    write_report(tmp_path)
    assert "| a | b | 3 | 1 | 0 |" in (tmp_path / "report.md").read_text()
    results["numerics"]["cases"][1]["flips"] = {"multinomial": 1}
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"numerics\.cases\[1\]"):
        read_results(tmp_path / "results.json")


def test_of_very_many_scores_some_rows_are_tried():
    np.testing.assert_array_equal(_tried(50, 499_500), np.arange(50))
    rows = _tried(5000, 499_500)
    assert len(rows) == 1001
    assert set(np.diff(rows)) <= {4, 5}
    assert rows[-1] < 5000
