"""Everything after stage one works on features that were imported, and says what it cannot do."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import data.__main__
import extract.__main__
from classify.__main__ import main
from classify.feature_files import read_rows
from classify.report.run_report import extract_command
from classify.results.names import backbone_name
from classify.saved.reading import load_head
from data.common.cli import run
from data.common.errors import UserError
from data.images.lookup import find_pictures

N, M, D = 60, 30, 5
NAMES = np.array(["ant", "bee", "cow"])


def ids_of(rows):
    return [f"{NAMES[r % 3]}/{r}.png" for r in rows]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A store of imported features, and a run on it."""
    root = tmp_path_factory.mktemp("imported")
    rng = np.random.default_rng(0)
    y = np.arange(N + M) % 3
    X = (rng.normal(size=(3, D))[y] * 2 + rng.normal(size=(N + M, D))).astype(np.float32)
    labels = NAMES[y].astype(object)
    labels[[N - 1, N - 2]] = None
    np.save(root / "x.npy", X)
    split = ["train"] * N + ["test"] * M
    table = {"label": labels, "split": split, "id": ids_of(range(N + M))}
    pd.DataFrame(table).to_csv(root / "t.csv", index=False)
    words = ["import", str(root / "x.npy"), str(root / "t.csv"), "--name=zoo", "--model=clip"]
    assert run(data.__main__.main, [*words, f"--features-dir={root}/features"]) == 0
    [store] = (root / "features/zoo").glob("clip-*.h5")
    words = ["fit", str(store), "--c=1", "--no-few-shot", f"--reports-dir={root}/reports"]
    assert run(main, words) == 0
    [folder] = (root / "reports").glob("*/*/")
    return root, store, folder, X


def predicted(capsys, *words):
    capsys.readouterr()
    code = run(main, ["predict", *map(str, words), "--csv"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return list(csv.DictReader(io.StringIO(out))), err


@pytest.mark.parametrize("strategy", ["multinomial", "ovr", "ovo"])
def test_answers_are_those_of_the_run(imported, capsys, tmp_path, strategy):
    _, _, folder, X = imported
    np.save(tmp_path / "new.npy", X[N:])
    head = folder / "heads" / f"{strategy}.safetensors"
    answers, err = predicted(capsys, head, tmp_path / "new.npy")
    wanted = NAMES[load_head(head).predict(X[N:])]
    assert [answer["label"] for answer in answers] == wanted.tolist()
    results = json.loads((folder / "results.json").read_text())
    right = np.mean(wanted == NAMES[np.arange(N, N + M) % 3])
    assert results["strategies"][strategy]["test"]["accuracy"] == pytest.approx(right)
    assert [answer["image"] for answer in answers] == [f"new.npy:{row}" for row in range(M)]
    assert "clip, imported" in err


def test_ids_and_several_files(imported, capsys, tmp_path):
    _, _, folder, X = imported
    ids = np.array([f"row {i}" for i in range(4)])
    np.savez(tmp_path / "a.npz", X=X[:4], ids=ids)
    pd.DataFrame({"embedding": list(X[4:6])}).to_parquet(tmp_path / "b.parquet")
    head = folder / "heads" / "ovr.safetensors"
    answers, _ = predicted(capsys, head, tmp_path / "a.npz", tmp_path / "b.parquet")
    names = [*ids, "b.parquet:0", "b.parquet:1"]
    assert [answer["image"] for answer in answers] == names
    wanted = NAMES[load_head(head).predict(X[:6])]
    assert [answer["label"] for answer in answers] == wanted.tolist()


def test_a_store_gives_its_rows_without_labels(imported, capsys):
    _, store, folder, X = imported
    answers, err = predicted(capsys, folder / "heads" / "ovr.safetensors", store)
    assert [answer["image"] for answer in answers] == ids_of([N - 2, N - 1])
    assert "the 2 unlabelled rows" in err
    names, rows = read_rows([str(store)], D)
    np.testing.assert_array_equal(rows, X[[N - 2, N - 1]])
    assert names == ids_of([N - 2, N - 1])


def test_an_image_is_refused_in_one_message(imported, capsys, tmp_path):
    _, _, folder, _ = imported
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    words = ["predict", str(folder / "heads/ovr.safetensors"), str(tmp_path / "a.png")]
    assert run(main, words) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().split("\n")) == 1
    assert "no model is known that makes such features of" in err


def test_rows_of_another_width(imported, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, D + 1)))
    with pytest.raises(UserError, match=f"features {D + 1} wide, and the head takes {D}"):
        read_rows([str(tmp_path / "a.npy")], D)


