"""Stores side by side, from fit to predict: equal to one store that holds the columns of both."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from specs_for_tests import spec_of

from classify import MultinomialLogistic, OneVsRestLogistic
from classify.__main__ import main
from classify.analysis.few_shot import DrawTask, run_task
from classify.analysis.gallery import thumbnails
from classify.analysis.precision import numerics
from classify.fit.fit_store import store_name
from classify.fit.fit_stores import fit_stores
from classify.records import FitOptions
from classify.report.comparison import compare
from classify.report.run_report import extract_command, provenance_rows
from classify.report.runs import read_results
from classify.results.names import backbone_name, has_random_weights
from classify.saved.models import load_model
from classify.saved.parts import HeadPart, read_parts
from classify.saved.reading import load_head
from classify.solver.row_norms import normalized
from data.common.cli import run
from data.dataset import load_dataset
from data.format.records import SplitSource
from data.format.spec import check_decode, cropped_twice, is_imported
from data.reading import open_features, read_header
from data.reembedded import EXACTLY, Rechecked, digest_of, write_rechecked
from data.writing import join

NAMES = ("ant", "bee", "cat")
N = 180


def write(folder, model, columns, *, shuffle=False, source="hub", norm=None, rows=N):
    """Write a store of some columns of made rows; `norm` divides rows before they are kept."""
    rng = np.random.default_rng(3)
    splits = {}
    for split, n in (("train", rows), ("test", 90)):
        labels = np.arange(n) % 3
        X = 1.1 * np.random.default_rng(0).normal(size=(3, 9))[labels] + rng.normal(size=(n, 9))
        X = normalized(X.astype(np.float32), norm)[:, columns]
        order = np.random.default_rng(1).permutation(n) if shuffle else np.arange(n)
        ids = [f"{split}:{row}" for row in order]
        splits[split] = SplitSource(labels[order], ids, [(X[order], np.ones(n, bool))])
    spec = spec_of(model=model, dataset="toys", source=source, size=8)
    provenance = {"images_per_second": 50.0, "seconds": 3.0, "engine": "torch"}
    if source == "file":
        provenance["weights_file"] = str(folder / f"{model}.safetensors")
    path = folder / "features" / "toys" / f"{model}-8px.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    request = {"options": {"model": model, "dataset": "digits", "weights": "hub"}}
    join(path, spec=spec, request=request, provenance=provenance, class_names=NAMES, splits=splits)
    return path


@pytest.fixture
def stores(tmp_path):
    """Two stores, of which the second has its rows in another order, and one of both's columns."""
    first = write(tmp_path, "one", slice(0, 5))
    second = write(tmp_path, "two", slice(5, 9), shuffle=True)
    return first, second, write(tmp_path, "both", slice(0, 9))


def fit(store, reports, *options):
    words = [f"--reports-dir={reports}", "--jobs=1", "--c-grid=0.01,1", "--strategy=ovr", *options]
    words += ["--strategy=ovo"]
    main(["fit", str(store), *words])
    (folder,) = next(Path(reports).iterdir()).iterdir()
    return folder, read_results(folder / "results.json")


def answers_of(folder):
    with np.load(folder / "predictions.npz") as stored:
        return dict(stored)


def same_answers(one, other):
    mine, theirs = answers_of(one), answers_of(other)
    assert mine.keys() == theirs.keys()
    for name, found in mine.items():
        if found.dtype.kind == "f":
            np.testing.assert_allclose(found, theirs[name], rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(found, theirs[name])


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--memory=100MB", "--no-few-shot"),
        ("--classes=cat,ant", "--no-few-shot", "--head=ridge"),
    ],
)
def test_a_sum_is_fitted_as_a_store_of_all_columns(stores, tmp_path, options, monkeypatch):
    first, second, both = stores
    alike = [word for word in options if "memory" not in word]
    if options != tuple(alike):  # as if the features were larger
        monkeypatch.setattr("classify.fit.memory_budget.in_memory_bytes", lambda *_: 1 << 30)
    sum_folder, found = fit(f"{first}+{second}", tmp_path / "sum", *options)
    folder, expected = fit(both, tmp_path / "whole", *alike)
    assert found["settings"]["out_of_core"] == (options != tuple(alike))
    same_answers(sum_folder, folder)
    for name, entry in found["strategies"].items():
        assert entry["C"] == expected["strategies"][name]["C"]
    # Few-shot draws open the sum, and are of the same rows.
    for name, curve in (found.get("few_shot") or {"curves": {}})["curves"].items():
        others = expected["few_shot"]["curves"][name]
        assert [p["n_train"] for p in curve] == [p["n_train"] for p in others]
        np.testing.assert_allclose(
            [p["mean"] for p in curve], [p["mean"] for p in others], atol=0.02
        )
    assert found["n_features"] == 9


