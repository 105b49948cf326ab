"""``--to timm``: timm opens the folder as a classifier that answers like stage two's own head."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from small_programs import backbone, inputs, pictures, program, saved_head, vectors
from timm.data import create_transform, resolve_model_data_config

from data.common.errors import UserError
from extract.exporting import timm_folder


@pytest.mark.parametrize(
    "model, size, coding, k, more",
    [
        ("mobilenetv3_small_050", 32, "multinomial", 4, {}),
        ("test_resnet", (40, 32), "multinomial", 3, {"crop_pct": 0.6, "interpolation": "bilinear"}),
        ("test_resnet", 32, "multinomial", 4, {"pool": "max"}),
        ("test_efficientnet", 48, "ovr", 2, {"model_args": {"pad_type": "same"}}),
        ("test_vit", (32, 48), "ovo", 2, {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}),
        # Two classifiers, whose mean is the answer.
        ("deit_tiny_distilled_patch16_224", 32, "multinomial", 4, {}),
        ("resnetv2_18", 32, "multinomial", 4, {}),  # its classifier is a convolution
    ],
)
def test_timm_opens_it_as_a_classifier(tmp_path, model, size, coding, k, more):
    one = backbone(model, size, **more)
    head = saved_head(one.width, coding, k, scale=3 / one.width**0.5)
    folder = tmp_path / "folder"
    timm_folder.write(program(head, one), folder)
    paths = pictures(tmp_path, (90, 70), (32, 32), (11, 40))

    opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(opened), is_training=False)
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    with torch.inference_mode():
        found = opened(images).softmax(dim=1).numpy()

    expected = inputs(one, paths)
    np.testing.assert_allclose(images, expected, atol=1e-5)
    rows = vectors(one, expected)
    np.testing.assert_allclose(found, head.probabilities(rows), atol=1e-5)
    answered, labels = timm_folder.answers(folder, paths)
    np.testing.assert_allclose(answered, found, atol=1e-6)
    np.testing.assert_array_equal(labels, head.predict(rows))
    assert opened.num_classes == k
    assert tuple(opened.pretrained_cfg["label_names"]) == head.class_names


def test_the_configuration_is_what_timm_writes(tmp_path):
    one = backbone("test_vit")
    head = saved_head(one.width)
    timm_folder.write(program(head, one), tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == "test_vit" and config["num_classes"] == 4
    assert config["label_names"] == list(head.class_names)
    assert config["label_descriptions"] == {name: name for name in head.class_names}
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert not config["pretrained_cfg"].keys() & {"url", "file", "hf_hub_id", "label_offset"}
    # Another classifier on the same weights, as users of the hub take it.
    other = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True, num_classes=0)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        np.testing.assert_allclose(other.eval()(images), vectors(one, images), atol=1e-5)


@pytest.mark.parametrize(
    "networks, head, reason",
    [
        ([("test_vit", {})], {"coding": "ovr"}, "this ovr head are no softmax of linear scores"),
        ([("test_vit", {})], {"coding": "ecoc"}, "this ecoc head are no softmax of linear scores"),
        ([("test_vit", {})], {"normalize": "l2"}, "are no softmax of linear scores"),
        ([("test_vit", {"layer": -1})], {}, "does not see features of --pool default --layer -1"),
        # With this pooling timm's own classifier sees vectors that are normed after it.
        ([("test_vit", {"pool": "avg"})], {}, r"another network .* the features \(avg\)"),
        ([("pixels", {})], {}, "pixels is not a network of timm"),
        ([("test_vit", {}), ("test_resnet", {})], {}, "the features of several networks"),
        ([("levit_128s", {"size": 224})], {}, r"more than a linear layer \(head\.bn"),
    ],
)
def test_what_no_classifier_of_timm_is_like_is_refused(tmp_path, networks, head, reason):
    ones = [backbone(model, **more) for model, more in networks]
    saved = saved_head(sum(one.width for one in ones), **head)
    with pytest.raises(UserError, match=f"^--to timm: .*{reason}.*; give --to torch or --to onnx"):
        timm_folder.write(program(saved, *ones), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
