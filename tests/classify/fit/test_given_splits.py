"""A store with a validation split, groups and weights: one run, and every number of it again."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from classify.__main__ import main
from classify.analysis.few_shot import DrawTask, draw_rows, run_task
from classify.fit.training_rows import check_classes, training_rows
from classify.report.run_report import write_report
from classify.saved.reading import load_head
from classify.selection import select_C
from data.common.cli import run
from data.common.errors import UserError
from data.reading import open_features

NAMES = ("ant", "bee", "cat")
FACTORS = {"ant": 1.0, "bee": 2.0, "cat": 0.5}
SIZES = {"train": 300, "validation": 90, "test": 150}


def fit(store, reports, *options):
    code = run(main, ["fit", str(store), "--reports-dir", str(reports), "--jobs", "1", *options])
    assert code == 0
    (folder,) = reports.glob("*/*")
    return folder, json.loads((folder / "results.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_store):
    """One run of everything, and the rows that it was made of."""
    root = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    groups, weights, start = {}, {}, 0
    for split, n in SIZES.items():
        groups[split] = (
            start + np.arange(n) // 5 - (split == "test")
        )  # one is shared with validation
        weights[split] = np.where(rng.random(n) < 0.1, 0.0, rng.uniform(0.3, 3, n))
        start += n // 5
    store = make_store(
        root / "features" / "toys" / "toynet-8px-0.h5", names=NAMES, n=300, validation=90, d=5,
        groups=groups, weights=weights, dataset="toys", model="toynet",
    )  # fmt: skip
    file = root / "weights.csv"
    file.write_text("class,weight\n" + "".join(f"{k},{v}\n" for k, v in FACTORS.items()))
    options = ["--c-grid", "0.001,0.01,0.1,1", "--full-path", "--class-weight", str(file)]
    folder, results = fit(store, root / "reports", *options)
    features = open_features(store)
    rows = {
        split: SimpleNamespace(
            X=np.asarray(getattr(features, split).features, dtype=np.float64),
            y=getattr(features, split).labels, w=weights[split], g=groups[split],
        )
        for split in SIZES
    }  # fmt: skip
    return SimpleNamespace(
        root=root, store=store, file=file, options=options, folder=folder, results=results,
        features=features, **rows,
    )  # fmt: skip


def standardised(X, weights):
    mean = np.average(X, axis=0, weights=weights)
    return mean, np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))


def scikit_learns(X, y, weights, C):
    """The multinomial heads for raw features, of standardised weighted rows."""
    mean, scale = standardised(X, weights)
    model = LogisticRegression(C=C, tol=1e-9, max_iter=5000)
    model.fit((X - mean) / scale, y, weights)
    return lambda rows: model.decision_function((rows - mean) / scale)


def factor(y):
    return np.array([FACTORS[NAMES[k]] for k in y])


def test_the_results_say_what_was_used(made):
    results = made.results
    settings = results["settings"]
    assert settings["validation"] == "given" and settings["validation_fraction"] is None
    assert settings["class_weight"] == FACTORS and settings["weighted"] is True
    assert (results["n_train"], results["n_validation"], results["n_test"]) == (
        300,
        90 - np.sum(made.validation.w == 0),
        150,
    )
    assert results["splits"]["groups"] == {"train": 60, "validation": 18, "test": 30}
    (shared,) = results["splits"]["shared_groups"]
    assert shared == {"a": "validation", "b": "test", "n": 1, "n_rows": 5, "first": ["g77"]}
    (told,) = [text for text in results["warnings"] if "group is in" in text]
    assert told.startswith(
        "1 group is in the validation and in the test split, with 5 test images: g77."
    )
    assert results["interval_method"] == "bootstrap of groups"
    assert results["comparison_method"].startswith("tests by signs of groups")
    assert all(entry["n_groups"] == 30 for entry in results["comparisons"])


def test_every_field_of_splits_and_groups_is_documented(made):
    text = (Path(__file__).parents[3] / "docs" / "reference" / "results.md").read_text("utf-8")
    named = set(re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE))
    found = {f"splits.{key}" for key in made.results["splits"]}
    found |= {f"splits.shared_groups[].{key}" for key in made.results["splits"]["shared_groups"][0]}
    found |= {f"comparisons[].{key}" for key in made.results["comparisons"][0]}
    found |= {f"settings.{key}" for key in made.results["settings"]}
    found |= {key for key in made.results if key not in ("splits", "comparisons", "settings")}
    known = {re.sub(r"\[\]$", "", name) for name in named} | {name.split("[]")[0] for name in named}
    known |= {name.split(".")[0] for name in named} | {re.sub(r"(\[\])+$", "", n) for n in named}
    assert found <= known


def test_c_is_chosen_on_the_given_rows_of_the_others(made):
    X, y = (np.concatenate([getattr(s, k) for s in (made.train, made.validation)]) for k in "Xy")
    w = np.concatenate([made.train.w, made.validation.w])
    for strategy, entry in made.results["strategies"].items():
        found = select_C(
            strategy, X.astype(np.float32), y, grid=[0.001, 0.01, 0.1, 1], full_path=True,
            held=np.arange(300, 390), sample_weight=w,
            class_weight={k: FACTORS[name] for k, name in enumerate(NAMES)},
        )  # fmt: skip
        assert entry["C"] == found.C
        assert [step["accuracy"] for step in entry["validation"]] == pytest.approx(
            [step["accuracy"] for step in found.path]
        )
    path = made.results["strategies"]["multinomial"]["validation"]
    held = made.validation
    for step in path:
        scores = scikit_learns(
            made.train.X, made.train.y, made.train.w * factor(made.train.y), step["C"]
        )
        answers = scores(held.X).argmax(axis=1)
        expected = np.average(answers == held.y, weights=held.w * factor(held.y))
        assert step["accuracy"] == pytest.approx(expected, abs=0.02)


def test_the_refit_takes_both_splits_with_their_weights(made):
    both = [np.concatenate([getattr(s, k) for s in (made.train, made.validation)]) for k in "Xyw"]
    X, y, w = both
    entry = made.results["strategies"]["multinomial"]
    scores = scikit_learns(X, y, w * factor(y), entry["C"])
    head = load_head(made.folder / "heads" / "multinomial.safetensors")
    ours = made.test.X @ head.coef.T.astype(np.float64) + head.intercept
    np.testing.assert_allclose(ours, scores(made.test.X), atol=3e-3)
    assert entry["certificate"]["relative_gap"] <= 1e-6


def test_metrics_are_weighted_as_scikit_learns(made):
    stored = np.load(made.folder / "predictions.npz")
    w, y = made.test.w, made.test.y
    assert np.array_equal(stored["weights"], w) and np.array_equal(stored["groups"], made.test.g)
    for name, entry in made.results["strategies"].items():
        answers, test = stored[f"{name}_predictions"], entry["test"]
        assert test["accuracy"] == pytest.approx(accuracy_score(y, answers, sample_weight=w))
        assert test["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(y, answers, sample_weight=w)
        )
        chances = stored[f"{name}_probabilities"].astype(np.float64)
        chances /= chances.sum(axis=1, keepdims=True)
        assert test["log_loss"] == pytest.approx(log_loss(y, chances, sample_weight=w), rel=1e-5)
        assert np.sum(test["confusion_matrix"]) == 150
        low, high = test["accuracy_ci95"]
        assert low < test["accuracy"] < high
    for entry in made.results["comparisons"]:
        right = [np.average(stored[f"{entry[k]}_predictions"] == y, weights=w) for k in "ab"]
        assert entry["accuracy_difference"] == pytest.approx(right[0] - right[1])


def test_the_temperature_suits_the_given_rows_by_their_own_weights(made):
    """Class weights say what errors cost; they have no part in what is to be believed."""
    entry = made.results["strategies"]["multinomial"]
    w, held = made.train.w * factor(made.train.y), made.validation
    logits = scikit_learns(made.train.X, made.train.y, w, entry["C"])(held.X)

    def loss(log_temperature):
        chances = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -np.average(chances[np.arange(len(held.y)), held.y], weights=held.w)

    expected = np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x)
    assert entry["calibration"]["temperature"] == pytest.approx(expected, rel=0.02)
    assert entry["calibration"]["n_validation"] == made.results["n_validation"]


def test_few_shot_draws_are_of_the_training_split(made, monkeypatch):
    curve = made.results["few_shot"]["curves"]["multinomial"]
    assert curve[-1]["n_train"] == 390 and curve[-1]["accuracies"] == [
        pytest.approx(made.results["strategies"]["multinomial"]["test"]["accuracy"])
    ]
    monkeypatch.setattr("classify.analysis.few_shot.TOL", 1e-9)
    pool = np.flatnonzero(made.train.w)
    y, factors = made.train.y[pool], {k: FACTORS[name] for k, name in enumerate(NAMES)}
    for draw in range(2):
        (rows,) = draw_rows(y, [20], draw, 0, made.train.g[pool])
        rows = pool[rows]
        w = made.train.w[rows] * factor(made.train.y[rows])
        scores = scikit_learns(made.train.X[rows], made.train.y[rows], w, 0.1)
        right = scores(made.test.X).argmax(axis=1) == made.test.y
        task = DrawTask(
            str(made.store), made.features.key, "multinomial", 0.1, (20,), draw, 0, "cpu",
            class_weight=factors,
        )  # fmt: skip
        expected = np.average(right, weights=made.test.w)
        assert run_task(task).accuracies == [pytest.approx(expected, abs=1e-9)]


def test_the_pages_say_it(made):
    write_report(made.folder)
    for name in ("report.html", "report.md"):
        page = (made.folder / name).read_text("utf-8").replace("\\", "")
        n = made.results["n_validation"]
        for words in (
            f"300 training images, {n} validation images, 150 test images",
            "The images come in groups: 60 in the training split, 18 in the validation split and",
            "Intervals and tests resample groups, not images.",
            "The images have weights: fits, the choice of C, the temperature, every metric",
            "Class weights (ant 1, bee 2 and cat 0.5) shape the fits and the choice of C.",
            "95 % intervals that resample the 30 groups of test images",
            "Tests that change the signs of whole groups at random (Canay, Romano and Shaikh 2017)",
            f"On the {n} images of the data set's own validation split",
            "The final fit uses training and validation images together",
            "whole groups are drawn one after the other",
            "1 group is in the validation and in the test split",
        ):
            assert words in page.replace("&#39;", "'"), (name, words)
        assert "McNemar" not in page and "Wilson" not in page and "nine tenths" not in page


def test_the_terminal_says_it(made, capsys):
    from classify.__main__ import show_run

    show_run(made.folder, made.results)
    told = capsys.readouterr().err
    n = made.results["n_validation"]
    assert (
        f"C chosen on the {n} images of the validation split; groups: 60 train, 18 validation, "
        "30 test; weighted by the images' weights; class weights: from the file"
    ) in told


def test_out_of_core_it_is_the_same(made, monkeypatch, tmp_path):
    monkeypatch.setattr("classify.fit.memory_budget.in_memory_bytes", lambda header: 10**12)
    _, outside = fit(made.store, tmp_path / "reports", *made.options, "--no-few-shot")
    assert outside["settings"]["out_of_core"] is True
    for name, entry in made.results["strategies"].items():
        other = outside["strategies"][name]
        assert other["C"] == entry["C"]
        assert other["certificate"]["objective"] == pytest.approx(
            entry["certificate"]["objective"], rel=3e-6
        )
        assert other["test"]["accuracy"] == pytest.approx(entry["test"]["accuracy"], abs=0.01)
        assert other["calibration"]["temperature"] == pytest.approx(
            entry["calibration"]["temperature"], rel=0.02
        )


def test_groups_and_no_validation_split(make_store, tmp_path):
    rng = np.random.default_rng(1)
    groups = {"train": rng.permutation(240) // 6, "test": 50 + np.arange(120) // 6}
    store = make_store(tmp_path / "features" / "toys" / "t.h5", names=NAMES, groups=groups)
    _, results = fit(store, tmp_path / "reports", "--c-grid", "0.01,1", "--no-few-shot")
    counts = results["splits"]["groups"]
    assert counts["train"] == 40 and counts["test"] == 20 and 3 <= counts["held_out"] <= 6
    assert results["splits"]["shared_groups"] == []
    assert results["settings"]["validation"] == 0.1
    assert not [text for text in results["warnings"] if "group" in text]
    page = (tmp_path / "reports").glob("*/*/report.md")
    text = next(page).read_text("utf-8")
    assert f"({counts['held_out']} of them held out to choose C and the temperature)" in text
    assert "No group is in two splits." in text
    assert "On a stratified tenth of the training images, by whole groups, the same" in text
    fit(store, tmp_path / "given", "--c", "0.1", "--no-few-shot")
    text = next((tmp_path / "given").glob("*/*/report.md")).read_text("utf-8")
    assert f"({counts['held_out']} of them held out to choose the temperature)" in text


def split(labels, groups=None, weights=None):
    labels = np.asarray(labels)
    return SimpleNamespace(
        features=np.zeros((len(labels), 2), np.float32), labels=labels, groups=groups,
        weights=None if weights is None else np.asarray(weights, dtype=np.float64),
    )  # fmt: skip


class Rows(SimpleNamespace):
    def __len__(self):
        return len(self.labels)


def store_of(**splits):
    splits = {name: found and Rows(**vars(found)) for name, found in splits.items()}
    return SimpleNamespace(path="s.h5", class_names=NAMES, **{"validation": None, **splits})


@pytest.mark.parametrize(
    "splits, words",
    [
        (
            {"train": split([0, 1, 2], weights=[1, 1, 0])},
            "every training row of cat has the weight 0",
        ),
        ({"test": split([0, 1], weights=[0, 0])}, "every test row has the weight 0"),
        ({"validation": split([0, 1], weights=[0, 0])}, "every validation row has the weight 0"),
        (
            {"train": split([0, 1]), "validation": split([0, 2, 2])},
            "'cat' has 2 validation rows and no tr",
        ),
        ({"validation": split([1, 1])}, "the validation rows of s.h5 hold 1 class of 3 (bee)"),
        ({"validation": split([1, 2], weights=[1, 0])}, "hold 1 class of 3 (bee)"),
    ],
)
def test_what_leaves_nothing_to_choose_or_judge_is_refused(splits, words):
    usual = {"train": split([0, 1, 2]), "test": split([0, 1, 2])}
    with pytest.raises(UserError) as refused:
        check_classes(store_of(**{**usual, **splits}))
    assert words in str(refused.value)


def test_splits_of_which_one_has_groups_or_weights():
    features = store_of(
        train=split([0, 1], groups=np.array([3, 4])), validation=split([1, 1, 0], weights=[1, 2, 3])
    )
    found = training_rows(features)
    assert found.groups.tolist() == [3, 4, 5, 6, 7]  # rows without a group are groups of their own
    assert found.weights.tolist() == [1, 1, 1, 2, 3]
    assert found.held.tolist() == [2, 3, 4] and found.X.shape == (5, 2)
    assert training_rows(store_of(train=split([0, 1]))).held is None