def test_each_part_of_a_row_is_divided_by_its_own_norm(tmp_path):
    first = write(tmp_path, "one", slice(0, 5))
    second = write(tmp_path, "two", slice(5, 9))
    whole = write(tmp_path, "both", slice(0, 9), norm=(5, 4))
    folder, found = fit(f"{first}+{second}", tmp_path / "sum", "--normalize=l2", "--no-few-shot")
    other, _ = fit(whole, tmp_path / "whole", "--no-few-shot")
    same_answers(folder, other)
    assert found["settings"]["normalize"] == "l2"
    head = load_head(folder / "heads" / "ovr.safetensors")
    assert head.normalize == (5, 4)
    X = open_features(f"{first}+{second}").test.features
    np.testing.assert_array_equal(head.predict(X), answers_of(folder)["ovr_predictions"])


def test_norms_of_parts_in_python():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 7)), np.arange(60) % 3
    X[:20, 2:] = 0
    divided = np.hstack(
        [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-300)
         for part in (X[:, :2], X[:, 2:])]
    )  # fmt: skip
    np.testing.assert_allclose(normalized(X, (2, 5)), divided, atol=1e-12)
    torch = pytest.importorskip("torch")
    np.testing.assert_allclose(normalized(torch.from_numpy(X), (2, 5)), divided, atol=1e-12)
    model = OneVsRestLogistic(normalize=(2, 5)).fit(X, y)
    plain = OneVsRestLogistic().fit(divided, y)
    np.testing.assert_allclose(model.coef_, plain.coef_, atol=1e-4)
    np.testing.assert_array_equal(model.predict(X), plain.predict(divided))
    with pytest.raises(ValueError, match=r"parts of 2 \+ 4 columns, and X has 7"):
        MultinomialLogistic(normalize=(2, 4)).fit(X, y)
    for wrong in ((), (0, 7), (2.0, 5), [2, 5], "l1"):
        with pytest.raises(ValueError, match="normalize"):
            MultinomialLogistic(normalize=wrong).fit(X, y)


def test_what_a_run_says_of_a_sum(stores, tmp_path):
    first, second, _ = stores
    folder, found = fit(f"{first}+{second}", tmp_path / "reports", "--no-few-shot")
    assert folder.parent.name == "toys-one-8px_two-8px"
    store, spec = found["store"], found["store"]["spec"]
    assert store["path"] == f"{first}+{second}"
    assert store["key"] == read_header(f"{first}+{second}").key
    assert backbone_name(spec) == "one 8 px + two 8 px"
    assert store["provenance"]["images_per_second"] == 25.0
    rows = dict(provenance_rows(found))
    assert rows["store 1: path"] == str(first) and rows["store 2: path"] == str(second)
    assert rows["store 2: model: name"] == "two" and rows["store 1: extraction: engine"] == "torch"
    commands = extract_command(store).split(" && ")
    assert ["--model=one" in commands[0], "--model=two" in commands[1]] == [True, True]
    html = (folder / "report.html").read_text("utf-8")
    assert "one 8 px + two 8 px" in html
    words = [f"--reports-dir={tmp_path}/reports", "--c=1", "--no-few-shot", "--strategy=ovr"]
    main(["fit", str(first), *words])
    _, comparison, _ = compare([], tmp_path / "reports")
    labels = {run["label"]: run["extraction_seconds_per_1000"] for run in comparison["runs"]}
    assert labels == {"one 8 px": 20.0, "one 8 px + two 8 px": 40.0}
    assert {(pair["a"], pair["b"]) for pair in comparison["backbones"]} == {
        ("one 8 px", "one 8 px + two 8 px")
    }
    assert len(comparison["against_best"][0]["rows"]) == 3


def test_many_stores_have_a_folder_of_a_name_that_disks_take(tmp_path):
    stores = [write(tmp_path, f"{letter * 60}", slice(0, 2)) for letter in "abcd"]
    name = store_name(open_features("+".join(map(str, stores))))
    assert len(name) < 230 and name.startswith("toys-aaaa")


def test_a_sum_of_two_features_of_one_network_names_both():
    spec = spec_of(model="vit", size=8)
    token = {**spec, "pool": "token+avg"}
    name = backbone_name({"parts": [spec, token]})
    assert name == f"vit 8 px + {backbone_name(token)}" and "token+avg" in name


def test_specs_of_sums_answer_for_their_parts():
    one, other = spec_of(model="one"), spec_of(model="two", source="random")
    both = {"dataset": one["dataset"], "parts": [one, other]}
    assert has_random_weights(both) and not has_random_weights({"parts": [one, one]})
    assert not is_imported(both)
    assert is_imported({"parts": [one, spec_of(source="imported")]})
    twice = spec_of(dataset="photos")
    assert cropped_twice({"parts": [one, twice]}) == cropped_twice(twice)
    check_decode("exact", both, "it")
    with pytest.raises(Exception, match="was made with --decode exact"):
        check_decode("fast", both, "it")


