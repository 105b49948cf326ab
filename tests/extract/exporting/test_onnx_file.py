"""``--to onnx``: what onnxruntime answers, beside torch on what timm's own transform prepares."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from timm.data import create_transform

from data.common.errors import UserError
from data.format.programs import HeadProgram
from extract.exporting import input_module, onnx_file
from extract.exporting.program import Program
from extract.model.backbone import BackboneRequest, load_backbone
from extract.model.preprocessing import INTERPOLATIONS

LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`
CLASSES = ("kingfisher", "Möwe", "oiseau")
# One pixel, upwards, downwards, one axis alone; one whose height Pillow resizes first; and squares.
SHAPES = ((1, 1), (9, 7), (31, 47), (200, 40), (40, 200), (24, 60), (24, 24), (16, 16), (301, 299))


def program(*requests, n_classes=3) -> Program:
    networks = tuple(load_backbone(BackboneRequest(**request)) for request in requests)
    width = sum(network.width for network in networks)
    rng = np.random.default_rng(0)
    coef = (rng.standard_normal((n_classes, width)) / width**0.5).astype(np.float32)
    intercept = rng.standard_normal(n_classes).astype(np.float32)
    arrays = {"coef": coef, "intercept": intercept}
    head = HeadProgram("multinomial", "multinomial", CLASSES[:n_classes], arrays, temperature=0.5)
    return Program(head, networks, (), "5" * 64, {"icebox": "9.8.7"})


def expected(made: Program, image):
    """Answer one image as timm, torch and NumPy do."""
    vectors = []
    for network in made.networks:
        chosen = network.preprocessing
        transform = create_transform(
            (3, *chosen.size),
            interpolation=chosen.interpolation,
            crop_pct=chosen.crop_pct,
            crop_mode=chosen.crop_mode,
            mean=chosen.mean,
            std=chosen.std,
        )
        with torch.inference_mode():
            batch = transform(Image.fromarray(image))[None]
            if hasattr(network.network, "forward_head") and not network.choices[0].layer:
                found = network.network.forward_head(
                    network.network.forward_features(batch), pre_logits=True
                )
            else:
                found = network.module(batch)
        vectors.append(found.numpy().astype(np.float64)[0])
    arrays = made.head.arrays
    scores = arrays["coef"] @ np.concatenate(vectors) + arrays["intercept"]
    exp = np.exp((scores - scores.max()) / made.head.temperature)
    return exp / exp.sum()


def picture(height, width):
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "head.onnx"
    made = program({"model": "pixels", "image_size": 24, "crop_pct": 0.875})
    onnx_file.write(made, path)
    return made, path


def test_images_of_any_size_are_answered(written):
    made, path = written
    for shape in SHAPES:
        image = picture(*shape)
        probabilities, label = run(path, image[None])
        # Of small squares, a grey level may differ from Pillow's by one.
        limit = 2e-3 if shape[0] == shape[1] <= 24 else 1e-5
        assert np.abs(probabilities[0] - expected(made, image)).max() < limit, shape
        assert probabilities.dtype == np.float32 and label.dtype == np.int64
        assert label[0] == probabilities[0].argmax()


def test_batches_of_any_length_are_answered(written):
    images = np.stack([picture(30, 41), picture(30, 41)[::-1], picture(30, 41)[:, ::-1]])
    whole = run(written[1], images)[0]
    for image, row in zip(images, whole, strict=True):
        assert np.array_equal(run(written[1], image[None])[0][0], row)


def test_the_file_says_what_it_is(written):
    made, path = written
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (images,) = model.graph.input
    names = [one.dim_param or one.dim_value for one in images.type.tensor_type.shape.dim]
    assert (images.name, names) == ("images", ["n", "height", "width", 3])
    assert [one.name for one in model.graph.output] == ["probabilities", "label"]
    found = {one.key: one.value for one in model.metadata_props}
    assert json.loads(found["class_names"]) == list(CLASSES)
    assert json.loads(found["temperature"]) == 0.5
    assert json.loads(found["preprocessing"]) == [made.networks[0].preprocessing.to_spec()]
    assert json.loads(found["model"]) == ["pixels"]
    assert found["strategy"] == "multinomial" and found["store_key"] == "5" * 64
    assert found["icebox_version"] == "9.8.7" and found["input"].startswith("uint8")
    # Nothing of the machine that wrote it.
    assert str(onnx_file.__file__).encode() not in path.read_bytes()
    assert b"site-packages" not in path.read_bytes()


def test_answers_reads_image_files(written, tmp_path):
    names = []
    for number, shape in enumerate([(20, 30), (50, 41)]):
        names.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(picture(*shape)).save(names[-1])
    probabilities, labels = onnx_file.answers(written[1], names)
    assert probabilities.shape == (2, 3) and labels.shape == (2,)
    assert np.array_equal(probabilities[1], run(written[1], picture(50, 41)[None])[0][0])


def test_the_example_of_the_manual_runs(written, tmp_path, monkeypatch, capsys):
    page = Path(onnx_file.__file__).parents[2] / "docs" / "guide" / "export.md"
    code = page.read_text(encoding="utf-8").split("## ONNX")[1].split("```python\n")[1]
    (tmp_path / "birds.onnx").write_bytes(written[1].read_bytes())
    image = picture(50, 41)
    Image.fromarray(image).save(tmp_path / "bird.jpg", format="PNG")
    monkeypatch.chdir(tmp_path)
    exec(code.split("```")[0], {})
    found = expected(written[0], image)
    name, probability = capsys.readouterr().out.split()
    assert name == CLASSES[found.argmax()] and abs(float(probability) - found.max()) < 1e-5


class Spectrum(torch.nn.Module):
    def forward(self, images):
        return torch.linalg.eigvals(images[:, 0]).real.repeat(1, 12)


def test_an_operator_without_an_onnx_form_is_named(tmp_path, monkeypatch, capfd):
    made = program({"model": "pixels", "image_size": 4})
    monkeypatch.setattr(made.networks[0], "module", Spectrum())
    monkeypatch.setattr("extract.exporting.program.InputModule", Resized)
    with pytest.raises(UserError, match=r"(?s)pixels.*operator aten\.\w*eig.*--to torch"):
        onnx_file.write(made, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
    assert len(capfd.readouterr().err.splitlines()) == 1  # ours


class Windows(torch.nn.Module):
    """Attention over five axes, as timm's Hiera and Twins have it."""

    fused_attn = True

    def forward(self, images):
        x = images.unfold(2, 2, 2).transpose(1, 2).contiguous()
        if self.fused_attn:
            found = torch.nn.functional.scaled_dot_product_attention(x, x, x)
        else:
            found = torch.softmax(x @ x.transpose(-1, -2) / x.shape[-1] ** 0.5, dim=-1) @ x
        return found.flatten(1)


