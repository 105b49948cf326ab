"""``--to torch``: the loader answers like stage two's own head, without Icebox."""

from __future__ import annotations

import json
import re
import runpy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_programs import backbone, inputs, pictures, program, saved_head, vectors

from classify.heads.mlp.course import Layers
from classify.heads.mlp.head import TrainedMlp
from classify.saved.models import SavedModel
from data.common.errors import UserError
from extract.exporting import torch_folder

NETWORK = "test_efficientnet"


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write the folder of a program, without the program of torch.export."""
    monkeypatch.setattr(torch_folder, "write_exported", lambda program, path: None)

    def write(head, *backbones):
        folder = tmp_path / "folder"
        torch_folder.write(program(head, *backbones), folder)
        return folder

    return write


@pytest.fixture(scope="module")
def small():
    one = backbone(NETWORK)
    return one, torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def load(folder):
    return runpy.run_path(str(folder / "load.py"))["load"](str(folder))


def config_of(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def lines_of_code(text):
    """Count lines that are neither blank nor of the docstring."""
    return sum(bool(line.strip()) for line in text.split('"""')[2].splitlines())


@pytest.mark.parametrize(
    "coding, k, more",
    [
        ("multinomial", 4, {}),
        ("multinomial", 2, {"normalize": "l2"}),
        ("ovr", 5, {"temperature": None}),
        ("ovr", 2, {}),
        ("ovo", 10, {"temperature": 0.6}),
        ("ovo", 10, {"temperature": None, "normalize": "l2", "scale": 6.0}),
        ("ovo", 2, {}),
        ("ovo", 64, {"scale": 40.0}),  # from here on stage two solves otherwise
        ("ecoc", 5, {}),
        ("ecoc", 12, {"normalize": "l2"}),
    ],
)
def test_the_loader_gives_the_probabilities_of_the_head(written, small, coding, k, more):
    one, images = small
    rows = vectors(one, images)
    # As large as makes scores of a few units of these vectors, whose sizes are what they are.
    scale = more.pop("scale", 3.0) / np.linalg.norm(rows, axis=1).mean()
    if more.get("normalize"):
        scale = 3.0
    head = saved_head(one.width, coding, k, scale=scale, **more)
    folder = written(head, one)
    model, _, class_names = load(folder)
    with torch.inference_mode():
        found = model(images).numpy()
    expected = head.probabilities(rows)
    assert np.ptp(expected, axis=0).max() > 1e-3  # images are told apart
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert class_names == list(head.class_names)
    assert lines_of_code((folder / "load.py").read_text(encoding="utf-8")) <= 30
    state = load_file(folder / "model.safetensors")
    assert {name.split(".")[0] for name in state} <= {"backbone", "head", "code"}


@pytest.mark.parametrize(
    "model, size, more",
    [
        ("mobilenetv3_small_050", 32, {}),
        ("test_resnet", 40, {"crop_pct": 0.5, "interpolation": "bilinear"}),
        ("test_resnet", 32, {"pool": "max"}),
        ("test_vit", (32, 48), {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}),
        ("test_vit", 32, {"pool": "avg"}),
        ("test_efficientnet", 48, {"model_args": {"pad_type": "same"}}),
        ("deit_tiny_distilled_patch16_224", 32, {}),
    ],
)
def test_timm_builds_the_network_and_prepares_images_as_stage_one_does(
    written, tmp_path, model, size, more
):
    one = backbone(model, size, **more)
    head = saved_head(one.width)
    paths = pictures(tmp_path, (90, 70), (32, 32), (11, 40))
    images = inputs(one, paths)
    loaded, transform, _ = load(written(head, one))
    prepared = torch.stack([transform(open_rgb(path)) for path in paths])
    np.testing.assert_allclose(prepared, images, atol=1e-5)
    with torch.inference_mode():
        found = loaded(prepared).numpy()
    np.testing.assert_allclose(found, head.probabilities(vectors(one, images)), atol=1e-5)


def open_rgb(path):
    from PIL import Image

    return Image.open(path).convert("RGB")


def test_the_loader_has_the_layers_of_a_dense_head(written, small):
    one, images = small
    rows = vectors(one, images)
    draw = np.random.default_rng(0)
    widths = (one.width, 20, 10, 4)
    layers = Layers(
        mean=rows.mean(axis=0),
        scale=rows.std(axis=0) + np.float32(1e-4),
        weights=[draw.normal(size=pair, scale=0.4).astype(np.float32) for pair in pairwise(widths)],
        biases=[draw.normal(size=width).astype(np.float32) for width in widths[1:]],
    )
    names, spec = ("a", "b", "c", "d"), {}
    head = SavedModel("mlp", names, TrainedMlp(layers, {}), spec, "", temperature=1.7)
    folder = written(head, one)
    with torch.inference_mode():
        found = load(folder)[0](images).numpy()
    np.testing.assert_allclose(found, head.probabilities(rows), atol=1e-5)
    assert lines_of_code((folder / "load.py").read_text(encoding="utf-8")) <= 30
    assert "head.4.weight" in load_file(folder / "model.safetensors")
    assert not (folder / "linear.safetensors").exists()


