import csv
import html
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classify import predict as module
from classify.__main__ import main
from classify.codings.decisions import temper
from classify.predict import find_images
from classify.report import answers_page
from classify.saved.heads import SavedHead, save_head
from classify.saved.reading import load_head
from data.common.cli import run
from data.common.errors import UserError
from data.images.decode import SUFFIXES
from data.reading import open_features


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png", "-dash.png")]
    for path in paths:
        path.write_bytes(b"pixels")
    return [str(path) for path in paths]


@pytest.fixture
def stage_one(monkeypatch, fitted_run):
    """Stands in for the other process: hands out the first test rows, remembers what it got."""
    from data import open_features

    X = open_features(fitted_run[1]).test.features
    calls = []

    class Done:
        returncode = 0

    def fake(command, **kwargs):
        options = dict(part[2:].split("=", 1) for part in command if part.startswith("--"))
        with open(options["list"], encoding="utf-8") as stream:
            names = json.load(stream)
        with open(options["spec"], encoding="utf-8") as stream:
            calls.append((command, json.load(stream), names))
        if Done.returncode == 0:
            np.save(options["out"], np.asarray(X[: len(names), : fake.width]))
        return Done

    fake.width, fake.calls, fake.done = None, calls, Done
    monkeypatch.setattr(module.subprocess, "run", fake)
    return fake


@pytest.mark.parametrize("strategy", ["multinomial", "ovr", "ovo"])
def test_answers_are_those_of_the_run(fitted_run, images, stage_one, capsys, strategy):
    folder, _ = fitted_run
    head = folder / "heads" / f"{strategy}.safetensors"
    assert run(main, ["predict", str(head), *images, "--json", "--top", "2"]) == 0
    out, err = capsys.readouterr()
    answers = json.loads(out)
    with np.load(folder / "predictions.npz") as stored:
        names = stored["class_names"]
        labels = names[stored[f"{strategy}_predictions"][:3]].tolist()
        temperature = load_head(head).temperature
        probabilities = temper(stored[f"{strategy}_probabilities"][:3], temperature)
    assert [answer["image"] for answer in answers] == images
    assert [answer["label"] for answer in answers] == labels
    for answer, row in zip(answers, probabilities, strict=True):
        assert [item["class"] for item in answer["top"]] == names[np.argsort(-row)[:2]].tolist()
        assert [item["probability"] for item in answer["top"]] == pytest.approx(
            sorted(row, reverse=True)[:2], abs=1e-5
        )
    assert "toynet" not in out
    assert "3 classes" in err


def test_the_backbone_is_called_once_with_the_heads_spec(fitted_run, images, stage_one, capsys):
    folder, _ = fitted_run
    head = folder / "heads" / "ovo.safetensors"
    assert run(main, ["predict", "--device", "cpu", str(head), *images]) == 0
    ((command, content, names),) = stage_one.calls
    assert command[:4] == [sys.executable, "-m", "extract", "images"]
    assert "--device=cpu" in command
    assert content == {"spec": load_head(head).spec, "weights_file": None}
    assert names == images
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["image", "label"]
    assert len(lines) == 4
    assert lines[1].startswith(images[0])
    assert "%" in lines[1]


def test_folders_and_lists(fitted_run, tmp_path, stage_one, monkeypatch, capsys):
    folder = tmp_path / "photos"
    for name in ("b.JPG", "a/c.png", "a/notes.txt", ".hidden.png", ".cache/d.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (tmp_path / "my photo.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("my photo.png\r\n\nphotos/a\n"))
    head = str(fitted_run[0] / "heads" / "ovr.safetensors")
    assert run(main, ["predict", head, "photos", "-", "--csv"]) == 0
    expected = ["photos/b.JPG", "photos/a/c.png", "my photo.png"]
    assert stage_one.calls[0][2] == expected
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["image"] for row in rows] == expected
    assert (
        "not read in photos: 1 .txt file (a/notes.txt); 1 hidden file (.hidden.png); "
        "1 hidden folder (.cache)"
    ) in err
    for row in rows:
        chances = [float(row[f"probability_{i}"]) for i in (1, 2, 3)]
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) == pytest.approx(1)
        assert {row[f"class_{i}"] for i in (1, 2, 3)} == {"ant", "bee", "cat"}