def test_attention_over_five_axes_is_written_out(tmp_path, monkeypatch):
    made = program({"model": "pixels", "image_size": 4})
    module = Windows()
    monkeypatch.setattr(made.networks[0], "module", module)
    monkeypatch.setattr("extract.exporting.program.InputModule", Resized)
    onnx_file.write(made, tmp_path / "a.onnx")
    assert module.fused_attn
    images = picture(4, 4)[None] // 64
    vector = module(torch.from_numpy(images).permute(0, 3, 1, 2).float())[0].numpy()
    scores = made.head.arrays["coef"] @ vector + made.head.arrays["intercept"]
    exp = np.exp((scores - scores.max()) / 0.5)
    assert np.abs(run(tmp_path / "a.onnx", images)[0][0] - exp / exp.sum()).max() < 1e-5


class Unfit(torch.nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :7]


def test_a_network_that_cannot_be_traced_is_refused(tmp_path, monkeypatch, capfd):
    made = program({"model": "pixels", "image_size": 4})
    monkeypatch.setattr(made.networks[0], "module", Unfit())
    monkeypatch.setattr("extract.exporting.program.InputModule", Resized)
    with pytest.raises(UserError, match=r"pixels cannot be traced by torch\.export: "):
        onnx_file.write(made, tmp_path / "a.onnx")
    assert len(capfd.readouterr().err.splitlines()) == 1