def test_verify_compares_checksums_and_says_that_there_is_no_model(imported, capsys):
    _, store, _, _ = imported
    for more in ([], ["--rows", "4"]):
        assert run(extract.__main__.main, ["verify", str(store), *more]) == 0
        out, err = capsys.readouterr()
        assert out.strip() == str(store)
        assert "checksums are right" in err and "there is no model" in err
        assert "imported from x.npy" in err and "imported from t.csv" in err


def test_why_does_not_compare_with_imported_features(imported, capsys, tmp_path):
    root, _, _, _ = imported
    (tmp_path / "zoo").mkdir()
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "zoo" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "zoo" / split / name / "0.png")
    words = ["why", f"--dataset={tmp_path}/zoo", f"--features-dir={root}/features"]
    assert run(extract.__main__.main, words) == 0
    assert "no store for this dataset" in capsys.readouterr().err


def test_the_report_names_the_features_and_the_command(imported):
    _, _, folder, _ = imported
    results = json.loads((folder / "results.json").read_text())
    spec = results["store"]["spec"]
    assert backbone_name(spec) == "clip, imported"
    unnamed = {**spec, "model": {**spec["model"], "name": "imported"}}
    assert backbone_name(unnamed) == "imported features"
    wanted = "python -m data import x.npy t.csv --name=zoo --model=clip"
    assert extract_command(results["store"]) == wanted
    page = (folder / "report.md").read_text()
    assert wanted in page
    assert "the features were imported from x.npy, without images" in page
    assert results["images"]["thumbnails"] == {}


def test_the_command_of_a_report_makes_the_same_store(imported, tmp_path, monkeypatch, capsys):
    root, store, folder, _ = imported
    results = json.loads((folder / "results.json").read_text())
    words = extract_command(results["store"]).split()[4:]
    monkeypatch.chdir(root)
    assert run(data.__main__.main, ["import", *words, f"--features-dir={tmp_path}"]) == 0
    assert Path(capsys.readouterr().out.strip()).name == store.name


def test_images_are_found_where_the_user_says(imported, tmp_path):
    _, _, folder, _ = imported
    request = json.loads((folder / "results.json").read_text())["store"]["request"]
    ids = ids_of([N, N + 1])
    with pytest.raises(UserError, match="imported from x"):
        find_pictures(request, ids)
    for number, name in enumerate(ids):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name)
    found = find_pictures(request, ids, tmp_path)
    assert [int(picture[0, 0, 0]) for picture in found] == [0, 1]
    with pytest.raises(UserError, match="there is no image"):
        find_pictures(request, [*ids, "cow/99.png"], tmp_path)


def test_two_kinds_of_features_of_the_same_rows_are_compared(imported, tmp_path, capsys):
    root, _, _, X = imported
    np.save(tmp_path / "y.npy", X * [1, 1, 0, 0, 0])
    (tmp_path / "y.npy").rename(tmp_path / "other.npy")
    words = ["import", str(tmp_path / "other.npy"), str(root / "t.csv"), "--name=zoo"]
    assert run(data.__main__.main, [*words, f"--features-dir={tmp_path}/f"]) == 0
    store = capsys.readouterr().out.strip()
    words = ["fit", store, "--c=1", "--no-few-shot", f"--reports-dir={root}/reports"]
    assert run(main, words) == 0
    capsys.readouterr()
    assert run(main, ["compare", f"--reports-dir={root}/reports"]) == 0
    err = capsys.readouterr().err
    assert "clip, imported" in err and "imported features" in err
    assert "no other run answered" not in err.lower()
