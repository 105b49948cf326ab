"""``--model transformers:...``, compared with transformers' own processor and model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data.reading import read_header
from extract.model.backbone import BackboneRequest, load_backbone
from extract.model.from_spec import backbone_of_spec
from extract.model.providers import processor

transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")

JOB = ("--batch-size=4", "--engine=torch", "--jobs=1")
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SQUARE = {"height": 32, "width": 32}


def config_of(name):
    two = {"vision_config": SMALL, "text_config": TEXT}
    return {
        "vit": lambda: transformers.ViTConfig(**SMALL),
        "clip": lambda: transformers.CLIPConfig(**two, projection_dim=24),
        "siglip": lambda: transformers.SiglipConfig(**two),
        "dinov2": lambda: transformers.Dinov2Config(**SMALL),
        "dinov3": lambda: transformers.DINOv3ViTConfig(**SMALL, num_register_tokens=2),
        "convnext": lambda: transformers.ConvNextConfig(
            hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32
        ),
        "resnet": lambda: transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        ),
        "mae": lambda: transformers.ViTMAEConfig(**SMALL, mask_ratio=0.0),
    }[name]()


def processor_of(name):
    """The processor that a family ships with, for small images."""
    dino = {"size": {"shortest_edge": 37}, "crop_size": SQUARE, "resample": 3}
    return {
        "vit": lambda: transformers.ViTImageProcessor(size=SQUARE),
        "clip": lambda: transformers.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size=SQUARE
        ),
        "siglip": lambda: transformers.SiglipImageProcessor(size=SQUARE),
        "dinov2": lambda: transformers.BitImageProcessor(**dino),
        "dinov3": lambda: transformers.DINOv3ViTImageProcessor(size=SQUARE),
        "convnext": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
        "resnet": lambda: transformers.ConvNextImageProcessor(
            size={"shortest_edge": 32}, crop_pct=0.9
        ),
        "mae": lambda: transformers.ViTImageProcessor(size=SQUARE),
    }[name]()


VECTORS = {
    "vit": "pooler_output", "clip": "image_embedding", "siglip": "image_embedding",
    "dinov2": "pooler_output", "dinov3": "pooler_output", "convnext": "pooler_output",
    "resnet": "pooler_output",
}  # fmt: skip


def save(folder, name="vit", *, seed=0, kind=None):
    """Write a small network of random weights as transformers does, with its processor."""
    torch.manual_seed(seed)
    make = kind or transformers.AutoModel.from_config
    model = make(config_of(name)).eval()
    with torch.no_grad():  # the first weights of layer scales and the like are too alike
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(str(folder))
    processor_of(name).save_pretrained(str(folder))
    return model


def by_transformers(folder, vector, images):
    """What its documents say: `AutoImageProcessor` and `AutoModel`."""
    made = transformers.AutoImageProcessor.from_pretrained(str(folder))
    model = transformers.AutoModel.from_pretrained(str(folder), dtype=torch.float32).eval()
    pixels = torch.cat([made(images=i, return_tensors="pt")["pixel_values"] for i in images])
    with torch.inference_mode():
        if vector == "image_embedding":
            return model.get_image_features(pixel_values=pixels).pooler_output.numpy()
        output = model(pixel_values=pixels)
        if vector == "class_token":
            return output.last_hidden_state[:, 0].numpy()
        return output.pooler_output.flatten(1).numpy()


def check_rows(store, rows_beside, expected_of):
    """Compare rows: the pixels of transformers are within a grey level or two of Pillow's."""
    for found, expected in rows_beside(store, expected_of):
        cosine = (found * expected).sum(1)
        cosine /= np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        assert cosine.min() > 0.9999
        assert np.abs(found - expected).max() < 2e-2 * np.abs(expected).max()


@pytest.mark.parametrize("name", VECTORS)
def test_from_files_to_vectors(embedded, call, tmp_path, photographs, rows_beside, name):
    folder = tmp_path / f"my {name}"
    save(folder, name)
    store = embedded(f"--model=transformers:{folder}")
    assert store.spec["model"]["name"] == f"transformers:my {name}"
    assert store.spec["model"]["config"]["vector"] == VECTORS[name]
    assert str(tmp_path) not in json.dumps(store.spec)
    check_rows(store, rows_beside, lambda images: by_transformers(folder, VECTORS[name], images))
    verified = call("verify", store.path, f"--data-dir={photographs[0]}")
    assert verified.code == 0, verified.err
    assert "by transformers' own processor and model" in verified.err


