"""``--model open_clip:...``, compared with open_clip's own transform and ``encode_image``."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data.reading import read_header
from extract.model.backbone import BackboneRequest, load_backbone
from extract.model.from_spec import backbone_of_spec

open_clip = pytest.importorskip("open_clip", reason="the extra open_clip is not installed")

JOB = ("--batch-size=4", "--engine=torch", "--jobs=1")
TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "ViT": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "ResNet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    "timm": {
        "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear",
        "image_size": 160,
    },
}  # fmt: skip
PREPROCESSING = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}


def save(folder, tower="ViT", *, seed=0, safe=True, **preprocessing):
    """Write what open_clip reads: its configuration and a small network of random weights."""
    config = {"embed_dim": 24, "vision_cfg": TOWERS[tower], "text_cfg": TEXT}
    torch.manual_seed(seed)
    model = open_clip.CLIP(**json.loads(json.dumps(config)))
    folder.mkdir(exist_ok=True)
    told = {"model_cfg": config, "preprocess_cfg": {**PREPROCESSING, **preprocessing}}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    if safe:
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    else:
        torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return model


def by_open_clip(folder, images, **options):
    """What open_clip's documents say: its own factory, its transform, and `encode_image`."""
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", **options)
    with torch.inference_mode():
        return model.eval().encode_image(torch.stack([transform(i) for i in images])).numpy()


def check_rows(store, rows_beside, expected_of):
    """Compare rows of images that are resized by Pillow, as open_clip does: to rounding."""
    for found, expected in rows_beside(store, expected_of):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("tower", "mode", "interpolation"),
    [
        ("ViT", "shortest", "bicubic"),
        ("ResNet", "squash", "bicubic"),
        ("timm", "longest", "bilinear"),
    ],
)
def test_from_files_to_vectors(
    embedded, call, tmp_path, photographs, rows_beside, tower, mode, interpolation
):
    folder = tmp_path / "my clip"
    save(folder, tower, resize_mode=mode, interpolation=interpolation)
    store = embedded(f"--model=open_clip:local-dir:{folder}")
    check_rows(store, rows_beside, lambda images: by_open_clip(folder, images))
    assert store.path.name.startswith("open_clip-local-dir-my-clip-")
    assert str(tmp_path) not in json.dumps(store.spec)
    assert store.provenance["open_clip_torch"] == open_clip.__version__
    verified = call("verify", store.path, f"--data-dir={photographs[0]}")
    assert verified.code == 0 and "open_clip's own transform and encode_image" in verified.err


def test_another_image_size_and_settings(embedded, tmp_path, rows_beside):
    save(tmp_path / "m", "ViT")
    words = (f"--model=open_clip:local-dir:{tmp_path / 'm'}", "--image-size=48x64", "--mean=0.3")
    store = embedded(*words)
    options = {"force_image_size": (48, 64), "image_mean": (0.3, 0.3, 0.3)}
    check_rows(store, rows_beside, lambda images: by_open_clip(tmp_path / "m", images, **options))
    own = load_backbone(BackboneRequest(f"open_clip:local-dir:{tmp_path / 'm'}"))
    assert own.digest == store.spec["model"]["weights"]["digest"], "of the file, before resampling"


def test_a_store_is_found_and_its_network_built_again(embedded, call, tmp_path, photographs):
    save(tmp_path / "m")
    words = (f"--model=open_clip:local-dir:{tmp_path / 'm'}",)
    store = embedded(*words)
    header = read_header(store.path)
    assert header.request["libraries"] == {"open_clip_torch": open_clip.__version__}
    assert embedded(*words).path == store.path
    (tmp_path / "m" / "open_clip_config.json").unlink()  # the spec has what is needed of it
    weights = tmp_path / "m" / "open_clip_model.safetensors"
    assert (
        backbone_of_spec(header.spec, weights).digest == header.spec["model"]["weights"]["digest"]
    )

    save(tmp_path / "m", safe=False)
    weights.unlink()
    assert embedded(*words).key == store.key, "the same weights, as a pickle"
    save(tmp_path / "m", safe=False, seed=1)
    assert embedded(*words).key != store.key
    save(tmp_path / "m", safe=False, mean=[0.1, 0.2, 0.3])
    assert embedded(*words).spec["preprocessing"]["mean"] == [0.1, 0.2, 0.3]