class Resized(torch.nn.Module):
    """A short stand-in for the input module."""

    def __init__(self, settings):
        super().__init__()
        self.size = settings.size

    def forward(self, images):
        rows, columns = (
            torch.arange(new) * old // new
            for new, old in zip(self.size, images.shape[1:3], strict=True)
        )
        return images.permute(0, 3, 1, 2).float().index_select(2, rows).index_select(3, columns)


def test_an_operator_without_a_kernel_is_named(tmp_path):
    images, label = (
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1]) for name in ("images", "label")
    )
    graph = helper.make_graph(
        [helper.make_node("Acos", ["images"], ["label"])], "", [images], [label]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"(?s)no kernel for the operator Acos.*--to torch"):
        onnx_file.answers(tmp_path / "a.onnx", [])


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(UserError, match=r"onnxscript is not installed; pip install .*\[onnx\]"):
        onnx_file.write(None, tmp_path / "a.onnx")


def test_more_than_one_file_holds_is_refused_at_once(tmp_path):
    made = program({"model": "pixels", "image_size": 4})
    with torch.device("meta"):
        made.networks[0].module.register_buffer("large", torch.empty(600_000_000))
    with pytest.raises(UserError, match=r"2\.4 GB, and one ONNX file holds 2\.1 GB.*--to\s+torch"):
        onnx_file.write(made, tmp_path / "a.onnx")


SMALL = {"weights": "random", "image_size": 64}
NETWORKS = {
    "MobileNet": [{"model": "mobilenetv3_small_050", **SMALL}],
    "ResNet": [{"model": "test_resnet", **SMALL}],
    "ViT": [{"model": "test_vit", "weights": "random"}],
    "EfficientNet": [{"model": "test_efficientnet", **SMALL}],
    "Twins": [{"model": "twins_svt_small", **SMALL}],
    "token": [{"model": "test_vit", "weights": "random", "pool": "token"}],
    "layer": [{"model": "test_resnet", "pool": "avg", "layer": "-2", **SMALL}],
    "two": [{"model": "test_resnet", **SMALL}, {"model": "pixels", "image_size": 16}],
}


@pytest.mark.skipif(not LONG, reason="make faults")
@pytest.mark.parametrize("requests", NETWORKS.values(), ids=NETWORKS)
def test_every_kind_of_network(requests, tmp_path):
    made = program(*requests)
    onnx_file.write(made, tmp_path / "a.onnx")
    for shape in [(97, 143), (200, 70), (301, 299)]:
        image = picture(*shape)
        found = run(tmp_path / "a.onnx", image[None])[0][0]
        assert np.abs(found - expected(made, image)).max() < 1e-5, shape


@pytest.mark.skipif(not LONG, reason="make faults")
@pytest.mark.parametrize("rows_first", [True, False])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_interpolation(interpolation, rows_first, tmp_path, monkeypatch):
    monkeypatch.setattr(input_module, "pillow_shrinks_rows_first", lambda: rows_first)
    made = program({"model": "pixels", "image_size": 24, "interpolation": interpolation})
    onnx_file.write(made, tmp_path / "a.onnx")
    module = input_module.InputModule(made.networks[0].preprocessing)
    for shape in SHAPES:
        image = picture(*shape)
        vector = module(torch.from_numpy(image)[None]).flatten().numpy().astype(np.float64)
        scores = made.head.arrays["coef"] @ vector + made.head.arrays["intercept"]
        exp = np.exp((scores - scores.max()) / 0.5)
        found = run(tmp_path / "a.onnx", image[None])[0][0]
        assert np.abs(found - exp / exp.sum()).max() < 1e-5, shape