def test_the_network_is_the_same_to_the_last_bits(tmp_path):
    """Of one input, so that nothing hides behind the tolerance of pixels."""
    model = save(tmp_path, "clip")
    images = torch.randn(3, 3, 32, 32)
    loaded = load_backbone(BackboneRequest(f"transformers:{tmp_path}"))
    with torch.inference_mode():
        expected = model.get_image_features(pixel_values=images).pooler_output
        torch.testing.assert_close(loaded.module(images), expected)
    names = {name.split(".")[1] for name, _ in loaded.module.named_parameters()}
    assert names == {"vision_model", "visual_projection", "logit_scale"}, "no text tower is kept"


@pytest.mark.parametrize("name", ["vit", "clip", "dinov3"])
def test_another_image_size(embedded, call, tmp_path, photographs, rows_beside, name):
    save(tmp_path / "m", name)
    store = embedded(f"--model=transformers:{tmp_path / 'm'}", "--image-size=48", "--mean=0.4")
    made = processor_of(name)
    size = {"shortest_edge": 48} if name == "clip" else {"height": 48, "width": 48}
    sizes = {"size": size, "image_mean": [0.4] * 3}
    if name == "clip":
        sizes["crop_size"] = {"height": 48, "width": 48}
    model = transformers.AutoModel.from_pretrained(str(tmp_path / "m"), dtype=torch.float32).eval()
    call_it = model.get_image_features if name == "clip" else model
    options = {} if name == "dinov3" else {"interpolate_pos_encoding": True}

    def expected(images):
        pixels = [made(images=i, return_tensors="pt", **sizes)["pixel_values"] for i in images]
        with torch.inference_mode():
            return call_it(pixel_values=torch.cat(pixels), **options).pooler_output.numpy()

    check_rows(store, rows_beside, expected)
    verified = call("verify", store.path, f"--data-dir={photographs[0]}")
    assert verified.code == 0 and "embedded again" in verified.err, verified.err


def test_a_classifier_gives_its_class_token(embedded, call, tmp_path, photographs, rows_beside):
    """Its file has no pooler, and one of random weights would be worth nothing."""
    save(tmp_path / "m", "vit", kind=transformers.ViTForImageClassification)
    words = (f"--model=transformers:{tmp_path / 'm'}",)
    store = embedded(*words)
    assert store.spec["model"]["config"]["vector"] == "class_token"
    check_rows(
        store, rows_beside, lambda images: by_transformers(tmp_path / "m", "class_token", images)
    )
    torch.manual_seed(7)
    assert embedded(*words, "--force").key == store.key, "what is drawn for the pooler is left out"
    verified = call("verify", store.path, f"--data-dir={photographs[0]}")
    assert verified.code == 0 and "embedded again" in verified.err, verified.err
    again = backbone_of_spec(store.spec, tmp_path / "m" / "model.safetensors")
    assert again.digest == store.spec["model"]["weights"]["digest"]


def test_a_store_is_found_and_its_network_built_again(embedded, call, tmp_path, photographs):
    folder = tmp_path / "m"
    save(folder, "clip")
    words = (f"--model=transformers:{folder}",)
    store = embedded(*words)
    header = read_header(store.path)
    assert header.request["libraries"] == {"transformers": transformers.__version__}
    again = call(f"--dataset={photographs[0]}", *JOB, f"--features-dir={tmp_path / 'f'}", *words)
    assert "found" in again.err and "loading" not in again.err

    for name in ("config.json", "preprocessor_config.json"):  # the spec has what is needed of them
        (folder / name).rename(tmp_path / name)
    assert (
        backbone_of_spec(header.spec, folder / "model.safetensors").preprocessing.image_size == 32
    )
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).rename(folder / name)

    # In parts, and as a pickle of torch's: the same weights.
    model = transformers.AutoModel.from_pretrained(str(folder))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(str(folder), max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert embedded(*words).key == store.key
    for part in folder.glob("model*.safetensors*"):
        part.unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert embedded(*words).key == store.key

    save(folder, "clip", seed=1)
    assert embedded(*words).key != store.key
    made = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**made, "image_mean": [0.1] * 3}))
    changed = embedded(*words)
    assert changed.spec["preprocessing"]["mean"] == [0.1] * 3


