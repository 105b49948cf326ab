"""Heads that are not linear, from the store to the report and to answers of their files."""

import json

import numpy as np
import pytest

from classify.__main__ import main
from classify.heads.mlp import head as mlp
from classify.heads.trees import heads as trees
from classify.saved.models import load_model
from data import open_features
from data.common.cli import run


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, make_store):
    pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("skops")
    store = make_store(root / "f" / "toys" / "toynet-8px-0.h5", n=120, dataset="toys")
    heads = ["--head=forest", "--head=boosting-ovo", "--head=mlp"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlp, "HIDDEN", (16, 8))
        patch.setattr(trees, "RATES", (0.3,))
        patch.setattr(trees, "N_TREES", (10, 10))
        patch.setattr(trees, "MAX_ITER", (10, 10))
        command = ["fit", str(store), "--reports-dir", str(root / "r"), "--jobs=1", *heads]
        assert run(main, [*command, "--no-few-shot"]) == 0
    (folder,) = (root / "r").glob("*/*")
    return folder, store, json.loads((folder / "results.json").read_text("utf-8"))


@pytest.mark.parametrize("name", ["forest", "boosting-ovo", "mlp"])
def test_files_answer_as_the_run_did(fitted, name):
    folder, store, results = fitted
    saved = results["strategies"][name]["saved"]
    path = folder / saved["file"]
    assert saved == {"file": f"heads/{name}.skops", "linear": False, "bytes": path.stat().st_size}
    head, X = load_model(path), open_features(store).test.features[:]
    with np.load(folder / "predictions.npz") as stored:
        assert (head.predict(X) == stored[f"{name}_predictions"]).all()
        chances = stored[f"{name}_probabilities"]
    assert head.temperature == results["strategies"][name]["calibration"]["temperature"]
    plain = np.exp(head.answers(X).log_probabilities)
    np.testing.assert_allclose(plain, chances, atol=1e-5)
    assert head.setting == results["strategies"][name]["setting"]
    assert results["strategies"][name]["test"]["accuracy"] > 0.6


def test_the_report_shows_the_course_of_a_training(fitted):
    folder, _, results = fitted
    curves = results["strategies"]["mlp"]["notes"]["curves"]
    figure = (folder / "figures" / "training.svg").read_text("utf-8")
    epochs = results["strategies"]["mlp"]["setting"]["epochs"]
    assert f"the best epoch: MLP {epochs}" in figure
    assert curves["validation_loss"][epochs - 1] == min(curves["validation_loss"])
    for page in ("report.html", "report.md"):
        text = (folder / page).read_text("utf-8")
        assert text.count("How the training went") == 1


def test_predict_says_what_it_is_and_how_large(fitted, tmp_path, capsys):
    folder, store, _ = fitted
    rows = tmp_path / "new.npy"
    np.save(rows, open_features(store).test.features[:5])
    path = folder / "heads" / "forest.skops"
    assert run(main, ["predict", str(path), str(rows), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "random forest head on" in err and "not linear" in err and "large" in err
    with np.load(folder / "predictions.npz") as stored:
        expected = stored["class_names"][stored["forest_predictions"][:5]].tolist()
    assert [answer["label"] for answer in json.loads(out)] == expected


def test_a_file_that_is_no_head_is_one_message(fitted, tmp_path, capsys):
    rows = tmp_path / "new.npy"
    np.save(rows, np.zeros((2, 6), np.float32))
    bad = tmp_path / "head.skops"
    bad.write_bytes(b"PK")
    assert run(main, ["predict", str(bad), str(rows)]) == 2
    assert "damaged or something else" in capsys.readouterr().err