@pytest.fixture
def stage_one(monkeypatch):
    """Stands in for the other process: gives as many features as the name of a model is long."""
    calls = []

    class Done:
        returncode = 0

    def fake(command, **_):
        options = dict(part[2:].split("=", 1) for part in command if part.startswith("--"))
        needed = json.loads(Path(options["spec"]).read_text("utf-8"))
        names = json.loads(Path(options["list"]).read_text("utf-8"))
        calls.append((needed["spec"]["model"]["name"], needed["weights_file"], names))
        store = fake.stores[needed["spec"]["model"]["name"]]
        rows = [store.test.ids.index(f"test:{row}") for row in range(len(names))]
        np.save(options["out"], store.test.features[rows])
        return Done

    fake.calls = calls
    monkeypatch.setattr(subprocess, "run", fake)
    return fake


@pytest.fixture
def of_files(tmp_path, stage_one):
    """A run on two stores whose weights came from files, and images to predict."""
    paths = [
        write(tmp_path, "one", slice(0, 5), source="file"),
        write(tmp_path, "two", slice(5, 9), source="file", shuffle=True),
    ]
    weights = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path in weights:
        path.write_bytes(b"weights")
    images = [tmp_path / f"{i}.png" for i in range(4)]
    for image in images:
        image.write_bytes(b"pixels")
    stage_one.stores = {p.name.split("-")[0]: open_features(p) for p in paths}
    more = ["--no-few-shot", "--normalize=l2", "--head=knn"]
    folder, _ = fit(f"{paths[0]}+{paths[1]}", tmp_path / "reports", *more)
    return folder, paths, weights, list(map(str, images))


@pytest.mark.parametrize("strategy", ["ovr", "ovo", "knn"])
def test_predict_runs_each_network_once(of_files, stage_one, capsys, strategy):
    folder, paths, weights, images = of_files
    head = folder / read_results(folder / "results.json")["strategies"][strategy]["saved"]["file"]
    assert (head.suffix == ".skops") == (strategy == "knn")
    assert run(main, ["predict", str(head), *images, "--json"]) == 0
    told = capsys.readouterr()
    assert stage_one.calls == [("one", str(weights[0]), images), ("two", str(weights[1]), images)]
    found = answers_of(folder)
    labels = found["class_names"][found[f"{strategy}_predictions"][:4]]
    assert [answer["label"] for answer in json.loads(told.out)] == labels.tolist()
    assert "one 8 px + two 8 px" in told.err
    saved = load_model(head) if strategy == "knn" else load_head(head)
    assert saved.normalize == (5, 4)
    assert [(p.key, p.n_features, p.weights_file) for p in saved.parts] == [
        (read_header(path).key, width, str(file))
        for path, width, file in zip(paths, (5, 4), weights, strict=True)
    ]
    # Rows of features: a file of such rows, or the stores themselves.
    assert run(main, ["predict", str(head), f"{paths[0]}+{paths[1]}", "--json"]) == 0
    given = json.loads(capsys.readouterr().out)
    assert [a["label"] for a in given] == found["class_names"][
        found[f"{strategy}_predictions"]
    ].tolist()


def test_weights_that_moved_are_given_for_each_part(of_files, stage_one, tmp_path, capsys):
    folder, _, weights, images = of_files
    words = ["predict", str(folder / "heads" / "ovr.safetensors"), images[0]]
    moved = tmp_path / "moved"
    weights[1].unlink()
    assert run(main, words) == 2
    err = capsys.readouterr().err
    assert "features of 2 backbones: 1. one 8 px" in err and "2. two 8 px" in err
    assert (
        "two.safetensors, which is gone" in err and "2 times, or 1 for those that are gone" in err
    )
    assert run(main, [*words, "--weights", str(moved)]) == 0
    assert [call[1] for call in stage_one.calls] == [str(weights[0]), str(moved)]
    stage_one.calls.clear()
    assert run(main, [*words, "--weights=x", "--weights=y"]) == 0
    assert [call[1] for call in stage_one.calls] == ["x", "y"]
    assert run(main, [*words, "--weights=x", "--weights=y", "--weights=z"]) == 2
    assert "--weights was given 3 times, and this head takes" in capsys.readouterr().err