def test_what_is_said_for_people_is_in_no_key(embedded, tmp_path):
    save(tmp_path / "m")
    words = (f"--model=transformers:{tmp_path / 'm'}",)
    store = embedded(*words)
    path = tmp_path / "m" / "config.json"
    told = json.loads(path.read_text())
    told |= {"id2label": {"0": "cat"}, "transformers_version": "4.1", "dtype": "float16"}
    path.write_text(json.dumps(told))
    assert embedded(*words).key == store.key
    path.write_text(json.dumps({**told, "layer_norm_eps": 1e-3}))
    assert embedded(*words).key != store.key


def test_weights_in_half_precision_are_read_in_full(tmp_path):
    save(tmp_path / "m")
    state = load_file(tmp_path / "m" / "model.safetensors")
    half = {name: tensor.half() for name, tensor in state.items()}
    save_file(half, tmp_path / "half.safetensors")
    name = f"transformers:{tmp_path / 'm'}"
    loaded = load_backbone(BackboneRequest(name, str(tmp_path / "half.safetensors")))
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float32}
    assert loaded.digest != load_backbone(BackboneRequest(name)).digest


def test_random_weights_and_a_list(embedded, call, tmp_path, photographs):
    save(tmp_path / "m")
    words = (f"--model=transformers:{tmp_path / 'm'}", "--weights=random")
    stores = [embedded(*words, f"--seed={seed}") for seed in (0, 1)]
    assert stores[0].key != stores[1].key
    assert (
        backbone_of_spec(stores[1].spec, None).digest
        == stores[1].spec["model"]["weights"]["digest"]
    )
    verified = call("verify", stores[0].path, f"--data-dir={photographs[0]}")
    assert "where its processor lies is not known" in verified.err and verified.code == 0
    listed = call("list", f"transformers:{tmp_path / 'm'}")
    assert listed.out.splitlines()[1].split()[:3] == ["transformers:m", "32", "32"]
    kinds = call("list", "transformers:dino*").out
    assert "dinov2 " in kinds and "dinov3_vit " in kinds


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_odd_margins(backend):
    """The first pixel of a crop is rounded down, which timm's is not."""
    made = transformers.CLIPImageProcessor
    if backend == "pil":
        made = transformers.CLIPImageProcessorPil
    found = made(size={"shortest_edge": 35}, crop_size=SQUARE)
    settings = processor.preprocessing_of(found, "m")
    assert settings.crop_mode == "center-floor"
    assert int(32 / settings.crop_pct) == 35


# -- bad input ---------------------------------------------------------------------------------

PROCESSORS = {
    "kept sizes": ({"do_resize": False}, "do_resize is false"),
    "grey levels": ({"do_rescale": False}, "do_rescale is false"),
    "another scale": ({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.0078"),
    "any shape": ({"size": {"shortest_edge": 32}}, "without a crop gives images of any shape"),
    "padding": ({"do_pad": True, "pad_size": {"height": 40, "width": 40}}, "do_pad is true"),
    "two shares": (
        {"size": {"height": 40, "width": 50}, "do_center_crop": True, "crop_size": SQUARE},
        "images are resized to",
    ),
    "a mean": ({"image_mean": [0.5]}, "expected 3"),
    "a filter": ({"resample": 9}, "range"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_that_cannot_be_followed(call, refused, tmp_path, photographs, name):
    given, message = PROCESSORS[name]
    save(tmp_path / "m")
    path = tmp_path / "m" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **given}))
    words = (f"--model=transformers:{tmp_path / 'm'}", f"--features-dir={tmp_path / 'f'}")
    done = call(f"--dataset={photographs[0]}", *JOB, *words)
    refused(done, "cannot be followed (ViTImageProcessor", message, "package.module:factory")


def test_a_processor_that_does_something_else_is_found_out(monkeypatch):
    """Its settings say nothing odd, but its pixels are others."""

    class Odd(transformers.ViTImageProcessor):
        def resize(self, image, size, **options):
            return super().resize(image, size, **{**options, "antialias": False})

    with pytest.raises(Exception, match=r"differ by up to .* grey levels from an antialiased"):
        processor.preprocessing_of(Odd(size=SQUARE), "m")
    overshoots = transformers.DINOv3ViTImageProcessor(size=SQUARE, resample=3)
    with pytest.raises(Exception, match=r"gives grey levels from -\d+ to 3\d\d"):  # in float32
        processor.preprocessing_of(overshoots, "m")
    patches = transformers.Siglip2ImageProcessor(max_num_patches=16)
    with pytest.raises(Exception, match="max_num_patches is 16"):
        processor.preprocessing_of(patches, "m")


def no_processor(folder):
    (folder / "preprocessor_config.json").unlink()


def text_only(folder):
    shutil.rmtree(folder)
    transformers.BertModel(transformers.BertConfig(**TEXT)).save_pretrained(str(folder))


def config(**given):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **given}))

    return change


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def other_weights(folder):
    save_file({"a.weight": torch.zeros(2)}, folder / "model.safetensors")