def test_folders_take_every_suffix_that_data_sets_take(tmp_path):
    for index, suffix in enumerate(SUFFIXES):
        (tmp_path / f"{index:02}{suffix}").touch()
    assert len(find_images([str(tmp_path)], io.StringIO())) == len(SUFFIXES)


@pytest.mark.parametrize(
    ("listed", "told"), [("\n \n", "standard input is empty"), ("none.png\n", "none.png: it does")]
)
def test_a_bad_list(fitted_run, monkeypatch, capsys, listed, told):
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed))
    head = str(fitted_run[0] / "heads" / "ovr.safetensors")
    assert run(main, ["predict", head, "-"]) == 2
    assert told in capsys.readouterr().err


def with_weights(tmp_path, fitted_run, weights_file):
    head = load_head(fitted_run[0] / "heads" / "ovr.safetensors")
    spec = json.loads(json.dumps(head.spec))
    spec["model"]["weights"] = {"source": "file", "digest": "ab" * 32}
    path = tmp_path / "head.safetensors"
    save_head(path, SavedHead(**{**vars(head), "spec": spec, "weights_file": weights_file}))
    return path


def test_weights_that_came_from_a_file(tmp_path, fitted_run, images, stage_one, capsys):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"")
    head = with_weights(tmp_path, fitted_run, str(weights))
    assert run(main, ["predict", str(head), images[0]]) == 0
    assert stage_one.calls[-1][1]["weights_file"] == str(weights)
    assert run(main, ["predict", str(head), images[0], "--weights", "other.safetensors"]) == 0
    assert stage_one.calls[-1][1]["weights_file"] == "other.safetensors"
    weights.unlink()
    capsys.readouterr()
    assert run(main, ["predict", str(head), images[0]]) == 2
    err = capsys.readouterr().err
    assert "--weights FILE.safetensors" in err
    assert str(weights) in err


def test_random_weights_are_said(tmp_path, fitted_run, images, stage_one, capsys):
    head = load_head(fitted_run[0] / "heads" / "ovr.safetensors")
    spec = json.loads(json.dumps(head.spec))
    spec["model"]["weights"]["source"] = "random"
    save_head(tmp_path / "h.safetensors", SavedHead(**{**vars(head), "spec": spec}))
    assert run(main, ["predict", str(tmp_path / "h.safetensors"), images[0]]) == 0
    assert "random" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "expected"), [(2, 2), (130, 130)])
def test_what_stage_one_says_is_passed_on(fitted_run, images, stage_one, capsys, code, expected):
    stage_one.done.returncode = code
    head = fitted_run[0] / "heads" / "ovr.safetensors"
    try:
        got = run(main, ["predict", str(head), images[0]])
    except SystemExit as stop:
        got = stop.code
    assert got == expected
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    if code == 2:
        assert err == ""  # stage one has said it all


def test_a_crash_of_stage_one_is_a_bug(fitted_run, images, stage_one):
    stage_one.done.returncode = 1
    with pytest.raises(RuntimeError, match="ended with code 1"):
        main(["predict", str(fitted_run[0] / "heads" / "ovr.safetensors"), images[0]])


def test_features_that_do_not_fit(fitted_run, images, stage_one):
    stage_one.width = 4
    head = load_head(fitted_run[0] / "heads" / "ovr.safetensors")
    with pytest.raises(UserError, match="belongs to another backbone"):
        module.embed(head, images)


def test_bad_input(fitted_run, tmp_path, images, capsys):
    head = str(fitted_run[0] / "heads" / "ovr.safetensors")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, told in [
        ([head, str(tmp_path / "none.png")], "none.png: it does not exist"),
        ([head, str(empty)], "holds no image"),
        ([head, images[0], "--json", "--csv"], "--json and --csv"),
        ([str(tmp_path / "none.safetensors"), images[0]], "no head at"),
        ([head], "required: IMAGE"),
        ([head, images[0], "--top", "0"], "--top is '0'"),
    ]:
        assert run(main, ["predict", *arguments]) == 2
        out, err = capsys.readouterr()
        assert told in err
        assert out == ""
        assert len(err.splitlines()) <= 5