@pytest.fixture
def small_clip(monkeypatch):
    """A small network among those that open_clip knows, with tags of its own."""
    from open_clip import factory, pretrained

    config = {"embed_dim": 24, "vision_cfg": TOWERS["ViT"], "text_cfg": TEXT}
    told = {"hf_hub": "me/small/", "mean": (0.1, 0.2, 0.3), "std": (0.5,) * 3}
    tags = {
        "mine_1b": {**told, "interpolation": "bilinear", "resize_mode": "squash"},
        "openai": {**told, "quick_gelu": True},
        "mirror": {"url": "https://example.org/w.pt"},
    }
    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-S-8", config)
    monkeypatch.setitem(pretrained._PRETRAINED, "ViT-S-8", tags)
    torch.manual_seed(0)
    return open_clip.CLIP(**json.loads(json.dumps(config)))


def test_names_and_tags(embedded, call, small_clip, tmp_path, rows_beside):
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in small_clip.state_dict().items()}}, "w.pt"
    )
    store = embedded("--model=open_clip:ViT-S/8/mine-1B", "--weights=w.pt")
    assert store.spec["model"]["name"] == "open_clip:ViT-S-8/mine_1b"
    assert store.spec["preprocessing"]["crop_mode"] == "squash"

    def expected(images):
        model, _, transform = open_clip.create_model_and_transforms(
            "ViT-S-8", pretrained="w.pt", image_mean=(0.1, 0.2, 0.3), image_std=(0.5,) * 3,
            image_interpolation="bilinear", image_resize_mode="squash",
        )  # fmt: skip
        with torch.inference_mode():
            return model.eval().encode_image(torch.stack([transform(i) for i in images])).numpy()

    check_rows(store, rows_beside, expected)
    drawn = [
        embedded("--model=open_clip:ViT-S-8", "--weights=random", f"--seed={seed}")
        for seed in (0, 1)
    ]
    assert len({store.key, *(one.key for one in drawn)}) == 3
    assert drawn[1].spec["seed"] == 1
    listed = call("list", "open_clip:ViT-S-8*")
    rows = [line.split()[:4] for line in listed.out.splitlines()]
    assert ["open_clip:ViT-S-8/mine_1b", "24", "32", "hub"] in rows


def test_the_activation_of_a_tag(small_clip, capsys, tmp_path):
    save_file(small_clip.state_dict(), "w.safetensors")
    request = BackboneRequest("open_clip:ViT-S-8/openai", "w.safetensors")
    load_backbone(request)
    assert "--model-arg quick_gelu=True is right" in capsys.readouterr().err
    given = BackboneRequest(request.model, request.weights, {"quick_gelu": True})
    quick = load_backbone(given)
    assert capsys.readouterr().err == ""
    kinds = {type(part).__name__ for part in quick.module.modules()}
    assert "QuickGELU" in kinds and "GELU" not in kinds
    assert quick.config["model_cfg"]["quick_gelu"] is True


