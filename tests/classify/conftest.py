"""Runs with made-up answers, for what comes after the fits."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from once import once_a_run

from classify.analysis.calibration import calibration
from classify.analysis.decoding import WAYS
from classify.analysis.evaluate import evaluate
from classify.analysis.pairwise import judge_classes
from classify.analysis.significance import METHOD, compare_strategies
from classify.analysis.views import class_order
from classify.report.run_report import write_report
from classify.results.file import json_ready
from classify.wording import headline

# Helpers that tests import by name lie beside them.
sys.path.insert(0, str(Path(__file__).parent))

from specs_for_tests import spec_of

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


HARDEST = {"multinomial": [], "ovr": [1], "ovo": [0, 1]}


def fake_pairs(labels, rng):
    """Every pair judged at random, with two examples for each of the hardest."""
    k = int(labels.max()) + 1
    accuracy = [[float(value) for value in rng.uniform(0.8, 1, k - 1 - i)] for i in range(k - 1)]
    row = int(np.flatnonzero(labels == 0)[0])
    example = {"row": row, "id": f"test_batch.bin:{row}", "truth": 0, "answer": 1, "margin": 2.5}
    hardest = [
        {"a": 0, "b": b, "accuracy": accuracy[0][b - 1], "n": 80, "errors": 5, "a_as_b": 2,
         "b_as_a": 3, "examples": [{**example, "answer": b}] * 2}
        for b in range(1, min(k, 4))
    ]  # fmt: skip
    return {"classes": list(range(k)), "accuracy": accuracy, "hardest": hardest}


def fake_decoding(test):
    share = {"accuracy": test["accuracy"], "accuracy_ci95": test["accuracy_ci95"]}
    return [
        {"way": way, "temperature": 1.5, "log_loss": 0.3 + i / 7, **share}
        for i, way in enumerate(WAYS)
    ]


def fake_own_c(test):
    share = {"accuracy": test["accuracy"] - 0.01, "accuracy_ci95": test["accuracy_ci95"]}
    return {"C": [0.001, 0.01, 0.1, 1.0, 10.0], **share}


def fake_results(names=CIFAR10, n=400, seed=0, data_seed=0, strategies=None, **spec):
    """Results of a run whose answers are drawn at random; `data_seed` draws the truth."""
    k = len(names)
    labels = np.random.default_rng(data_seed).integers(0, k, n)
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n, k))
    entries, answers = {}, {}
    for i, name in enumerate(strategies or ("multinomial", "ovr", "ovo")):
        logits = base + 0.3 * rng.normal(size=(n, k)) + 2.6 * np.eye(k)[labels]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        answers[name] = probabilities.argmax(axis=1)
        grid = [0.001, 0.01, 0.1, 1.0]
        entries[name] = {
            "C": grid[1 + i % 2],
            "n_problems": k * (k - 1) // 2 if name == "ovo" else k,
            "fit_seconds": 0.5 + i,
            "n_iter": 20 + i,
            "converged": True,
            "certificate": {"grad_norm": 1e-7, "objective": 12.3, "gap_bound": 1e-9},
            "validation": [{"C": c, "accuracy": 0.8, "log_loss": 0.5} for c in grid],
            "validation_not_visited": [10.0],
            "test": evaluate(labels, answers[name], probabilities, names),
            "calibration": calibration(labels, probabilities, 1.25, n // 2),
            "course": {"classes": HARDEST[name], "relative_gaps": [1.0, 1e-3, 1e-7]},
        }
        if name == "ovr":
            entries[name]["detection"] = judge_classes(labels, logits, np.arange(k))
        if name == "ovo" and k > 2:
            entries[name]["pairs"] = fake_pairs(labels, rng)
    both = k > 2 and "ovo" in entries
    comparisons = compare_strategies(labels, answers, dict.fromkeys(entries, True))
    results = {
        "schema_version": 1,
        "kind": "run",
        "verdict": headline(entries, comparisons),
        "command": "python -m classify fit features/x.h5",
        "store": {
            "path": "features/x.h5",
            "key": "1a2b3c4d" * 8,
            "spec": spec_of(**spec),
            "provenance": {"device": "cpu", "images_per_second": 100.0},
            "request": {},
        },
        "seed": 0,
        "settings": {"c": "auto", "strategies": list(entries)},
        "class_names": list(names),
        "n_train": 5 * n,
        "n_test": n,
        "n_features": 64,
        "environment": {"python": "3.11"},
        "strategies": entries,
        "comparisons": comparisons,
        "comparison_method": METHOD,
        "class_order": class_order([e["test"]["confusion_matrix"] for e in entries.values()]),
        "decoding": fake_decoding(entries["ovo"]["test"]) if both else None,
        "own_c": {
            name: fake_own_c(entries[name]["test"])
            for name in ("ovr", "ovo")
            if both and name in entries
        },
        "views": {
            "n_fitted": 5 * n,
            "rows": list(range(n)),
            "labels": labels,
            "pca": {"points": base[:, :2], "explained": [0.3, 0.2]},
            "lda": {
                "points": base[:, :2] + labels[:, None],
                "explained": [0.5, 0.3],
                "components": 50,
            },
        },
        "warnings": [],
        "timings": {
            "started": "2026-11-23T19:15:02+00:00",
            "load": 0.5,
            "fit": dict.fromkeys(entries, 0.75),
            "total": 3.0,
        },
    }
    return json_ready(results), labels, answers


def write_fake_run(folder, *, key=None, started=None, order=None, report=False, **options):
    """Write results.json and predictions.npz of a made-up run; `order` permutes its rows."""
    results, labels, answers = fake_results(**options)
    if key:
        results["store"]["key"] = key
    if started:
        results["timings"]["started"] = started
    order = np.arange(len(labels)) if order is None else order
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    np.savez(
        folder / "predictions.npz",
        ids=np.array([f"test_batch.bin:{i}" for i in range(len(labels))])[order],
        labels=labels[order],
        class_names=np.array(results["class_names"]),
        **{f"{name}_predictions": answer[order] for name, answer in answers.items()},
    )
    if report:
        write_report(folder)
    return results


@pytest.fixture(autouse=True)
def _figures(unwritten_figures):
    """Leave the figures empty, but for tests that are marked `figures`."""


@pytest.fixture
def results():
    return fake_results()[0]


@pytest.fixture(scope="session")
def make_results():
    return fake_results


@pytest.fixture(scope="session")
def make_run():
    return write_fake_run


def write_store(path, *, names=("ant", "bee", "cat"), n=240, d=6, seed=0, dtype="float32", **spec):
    """Write a feature store of noisy clusters; `labels_train` and `labels_test` override labels.

    `validation` is how many rows that split has; `groups` and `weights` give each split's by name,
    and groups that are not given as names of their own are called ``g0``, ``g1`` and so on.
    """
    from data.format.records import SplitSource
    from data.writing import join

    sizes = {"train": n, "test": n // 2, "validation": spec.pop("validation", 0)}
    chosen = {split: spec.pop(f"labels_{split}", None) for split in sizes}
    groups, weights = spec.pop("groups", {}), spec.pop("weights", {})
    n_groups = 1 + max((int(np.max(codes)) for codes in groups.values()), default=-1)
    scale = spec.pop("scale", 1)
    provenance = spec.pop("provenance", {"device": "cpu", "images_per_second": 50.0})
    rng = np.random.default_rng(seed)
    centres = 1.3 * rng.normal(size=(len(names), d))
    splits = {}
    for split, rows in sizes.items():
        labels = chosen[split]
        if split == "validation" and labels is None and not rows:
            continue
        labels = np.arange(rows) % len(names) if labels is None else np.asarray(labels)
        X = (centres[labels] + rng.normal(size=(len(labels), d))).astype(dtype) * scale
        ids = [f"{split}:{i}" for i in range(len(labels))]
        splits[split] = SplitSource(
            labels, ids, [(X, np.ones(len(labels), dtype=bool))], groups.get(split),
            weights.get(split),
        )  # fmt: skip
    described = {**spec_of(**spec), "store_dtype": dtype}
    path.parent.mkdir(parents=True, exist_ok=True)
    join(
        path, spec=described, request={}, provenance=provenance, class_names=names, splits=splits,
        group_names=[f"g{i}" for i in range(n_groups)],
    )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def make_store():
    return write_store


@pytest.fixture(scope="session")
def fitted_run(tmp_path_factory):
    """One real run: its folder, store and command line."""
    from classify.__main__ import main

    def make(root):
        store = write_store(root / "features" / "toys" / "toynet-8px-00000000.h5", dataset="toys")
        main(
            ["fit", str(store), "--reports-dir", str(root / "reports"), "--jobs", "1",
             "--c-grid", "0.01,0.1,1,10"]
        )  # fmt: skip
        (folder,) = (root / "reports" / "toys-toynet-8px-00000000").iterdir()
        return [str(folder), str(store)]

    folder, store = map(Path, once_a_run(tmp_path_factory, "fitted", make))
    return folder, store