def test_parts_that_do_not_fit_a_head_are_refused():
    part = {"key": "k", "n_features": 3, "weights_file": None}
    two = {"parts": [spec_of(), spec_of()]}
    assert read_parts([part, part], two, "6") == (HeadPart("k", 3, None),) * 2
    assert read_parts(None, spec_of(), 6) == ()
    for found, spec, told in (
        (None, two, "parts is null, expected a list"),
        ([part], two, "it has 1 parts, and its spec 2"),
        ([part, part], spec_of(), "it has 2 parts, and its spec 0"),
        ([part, {**part, "n_features": "3"}], two, "n_features is text, expected a whole number"),
        ([part, {**part, "n_features": 4}], two, r"3 \+ 4 features, not 6"),
        ([{**part, "n_features": 6}, {**part, "n_features": 0}], two, r"6 \+ 0 features"),
    ):
        with pytest.raises(ValueError, match=told):
            read_parts(found, spec, 6)


def test_a_head_of_one_store_takes_one_weights_file(fitted_run, tmp_path, capsys):
    image = tmp_path / "a.png"
    image.write_bytes(b"pixels")
    words = ["predict", str(fitted_run[0] / "heads" / "ovr.safetensors"), str(image)]
    assert run(main, [*words, "--weights=a", "--weights=b"]) == 2
    assert "given 2 times, and this head has one backbone" in capsys.readouterr().err


def test_workers_open_sums_from_another_folder(stores, tmp_path, monkeypatch):
    first, second, both = stores
    monkeypatch.chdir(tmp_path)
    relative = Path("+".join(os.path.relpath(path) for path in (first, second)))
    tasks = []
    monkeypatch.setattr(
        "classify.fit.fit_stores.run_tasks", lambda _, found, **__: tasks.extend(found)
    )
    fit_stores([relative, both], FitOptions())
    absolute = f"{first}+{second}"
    assert [path for path, _ in tasks] == [Path(absolute), both]
    task = DrawTask(absolute, read_header(absolute).key, "ovr", 1.0, (2, 5), 0, 0, "cpu")
    monkeypatch.chdir("/")
    drawn = run_task(task)
    assert len(drawn.accuracies) == 2 and all(drawn.converged)


def test_rows_embedded_again_are_those_of_every_store(stores):
    first, second, both = stores
    features, whole = open_features(f"{first}+{second}"), open_features(both)
    rng = np.random.default_rng(0)
    changed = 8 * rng.normal(size=(90, 9)).astype(np.float32)
    rows_of = {first: np.arange(0, 90, 2), second: None, both: np.arange(0, 90, 6)}
    parts = {first: slice(0, 5), second: slice(5, 9), both: slice(0, 9)}
    for path, columns in parts.items():
        store = open_features(path)
        # Of the second store other rows were embedded again, in its own order.
        wanted = np.arange(0, 90, 3) if path == second else rows_of[path]
        rows = np.sort([store.test.ids.index(f"test:{row}") for row in wanted])
        numbers = [int(store.test.ids[row].split(":")[1]) for row in rows]
        plain = changed[numbers][:, columns]
        others = {EXACTLY: plain, f"of {path.name[:3]}": plain}
        stored = store.test.features[rows]
        write_rechecked(path, Rechecked(store.key, rows, digest_of(stored), plain, others))
    model = OneVsRestLogistic().fit(whole.train.features, whole.train.labels)

    class Fit:
        estimator, predictions, n_scores = model, model.predict(whole.test.features), 3

    expected = numerics(whole, whole.test.features, {"ovr": Fit})
    left = open_features(f"{first}+{second}", in_memory=False)
    for found in (
        numerics(features, features.test.features, {"ovr": Fit}),
        numerics(left, left.test.features, {"ovr": Fit}),
    ):
        assert found["cases"] == [
            case for case in expected["cases"] if not case["features"].startswith("of ")
        ]
    assert expected["cases"][1]["n"] == 15 and expected["cases"][1]["flips"]["ovr"] > 0


def test_images_are_those_of_the_first_store_that_finds_them(stores):
    first, second, _ = stores
    features = open_features(f"{first}+{second}")
    _, why = thumbnails(features, ["test:0"])
    assert "does not say where its images came from" in why
    digits = {"options": {"dataset": "digits"}, "files": {"dataset": {"path": "scikit-learn"}}}
    features.parts[1].header.request.update(digits)
    name = load_dataset("digits", data_dir=Path(".")).test.ids[0]
    found, why = thumbnails(features, [name])
    assert list(found) == [name] and not why


def test_a_sum_that_does_not_pair_ends_a_command_before_the_first_fit(stores, tmp_path, capsys):
    first, _, both = stores
    fewer = write(tmp_path, "fewer", slice(5, 9), rows=60)
    words = ["fit", str(both), f"{first}+{fewer}", f"--reports-dir={tmp_path}/r"]
    assert run(main, words) == 2
    told = capsys.readouterr().err
    assert "do not pair: train row 60 is 'train:60' in the first" in told
    assert not (tmp_path / "r").exists()
