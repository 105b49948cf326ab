"""`svm-ovr`, `svm-ovo` and `ecoc` from the command to the file of a head."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.metrics import accuracy_score

from classify.__main__ import main
from classify.fit import output
from classify.saved import heads
from classify.saved.reading import load_head
from classify.solver.codes import code_book
from data.common.cli import run
from data.common.errors import UserError
from data.reading import open_features

HEADS = ("svm-ovr", "svm-ovo", "ecoc")


def fit(store, reports, *options):
    words = ["fit", str(store), f"--reports-dir={reports}", *(f"--head={name}" for name in HEADS)]
    assert run(main, [*words, *options]) == 0
    (path,) = Path(reports).rglob("results.json")
    return path.parent, json.loads(path.read_text())


def check(folder, results, store):
    """Files answer as the run did, and every fit is certified."""
    features = open_features(store)
    for name in HEADS:
        entry = results["strategies"][name]
        assert entry["converged"]
        assert entry["certificate"]["relative_gap"] <= 1e-6
        assert entry["setting"]["C"] == entry["C"]
        assert entry["saved"]["linear"]
        head = load_head(folder / entry["saved"]["file"])
        answers = head.predict(features.test.features)
        assert accuracy_score(features.test.labels, answers) == entry["test"]["accuracy"]
        chances = head.probabilities(features.test.features)
        np.testing.assert_allclose(chances.sum(axis=1), 1)
        assert (head.strategy, head.C) == (name, entry["C"])
        yield name, entry, head


def test_a_run_chooses_fits_judges_and_saves_them(tmp_path, make_store):
    store = make_store(tmp_path / "a.h5", names=tuple("abcd"))
    folder, results = fit(store, tmp_path / "r", "--c-grid=1e-3,1e-2,0.1")
    found = {name: (entry, head) for name, entry, head in check(folder, results, store)}
    assert [found[name][1].coded for name in HEADS] == ["ovr", "ovo", "ecoc"]
    assert [found[name][0]["n_problems"] for name in HEADS] == [4, 6, 7]
    assert np.array_equal(found["ecoc"][1].code, code_book(4))
    assert found["ecoc"][0]["setting"]["code_seed"] == 0
    for entry, head in found.values():
        assert len(entry["validation"]) == 3
        assert head.temperature == entry["calibration"]["temperature"] > 0
    assert results["few_shot"]["curves"].keys() == set(HEADS)
    page = (folder / "report.html").read_text()
    assert all(title in page for title in ("SVM OvR", "SVM OvO", "ECOC"))


def test_two_classes_are_one_problem_of_each_loss(tmp_path, make_store):
    store = make_store(tmp_path / "a.h5", names=("a", "b"))
    folder, results = fit(store, tmp_path / "r", "--c=0.1", "--no-few-shot")
    for name, _, head in check(folder, results, store):
        assert len(head.coef) == 1, name
        assert head.code is None
    (comparison,) = results["comparisons"]
    assert {comparison["a"], comparison["b"]} == {"svm-ovr", "ecoc"}


def test_pairs_of_few_rows_are_kept_as_sums_of_rows(tmp_path, make_store, monkeypatch):
    for module in (heads, output):
        monkeypatch.setattr(module, "compact", lambda *_: True)
    labels = np.repeat(np.arange(5), 3)
    store = make_store(
        tmp_path / "a.h5", names=tuple("abcde"), d=40, labels_train=labels, labels_test=labels
    )
    folder, results = fit(store, tmp_path / "r", "--c=0.1", "--no-few-shot")
    found = {name: head for name, _, head in check(folder, results, store)}
    assert found["svm-ovo"].sums is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda code: code[:, :1] * 0 + 1, "no negative"),
        (lambda code: code[:-1], "expected int64"),
        (lambda code: 2 * code, "-1, 0 and 1 only"),
    ],
)
def test_a_damaged_code_book_is_refused(tmp_path, make_store, change, message):
    store = make_store(tmp_path / "a.h5", names=tuple("abc"))
    folder, _ = fit(store, tmp_path / "r", "--c=0.1", "--no-few-shot")
    path = folder / "heads" / "ecoc.safetensors"
    tensors = load_file(path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]
    tensors["code"] = np.ascontiguousarray(change(tensors["code"]))
    save_file(tensors, path, metadata)
    with pytest.raises(UserError, match=message):
        load_head(path)
