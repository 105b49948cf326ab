"""`fit --classes`: what a store with no other rows gives, in memory and from the disk."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from classify.__main__ import main
from classify.analysis.precision import PLAIN
from classify.report.comparison import compare
from classify.saved.reading import load_head
from data.common.cli import run
from data.common.errors import UserError
from data.format.records import SplitSource
from data.reading import open_features
from data.reembedded import Rechecked, digest_of, write_rechecked
from data.writing import join

NAMES = ("ant", "bee", "cat", "dog")
GRID = ["--c-grid", "0.01,0.1,1", "--jobs", "1", "--strategy", "multinomial", "--strategy", "ovr"]


def fit(store, reports, *options):
    words = ["fit", str(store), "--reports-dir", str(reports), *GRID, *map(str, options)]
    assert run(main, words) == 0
    folder = max(reports.glob("*/*"), key=lambda path: path.stat().st_mtime_ns)
    return folder, json.loads((folder / "results.json").read_text("utf-8"))


def only(store, path, names):
    """Write a store that holds the rows of some classes and nothing else."""
    features, splits = open_features(store), {}
    for name, split in features.splits.items():
        rows = np.flatnonzero(np.isin(split.labels, [NAMES.index(n) for n in names]))
        labels = np.array([names.index(NAMES[i]) for i in split.labels[rows]])
        splits[name] = SplitSource(
            labels, [split.ids[i] for i in rows], [(split.features[rows], labels >= 0)],
            split.groups[rows], split.weights[rows], split.image_sha256,
        )  # fmt: skip
    join(
        path, spec=features.spec, request={}, provenance={}, class_names=names, splits=splits,
        group_names=features.group_names,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_store):
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    sizes = {"train": 240, "validation": 80, "test": 120}
    store = make_store(
        root / "s.h5", names=NAMES, n=240, validation=80,
        groups={split: 100 * i + np.arange(n) // 6 for i, (split, n) in enumerate(sizes.items())},
        weights={split: rng.uniform(0.5, 2, n) for split, n in sizes.items()},
    )  # fmt: skip
    weights = root / "weights.csv"
    weights.write_text("ant,1\nbee,2\ncat,3\ndog,0.5\n")
    reports = root / "reports"
    folder, results = fit(store, reports, "--classes", "dog,bee,ant", "--class-weight", weights)
    return SimpleNamespace(
        root=root, store=store, weights=weights, reports=reports, folder=folder, results=results
    )


def numbers(results):
    """What follows from the rows alone: no times, places and settings."""
    left = {"command", "store", "settings", "timings", "environment", "images", "splits"}
    text = json.dumps({k: v for k, v in results.items() if k not in left}, sort_keys=True)
    found = json.loads(text)
    for entry in found["strategies"].values():
        for name in [key for key in entry if key.endswith("_seconds")]:
            del entry[name]
    return found


def test_a_run_is_that_of_a_store_without_the_other_rows(made):
    """The numbers of fits, choices, tests, few-shot draws and precisions, each to the last bit."""
    names = ("ant", "bee", "dog")
    assert made.results["class_names"] == list(names)
    assert made.results["settings"]["classes"] == list(names)
    assert made.results["settings"]["class_weight"] == {"ant": 1.0, "bee": 2.0, "dog": 0.5}
    small = only(made.store, made.root / "small.h5", names)
    weights = made.root / "fewer.csv"
    weights.write_text("ant,1\nbee,2\ndog,0.5\n")
    folder, expected = fit(small, made.root / "other", "--class-weight", weights)
    assert numbers(made.results) == numbers(expected)
    assert made.results["store"]["key"] == expected["store"]["key"]
    ours, theirs = (np.load(place / "predictions.npz") for place in (made.folder, folder))
    assert set(ours) == set(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    head = load_head(made.folder / "heads" / "ovr.safetensors")
    assert head.class_names == names


def test_rows_that_stay_on_the_disk_give_the_same_answers(made, monkeypatch):
    from classify.fit import memory_budget

    monkeypatch.setattr(memory_budget, "in_memory_bytes", lambda header: 10**15)
    _, results = fit(
        made.store, made.root / "disk", "--classes", "ant,bee,dog", "--class-weight", made.weights
    )
    assert results["settings"]["out_of_core"]
    for name, entry in made.results["strategies"].items():
        mine = results["strategies"][name]
        assert mine["C"] == entry["C"]
        assert mine["test"]["confusion_matrix"] == entry["test"]["confusion_matrix"]
        assert mine["test"]["log_loss"] == pytest.approx(entry["test"]["log_loss"], rel=1e-3)
    n_train = [point["n_train"] for point in made.results["few_shot"]["curves"]["ovr"]]
    curve = results["few_shot"]["curves"]["ovr"]
    assert n_train[: len(curve)] == [point["n_train"] for point in curve]


def test_rows_that_were_embedded_again_are_those_of_the_classes(made):
    features = open_features(made.store)
    rows = np.arange(0, 120, 3)
    stored = features.test.features[rows]
    write_rechecked(
        made.store, Rechecked(features.key, rows, digest_of(stored), stored, {"half": -stored})
    )
    _, results = fit(made.store, made.root / "again", "--classes", "ant,cat", "--no-few-shot")
    n = int(np.isin(features.test.labels[rows], [0, 2]).sum())
    cases = [case for case in results["numerics"]["cases"] if case["against"] == PLAIN]
    assert [case["n"] for case in cases] == [n, n]
    assert cases[0]["flips"]["ovr"] == 0 < cases[1]["flips"]["ovr"]


def test_other_classes_are_another_test_set_and_their_order_is_not(made, capsys):
    for classes in ("ant,bee", "bee,ant", "ant,cat"):
        fit(made.store, made.reports, "--classes", classes, "--no-few-shot")
    _, comparison, _ = compare([], made.reports)
    sets = {tuple(sorted(group["runs"])) for group in comparison["test_sets"]}
    assert sorted(map(len, sets)) == [1, 1, 2]
    datasets = {run["dataset"] for run in comparison["runs"]}
    assert datasets == {f"cifar10 ({names})" for names in ("ant, bee", "ant, cat", "ant, bee, dog")}
    [pair] = comparison["backbones"]
    assert pair["accuracy_difference"] == 0  # the same head with the other sign
    assert "cifar10 (ant, bee)" in (made.reports / "comparison" / "report.md").read_text()


def test_classes_of_stores_side_by_side_are_those_of_their_rows(made, make_store):
    wide = make_store(made.root / "wide.h5", names=NAMES, n=240, validation=80, d=4, model="other")
    plain = make_store(made.root / "plain.h5", names=NAMES, n=240, validation=80)
    reports = made.root / "sums"
    _, results = fit(f"{plain}+{wide}", reports, "--classes", "ant,dog", "--no-few-shot")
    assert results["class_names"] == ["ant", "dog"] and results["n_features"] == 10
    assert (results["n_train"], results["n_test"]) == (120, 60)
    assert results["strategies"]["ovr"]["binary"]["n_positive"] == 30


def test_a_worker_opens_the_store_and_keeps_the_classes(made):
    from classify.analysis import few_shot

    task = few_shot.DrawTask(
        path=str(made.store), key=made.results["store"]["key"], strategy="ovr",
        C=made.results["strategies"]["ovr"]["C"], counts=(1, 2, 5), draw=0, seed=0, device="cpu",
        class_weight={0: 1.0, 1: 2.0, 2: 0.5}, classes=("ant", "bee", "dog"),
    )  # fmt: skip
    assert not few_shot._opened
    try:
        drawn = few_shot.run_task(task)
    finally:
        few_shot._opened.clear()
    curve = made.results["few_shot"]["curves"]["ovr"]
    assert drawn.accuracies == [point["accuracies"][0] for point in curve[:3]]


def test_what_is_not_there_is_refused_before_the_first_fit(made, make_store, capsys):
    other = make_store(made.root / "t.h5", names=("ant", "bee", "fly"))
    words = ["fit", str(made.store), str(other), "--classes", "ant,cat"]
    assert run(main, [*words, "--reports-dir", str(made.root / "none")]) == 2
    told = capsys.readouterr().err
    assert "t.h5" in told and "'cat'" in told and "ant, bee, fly" in told
    assert not (made.root / "none").exists()


def test_a_file_of_weights_may_name_classes_that_are_left_out_and_no_others(made):
    from classify.fit.class_weights import read_class_weights

    assert read_class_weights(str(made.weights), ("cat", "ant"), NAMES) == {0: 3.0, 1: 1.0}
    with pytest.raises(UserError, match="'dog'"):
        read_class_weights(str(made.weights), ("cat", "ant"), ("bee",))
