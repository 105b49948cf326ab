"""The command ``export``: where files go, what is refused, what is compared, what stays."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classify.export import head_file
from classify.export.check import LIMIT, SIZES, compare, write_images
from classify.export.head_file import export_head
from classify.saved.heads import SavedHead, save_head
from data.common.errors import UserError
from data.format.programs import read_order

FEATURES = 4


def head_at(folder: Path, precision="fp32", **more) -> Path:
    rng = np.random.default_rng(0)
    coef = rng.standard_normal((3, FEATURES)).astype(np.float32)
    spec = {"precision": precision, "model": {"name": "test_vit", "args": {}, "weights": {}}}
    head = SavedHead("ovr", ("a", "b", "c"), coef, coef[:, 0], spec, "5" * 64, 1.0, **more)
    path = folder / "heads" / "ovr.safetensors"
    path.parent.mkdir(parents=True)
    save_head(path, head)
    return path


class StageOne:
    """A stand-in for the process: features are the first grey levels, programs are texts."""

    def __init__(self):
        self.error, self.precisions, self.stops = 0.0, [], False

    def rows(self, images, precision="fp32"):
        found = np.zeros((len(images), FEATURES), np.float32)
        for row, name in zip(found, images, strict=True):
            levels = np.asarray(Image.open(name)).reshape(-1)[:FEATURES] / 255
            row[: len(levels)] = levels
        return found if precision == "fp32" else found + np.float32(0.5)

    def __call__(self, words):
        options = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
        out = Path(options["out"])
        if words[0] == "images":
            spec = json.loads(Path(options["spec"]).read_text("utf-8"))["spec"]
            self.precisions.append(spec["precision"])
            names = json.loads(Path(options["list"]).read_text("utf-8"))
            np.save(out, self.rows(names, spec["precision"]))
        elif words[0] == "program":
            self.order = read_order(Path(options["order"]))
            if options["to"] == "onnx":
                out.write_text("program")
            else:
                out.mkdir()
                (out / "config.json").write_text("{}")
            if self.stops:
                raise KeyboardInterrupt
        else:
            names = json.loads(Path(options["list"]).read_text("utf-8"))
            head = self.order.head
            scores = self.rows(names) @ head.arrays["coef"].T + head.arrays["intercept"]
            chances = 1 / (1 + np.exp(-scores.astype(np.float64)))
            chances = chances / chances.sum(axis=1, keepdims=True) + self.error
            np.savez(out, probabilities=chances, labels=scores.argmax(axis=1))


@pytest.fixture
def stage_one(monkeypatch):
    stand_in = StageOne()
    monkeypatch.setattr("classify.export.head_file.run_stage_one", stand_in)
    monkeypatch.setattr("classify.predict.run_stage_one", stand_in)
    return stand_in


@pytest.mark.parametrize(
    ("to", "name"),
    [("onnx", "ovr.onnx"), ("torch", "ovr-torch"), ("sklearn", "ovr-sklearn.skops")],
)
def test_without_a_name_it_goes_beside_the_heads_of_the_run(to, name, tmp_path, stage_one, capsys):
    path = export_head(head_at(tmp_path), to)
    assert path == tmp_path / "exports" / name and path.exists()
    assert [one.name for one in path.parent.iterdir()] == [name]
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_what_is_there_is_refused_and_replaced_by_force(to, tmp_path, stage_one):
    head, out = head_at(tmp_path), tmp_path / ("a.onnx" if to == "onnx" else "old")
    export_head(head, to, out)
    mark = out if to == "onnx" else out / "config.json"
    mark.write_text("mine")
    with pytest.raises(UserError, match=f"--out {out} is a .* that is there already.*--force"):
        export_head(head, to, out)
    assert mark.read_text() == "mine"
    export_head(head, to, out, force=True)
    assert mark.read_text() != "mine"
    assert {one.name for one in tmp_path.iterdir()} == {"heads", out.name}


def test_a_folder_is_not_replaced_by_a_file_nor_a_file_by_a_folder(tmp_path, stage_one):
    head = head_at(tmp_path)
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(UserError, match=r"is a folder, and --to onnx writes a file"):
        export_head(head, "onnx", tmp_path / "a.onnx", force=True)
    (tmp_path / "b").write_text("mine")
    with pytest.raises(UserError, match=r"is a file, and --to torch writes a folder"):
        export_head(head, "torch", tmp_path / "b", force=True)
    with pytest.raises(UserError, match=r"ends in \.onnx; give .*c\.onnx"):
        export_head(head, "onnx", tmp_path / "c.pt")


@pytest.mark.parametrize("force", [False, True])
def test_what_answers_otherwise_is_not_kept_and_the_old_one_is(force, tmp_path, stage_one):
    head, out = head_at(tmp_path), tmp_path / "a"
    if force:
        export_head(head, "torch", out)
        (out / "config.json").write_text("old")
    stage_one.error = 2 * LIMIT
    with pytest.raises(UserError, match=r"differs by 0\.0002, and 0\.0001 is allowed"):
        export_head(head, "torch", out, force=force)
    assert {one.name for one in tmp_path.iterdir()} == {"heads", *(["a"] if force else [])}
    assert not force or (out / "config.json").read_text() == "old"


def test_an_interrupted_export_leaves_nothing(tmp_path, stage_one):
    head = head_at(tmp_path)
    stage_one.stops = True
    with pytest.raises(KeyboardInterrupt):
        export_head(head, "torch", tmp_path / "a")
    assert [one.name for one in tmp_path.iterdir()] == ["heads"]


def test_what_is_there_stays_where_the_new_folder_cannot_take_its_place(
    tmp_path, stage_one, monkeypatch
):
    head, out = head_at(tmp_path), tmp_path / "a"
    export_head(head, "torch", out)
    (out / "config.json").write_text("old")
    rename = os.rename

    def stopped(source, target):
        if Path(target) == out and "old" not in str(source):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_head(head, "torch", out, force=True)
    assert (out / "config.json").read_text() == "old"
    assert {one.name for one in tmp_path.iterdir()} == {"heads", "a"}


def test_a_store_in_half_precision_is_compared_in_float32_and_said(tmp_path, stage_one, capsys):
    export_head(head_at(tmp_path, "bf16"), "onnx")
    assert stage_one.precisions == ["fp32", "bf16"]
    said = capsys.readouterr().err
    assert "those of float32 features by" in said and "lower precision: they differ by 0." in said


def test_a_head_of_imported_features_has_no_network(tmp_path, stage_one):
    weights = {"source": "imported", "digest": ""}
    spec = {"precision": "fp32", "model": {"name": "imported", "args": {}, "weights": weights}}
    coef = np.ones((3, FEATURES), np.float32)
    head = SavedHead("ovr", ("a", "b", "c"), coef, coef[:, 0], spec, "5" * 64, 1.0)
    path = tmp_path / "ovr.safetensors"
    save_head(path, head)
    with pytest.raises(UserError, match=r"features that were imported.*--to sklearn"):
        export_head(path, "onnx")
    assert export_head(path, "sklearn").parent == tmp_path


def test_images_of_the_check_have_the_sizes_that_they_are_named_by(tmp_path):
    names = write_images(tmp_path)
    assert [Image.open(name).size[::-1] for name in names] == list(SIZES)


def test_a_label_that_differs_is_refused_but_where_two_classes_are_as_good():
    chances = np.array([[0.6, 0.4], [0.50003, 0.49997]])
    labels = np.array([0, 0])
    assert compare((chances, labels), (chances, np.array([0, 1])), ["a", "b"]) == 0
    with pytest.raises(UserError, match="check image a has another label"):
        compare((chances, labels), (chances, np.array([1, 0])), ["a", "b"])
    with pytest.raises(UserError, match=r"check image b differs by nan"):
        compare((chances, labels), (np.array([[0.6, 0.4], [np.nan, 0]]), labels), ["a", "b"])


def test_forms_of_the_command_are_those_that_are_written():
    from classify.export.command import FORM_NAMES
    from extract.exporting.registry import FORMS

    assert tuple(head_file.FORMS) == FORM_NAMES
    assert {*FORM_NAMES} == {*FORMS, "sklearn"}