def larger(folder):
    state = load_file(folder / "model.safetensors")
    state["layernorm.weight"] = torch.zeros(64)
    save_file(state, folder / "model.safetensors")


def no_vector(folder):
    """Of a segmenter there is neither a pooler nor a class token."""
    shutil.rmtree(folder)
    segformer = transformers.SegformerConfig(
        hidden_sizes=[8, 8, 8, 8],
        depths=[1] * 4,
        num_attention_heads=[1] * 4,
        decoder_hidden_size=8,
    )
    transformers.SegformerModel(segformer).save_pretrained(str(folder))
    transformers.ViTImageProcessor(size=SQUARE).save_pretrained(str(folder))


BAD = {
    "text": (text_only, ["BertModel takes input_ids, not images", "list transformers:"]),
    "no processor": (no_processor, ["no image processor", "there is no preprocessor_config.json"]),
    "no weights": (without_weights, ["holds no weights", "expected model.safetensors"]),
    "other weights": (other_weights, ["does not fit ViTModel", "missing from the file"]),
    "other shapes": (larger, ["does not fit", "layernorm.weight (64,) instead of (32,)"]),
    "no vector": (no_vector, ["SegformerModel gives neither a pooler_output nor a class token"]),
    "no JSON": (write("config.json", "{"), ["config.json is no JSON"]),
    "timm's": (write("config.json", '{"architecture": "vit"}'), ["no model_type", "local-dir"]),
    "a kind": (config(model_type="vitt"), ["no networks of the kind 'vitt'", "did you mean vit"]),
    "its own code": (
        config(model_type="mine", auto_map={"AutoModel": "code.Model"}),
        ["of the kind 'mine' with code of its own, which is not run"],
    ),
    "a number": (config(hidden_size=-3), ["cannot build a network of its config.json"]),
    "an index": (
        lambda folder: (
            without_weights(folder),
            write("model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}')(folder),
        ),
        ["names b.safetensors, which is not beside it"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_folders(call, refused, tmp_path, photographs, name):
    change, named = BAD[name]
    save(tmp_path / "m")
    change(tmp_path / "m")
    words = (f"--model=transformers:{tmp_path / 'm'}", f"--features-dir={tmp_path / 'f'}")
    refused(call(f"--dataset={photographs[0]}", *JOB, *words), *named)


NAMES = {
    "nothing": ("transformers:", ["names nothing", "transformers:OWNER/NAME"]),
    "no folder": ("transformers:./none", ["none is no folder", "save_pretrained"]),
    "offline": ("transformers:me/none", ["transformers:me/none", "HF_HUB_OFFLINE is set"]),
    "pooled": ("transformers:{m} --pool=token", ["--pool token", "Leave --pool out"]),
    "arguments": ("transformers:{m} --model-arg=a=1", ["--model-arg a", "config.json"]),
    "a size": ("transformers:{m} --image-size=4", ["cannot embed images of 4x4", "--image-size"]),
    "weights": ("transformers:{m} --weights={m}/config.json", ["is not an index of weights"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_bad_names(call, refused, tmp_path, photographs, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "m")
    model, named = NAMES[name]
    words = f"--model={model.format(m=tmp_path / 'm')}".split()
    done = call(f"--dataset={photographs[0]}", *JOB, f"--features-dir={tmp_path / 'f'}", *words)
    refused(done, *named)