def test_top_is_at_most_all_classes(fitted_run):
    head = load_head(fitted_run[0] / "heads" / "ovr.safetensors")
    X = np.zeros((2, head.n_features), dtype=np.float32)
    found = module.answers(head, ["x", "y"], X, top=10)
    assert [len(answer["top"]) for answer in found] == [3, 3]
    assert sum(item["probability"] for item in found[0]["top"]) == pytest.approx(1)
    assert "most probable" in module.show(head, found)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "<script>alert(1)"
    folder.mkdir()
    for i in range(3):
        pixels = np.full((40 + 60 * i, 50, 3), 80 * i, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(3)]


def test_a_page_shows_the_images_with_their_answers(
    fitted_run, pictures, stage_one, tmp_path, capsys
):
    head = str(fitted_run[0] / "heads" / "ovo.safetensors")
    page = tmp_path / "new" / "answers.html"
    assert run(main, ["predict", head, *pictures, "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{page}\n"
    assert "most probable" in err
    text = page.read_text(encoding="utf-8")
    assert text.count('<img src="data:image/') == 3
    assert "<script>" not in text and "&lt;script&gt;alert(1)" in text
    assert run(main, ["predict", head, *pictures, "--json", "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    for answer in json.loads(out):
        assert f"<strong>{answer['label']}</strong>" in text
        for item in answer["top"]:
            assert f"{100 * item['probability']:.1f} %" in text
    assert str(page) in err
    assert run(main, ["predict", head, *pictures, "--csv", "--html", str(page)]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 3


def test_a_page_of_many_images_shows_the_least_sure(
    fitted_run, pictures, stage_one, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(answers_page, "MOST", 2)
    head = str(fitted_run[0] / "heads" / "ovr.safetensors")
    page = tmp_path / "answers.html"
    assert run(main, ["predict", head, *pictures, "--json", "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    assert "2 least sure of 3" in err
    answers = json.loads(out)
    surest = max(answers, key=lambda answer: answer["top"][0]["probability"])["image"]
    text = page.read_text(encoding="utf-8")
    for path in pictures:
        assert (html.escape(path) in text) == (path != surest)


def test_a_page_replaces_no_image(fitted_run, pictures, stage_one, capsys):
    before = Path(pictures[0]).read_bytes()
    head = str(fitted_run[0] / "heads" / "ovr.safetensors")
    assert run(main, ["predict", head, "--html", pictures[0], pictures[1]]) == 2
    assert "answers.html" in capsys.readouterr().err
    assert Path(pictures[0]).read_bytes() == before
    assert not stage_one.calls


def test_heads_of_two_classes_answer_above_a_threshold(
    fitted_run, images, stage_one, tmp_path, capsys
):
    """The probability of the second class decides, and is shown in every form."""
    folder, _ = fitted_run
    head = load_head(folder / "heads" / "multinomial.safetensors")
    two = replace(
        head, class_names=head.class_names[:2], coef=head.coef[1:2] - head.coef[:1],
        intercept=head.intercept[1:2] - head.intercept[:1],
    )  # fmt: skip
    path = tmp_path / "two.safetensors"
    save_head(path, two)
    X = open_features(fitted_run[1]).test.features[: len(images)]
    chances = two.probabilities(X)[:, 1]
    threshold = float(np.sort(chances)[-2:].mean())  # the surest alone is above it
    for given, expected in (
        ([], chances > 0.5),
        ([f"--threshold={threshold}"], chances > threshold),
    ):
        assert run(main, ["predict", str(path), *images, "--json", *given]) == 0
        found = json.loads(capsys.readouterr().out)
        for answer, chance, flagged in zip(found, chances, expected, strict=True):
            assert answer["label"] == two.class_names[int(flagged)]
            assert answer["positive"]["class"] == two.class_names[1]
            assert answer["positive"]["probability"] == pytest.approx(chance, abs=1e-6)
    assert run(main, ["predict", str(path), *images, f"--threshold={threshold}"]) == 0
    out = capsys.readouterr().out
    assert f"probability of {two.class_names[1]}" in out and f"{100 * chances[0]:.1f} %" in out
    assert run(main, ["predict", str(path), *images, "--csv"]) == 0
    [first, *_] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert first["positive"] == two.class_names[1]
    assert float(first["probability_positive"]) == pytest.approx(chances[0], abs=1e-6)