def test_the_loader_runs_where_no_icebox_is(written, tmp_path, small):
    one, _ = small
    head = saved_head(one.width, "ovo", 5)
    folder = written(head, one)
    paths = pictures(tmp_path, (50, 60), (20, 20))
    found = torch_folder.run_loader(folder, paths)
    np.testing.assert_allclose(
        found, head.probabilities(vectors(one, inputs(one, paths))), atol=1e-5
    )


def test_a_loader_that_needs_icebox_or_answers_otherwise_is_found_out(
    written, tmp_path, small, monkeypatch
):
    one, _ = small
    folder = written(saved_head(one.width), one)
    images = pictures(tmp_path, (20, 21))
    answer = np.array([[0.5, 0.5]]), np.zeros(1, np.int64)
    monkeypatch.setattr(torch_folder, "run_exported", lambda path, images: answer)
    with monkeypatch.context() as patched:
        patched.setattr(torch_folder, "run_loader", lambda path, images: answer[0] + [[2e-4, 0]])
        with pytest.raises(
            UserError, match=r"load\.py answers otherwise than program.* by 0\.0002,"
        ):
            torch_folder.answers(folder, images)
    path = folder / "load.py"
    path.write_text("import extract\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match=r"load\.py does not run \(ModuleNotFoundError.*extract"):
        torch_folder.answers(folder, images)


def test_no_text_of_a_head_gets_into_the_loader(written, small):
    one, _ = small
    name = '"""\nraise SystemExit("somebody else")\n"""'
    head = replace(saved_head(one.width), strategy=name, class_names=(name, "b", "c", "d"))
    folder = written(head, one)
    assert "somebody" not in (folder / "load.py").read_text(encoding="utf-8")
    assert load(folder)[2][0] == name


@pytest.mark.parametrize(
    "networks, reason",
    [
        ([("test_vit", {"layer": -1})], "timm's own head does not see features of .*--layer -1"),
        ([("test_vit", {"pool": "token+avg"})], "does not see features of --pool token.avg"),
        ([("pixels", {})], "pixels is not a network of timm"),
        ([("test_vit", {}), ("test_resnet", {})], "features of several networks"),
    ],
)
def test_what_timm_alone_cannot_build_has_no_loader_and_says_why(written, capsys, networks, reason):
    ones = [backbone(model, **more) for model, more in networks]
    folder = written(saved_head(sum(one.width for one in ones)), *ones)
    said = capsys.readouterr().err
    assert not (folder / "load.py").exists()
    config = config_of(folder)
    for text in (said, config["files"]["load.py"]):
        assert re.search(reason, text)
    assert len(said.strip().splitlines()) == 1
    state = load_file(folder / "model.safetensors")
    for number, one in enumerate(ones):
        start = f"backbones.{number}." if len(ones) > 1 else "backbone."
        for key, value in one.module.state_dict().items():
            assert torch.equal(state[start + key], value)


@pytest.mark.parametrize("coding, k", [("multinomial", 4), ("ovr", 4), ("ovr", 2), ("ovo", 4)])
def test_a_linear_layer_gives_the_scores(written, small, coding, k):
    one, images = small
    head = saved_head(one.width, coding, k)
    folder = written(head, one)
    path = folder / "linear.safetensors"
    said = config_of(folder)["files"]["linear.safetensors"]
    if coding == "ovo":
        assert not path.exists() and said.startswith("none: ")
        return
    layer = torch.nn.Linear(one.width, 1 if k == 2 else k)
    layer.load_state_dict(load_file(path))
    rows = vectors(one, images)
    with torch.inference_mode():
        found = layer(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, head.scores(rows), rtol=1e-4, atol=1e-5)


def test_the_configuration_says_what_there_is(written, small):
    one, _ = small
    head = saved_head(one.width, "ovo", 3)
    folder = written(head, one)
    config = config_of(folder)
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1  # nobody who may read one file may not read another
    assert config["strategy"] == "ovo" and config["temperature"] == head.temperature
    (network,) = config["networks"]
    assert network["weights"] == {"source": "random", "digest": one.digest}
    assert network["preprocessing"] == one.preprocessing.to_spec()
    assert config["store_key"] == head.store_key
    assert set(config["versions"]) >= {"icebox", "torch", "timm"}
    assert "uint8" in config["files"]["program.pt2"]
