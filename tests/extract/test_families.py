"""Every family of the field: from image files to a fitted head, in this process.

The witness is timm: its configuration and its transform, its ``num_features``, and what its whole
model's ``forward_head(forward_features(x), pre_logits=True)`` gives. `make faults` runs the other
sizes of each family, at their own input size.
"""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from timm.data import create_transform, resolve_data_config

from benchmarks.backbones.check import by_timm, whole_model
from classify.__main__ import main as classify
from data.reading import open_features
from extract.model.backbone import BackboneRequest, describe
from extract.model.outline import without_weights
from extract.options import Options
from extract.run import extract

LONG = os.environ.get("ICEBOX_FAULTS") == "1"
# The smallest architecture of each family, and an input that keeps the test short (None: its own).
FAMILIES = {
    "VGG": ("vgg11", 64),
    "ResNet": ("resnet10t", None),
    "Inception": ("inception_v3", 128),
    "MobileNet": ("mobilenetv3_small_050", None),
    "EfficientNet": ("efficientnet_lite0", None),
    "ConvNeXt": ("convnext_zepto_rms", None),
    "RegNet": ("regnetx_002", None),
    "ViT": ("vit_tiny_patch16_224", None),
    "DeiT distilled": ("deit_tiny_distilled_patch16_224", None),
    "DINOv2": ("vit_small_patch14_dinov2", 98),
    "DINOv3": ("vit_tiny_patch16_dinov3_qkvb", None),
    "CLIP": ("vit_xsmall_patch16_clip_224", None),
    "SigLIP": ("vit_base_patch32_siglip_256", 128),
    "EVA": ("eva02_tiny_patch14_224", None),
    "Swin": ("swin_tiny_patch4_window7_224", 112),
    "MaxViT": ("test_maxvit", None),
    "Hiera": ("hiera_tiny_224", 96),
}
PATTERNS = (
    "vgg*", "resnet*", "inception_*v*", "mobilenet*", "*efficientnet*", "convnext*", "regnet*",
    "vit_*_patch*_???", "deit*", "*dinov2*", "*dinov3*", "*clip*", "*siglip*", "eva*", "swin*",
    "maxvit*", "hiera*",
)  # fmt: skip
MOST_PARAMETERS = 60_000_000
COSINE, DIFFERENCE = 0.99999, 1e-4  # of the largest value


def others():
    """The other architectures of the families."""
    done = {name for name, _ in FAMILIES.values()}
    return sorted({name for pattern in PATTERNS for name in timm.list_models(pattern)} - done)


def n_parameters(name):
    with without_weights():
        model = timm.create_model(name, num_classes=0)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """The page of a fit is tested elsewhere, and takes longer than the fit."""
    monkeypatch.setattr("classify.fit.output.write_report", lambda folder: folder / "report.html")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Files of two classes, larger than any input here, upright and lying, and their pixels."""
    root = tmp_path_factory.mktemp("photos")
    pixels = {}
    rng = np.random.default_rng(0)
    for number, (part, kind) in enumerate(
        (part, kind) for part in ("train", "train", "test") for kind in ("light", "dark")
    ):
        height, width = ((601, 640), (640, 607))[number % 2]
        y, x = np.mgrid[:height, :width]
        waves = np.sin(x / rng.uniform(5, 50) + y / rng.uniform(5, 50))[..., None] * (60, 40, 20)
        noise = rng.integers(-40, 41, (height, width, 3))
        level = {"light": 170, "dark": 80}[kind]
        path = root / part / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        levels = np.clip(level + waves + noise, 0, 255).astype(np.uint8)
        Image.fromarray(levels).save(path, compress_level=0)
        pixels[f"{part}/{kind}/{number}.png"] = Image.fromarray(levels)
    return root, pixels


def check_preprocessing(spec, config):
    """Compare the preprocessing of a spec with timm's configuration, setting by setting."""
    size = spec["image_size"]
    assert ((size, size) if isinstance(size, int) else tuple(size)) == config["input_size"][1:]
    assert tuple(spec["mean"]) == tuple(config["mean"])
    assert tuple(spec["std"]) == tuple(config["std"])
    for name in ("interpolation", "crop_mode", "crop_pct"):
        assert spec[name] == config[name], name