def test_coca_gives_the_vector_beside_its_tokens(tmp_path):
    """Its tower gives both, and its `encode_image` normalises unless it is told not to."""
    vision = {**TOWERS["ViT"], "attentional_pool": True, "output_tokens": True}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": {**TEXT, "embed_cls": True}}
    multimodal = {"context_length": 8, "vocab_size": 50, "width": 24, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    model = open_clip.CoCa(**json.loads(json.dumps({**config, "multimodal_cfg": multimodal})))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    told = {"model_cfg": config, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(told))
    backbone = load_backbone(BackboneRequest(f"open_clip:local-dir:{tmp_path}"))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        expected = model.eval().encode_image(images, normalize=False)
        torch.testing.assert_close(backbone.module(images), expected)


BAD = {
    "no tag": ("open_clip:ViT-S-8", ["by a tag", "mine_1b, openai", "--weights FILE or random"]),
    "a tag": ("open_clip:ViT-S-8/mine_2b", ["has no tag mine_2b", "did you mean mine_1b"]),
    "a name": ("open_clip:ViT-B-33/openai", ["no network ViT-B-33", "did you mean ViT-B-32"]),
    "nothing": ("open_clip:", ["names nothing", "open_clip:NAME/TAG"]),
    "no folder": ("open_clip:local-dir:none", ["none is no folder", "open_clip_config.json"]),
    "no path": ("open_clip:local-dir:", ["names nothing", "open_clip:local-dir:PATH"]),
    "a bare folder": ("open_clip:local-dir:.", ["has none", "open_clip_config.json"]),
    "a page": ("open_clip:ViT-S-8/mirror", ["https://example.org/w.pt only", "--weights FILE"]),
    "offline": ("open_clip:ViT-S-8/mine_1b", ["cannot get the weights", "HF_HUB_OFFLINE is set"]),
    "pooled": ("open_clip:ViT-S-8 --weights=random --pool=avg", ["--pool avg", "Leave --pool out"]),
    "arguments": (
        "open_clip:ViT-S-8 --weights=random --model-arg=width=3",
        ["--model-arg width", "quick_gelu"],
    ),
    "a size": (
        "open_clip:ViT-S-8 --weights=random --image-size=4",
        ["cannot embed images of 4", "--image-size"],
    ),
    "list": ("list open_clip:nothing-like-it-xyz", ["no network of open_clip matches"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(call, refused, small_clip, tmp_path, photographs, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    words, named = BAD[name]
    if words.startswith("list"):
        refused(call(*words.split()), *named)
        return
    words = f"--model={words}".split()
    refused(
        call(f"--dataset={photographs[0]}", *JOB, f"--features-dir={tmp_path / 'f'}", *words),
        *named,
    )


BAD_FOLDERS = {
    "no JSON": ("{", ["is no JSON"]),
    "a list": ("[]", ["config is a list, expected an object"]),
    "no network": ('{"model_cfg": {}}', ["no model_cfg with embed_dim and vision_cfg"]),
    "a tower": (
        '{"model_cfg": {"embed_dim": 8, "vision_cfg": {"widht": 3}}}', ["cannot build", "widht"],
    ),
    "a mode": (
        '{"model_cfg": {"embed_dim": 8, "vision_cfg": {}}, "preprocess_cfg": {"resize_mode": "x"}}',
        ["cannot make its preprocessing", "unchanged"],
    ),
    "a colour": (
        '{"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": 32}},'
        ' "preprocess_cfg": {"resize_mode": "longest", "fill_color": 128}}',
        ["cannot be followed (longest, bicubic, fill_color 128)", "package.module:factory"],
    ),
    "channels": (
        '{"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": 32}},'
        ' "preprocess_cfg": {"mean": [0.5], "std": [0.5]}}', ["RGB"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_a_folder_that_open_clip_has_not_written(call, refused, tmp_path, photographs, name):
    text, named = BAD_FOLDERS[name]
    save(tmp_path / "m")
    (tmp_path / "m" / "open_clip_config.json").write_text(text)
    words = (f"--model=open_clip:local-dir:{tmp_path / 'm'}", f"--features-dir={tmp_path / 'f'}")
    refused(call(f"--dataset={photographs[0]}", *JOB, *words), *named)


def test_weights_of_another_network(call, refused, tmp_path, photographs):
    save(tmp_path / "m")
    save_file({"visual.conv1.weight": torch.zeros(2, 2)}, tmp_path / "w.safetensors")
    words = (f"--model=open_clip:local-dir:{tmp_path / 'm'}", f"--features-dir={tmp_path / 'f'}")
    words = (*words, f"--weights={tmp_path / 'w.safetensors'}")
    refused(
        call(f"--dataset={photographs[0]}", *JOB, *words), "w.safetensors does not fit",
        "missing from the file: visual.", "conv1.weight (2, 2) instead of (32, 3, 8, 8)",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