def timms_model(name, size):
    """Timm's whole model, with the weights that seed 0 gives its backbone, and its configuration.

    Transformers with positions of a fixed number are told the size of the images.
    """
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    arguments = {"img_size": size} if size and fixed else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model(name, num_classes=0, **arguments).eval()
    overrides = {"input_size": (3, size, size)} if size else {}
    model = whole_model(name, module, **arguments)
    return model, resolve_data_config(overrides, model=model)


def check_rows(store, model, config, pixels):
    """Compare the rows of a store with timm's vectors of the same images."""
    transform = create_transform(**config, is_training=False)
    rows, inputs = [], []
    for part in ("train", "test"):
        split = store.splits[part]
        for name, row in zip(split.ids, split.features, strict=True):
            rows.append(row)
            inputs.append(transform(pixels[f"{part}/{name}"]))
    with torch.inference_mode():
        expected = by_timm(model, torch.stack(inputs)).numpy()
    rows = np.stack(rows)
    assert rows.shape == expected.shape and np.isfinite(rows).all()
    cosines = (rows * expected).sum(1) / np.linalg.norm(rows, axis=1)
    cosines /= np.linalg.norm(expected, axis=1)
    largest = np.abs(rows - expected).max()
    assert cosines.min() >= COSINE
    assert largest <= DIFFERENCE * np.abs(expected).max()
    # Of other pixels, vectors are farther apart than that, or the test would not see them.
    between = min(np.abs(expected[0] - other).max() for other in expected[1:])
    assert between > 10 * largest
    return expected.shape[1]


def check_head(path, store, reports):
    """Fit a head to a store, and compare its file with the store."""
    classify(
        ["fit", str(path), "--strategy", "multinomial", "--c", "1", "--no-few-shot", "--jobs", "1",
         "--reports-dir", str(reports)]
    )  # fmt: skip
    (saved,) = reports.rglob("multinomial.safetensors")
    with safe_open(saved, "numpy") as head:
        assert head.get_tensor("coef").shape == (1, store.train.features.shape[1])
        assert store.key in json.dumps(head.metadata())
    (results,) = reports.rglob("results.json")
    found = json.loads(results.read_text(encoding="utf-8"))
    assert found["strategies"]["multinomial"]["converged"]
    assert found["n_features"] == store.train.features.shape[1]


def check_family(name, size, photos, tmp_path):
    root, pixels = photos
    own = describe(BackboneRequest(name, "random")).preprocessing
    config = timm.get_pretrained_cfg(name).to_dict()
    check_preprocessing(own.to_spec(), resolve_data_config({}, pretrained_cfg=config))
    path = extract(
        Options(
            dataset=str(root), model=name, weights="random", image_size=size, jobs=1, batch_size=3,
            device="cpu", engine="channels-last", features_dir=tmp_path / "features",
        )
    )  # fmt: skip
    store = open_features(path)
    model, config = timms_model(name, size)
    check_preprocessing(store.spec["preprocessing"], config)
    width = check_rows(store, model, config, pixels)
    assert width == getattr(model, "head_hidden_size", model.num_features)
    check_head(path, store, tmp_path / "reports")


@pytest.mark.parametrize(("name", "size"), FAMILIES.values(), ids=FAMILIES)
def test_from_files_to_a_head(name, size, photos, tmp_path):
    check_family(name, size, photos, tmp_path)


@pytest.mark.skipif(not LONG, reason="make faults")
@pytest.mark.parametrize("name", others() if LONG else [])
def test_other_sizes(name, photos, tmp_path):
    if n_parameters(name) > MOST_PARAMETERS:
        pytest.skip("too large for a test; see make test-backbones")
    check_family(name, None, photos, tmp_path)
