"""Backbones: frozen, with the right weights, the right size, the right pooling."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from warm_processes import run_warm

from data.common.errors import UserError
from extract.model.backbone import BackboneRequest, embed_normalised, load_backbone
from extract.model.names import (
    DEFAULT_MODEL,
    DEFAULT_MODEL_IMAGE_SIZE,
    FAST_MODEL,
    pretrained_config,
)

REAL = Path(os.environ.get("ICEBOX_REAL_DATA", Path(__file__).parents[3].parent / "shared/data"))


def random(model="test_vit.r160_in1k", size=32, **kwargs):
    return load_backbone(BackboneRequest(model, "random", image_size=size, **kwargs))


def images(n=3, size=32, seed=0):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def run(backbone, batch):
    with torch.inference_mode():
        return embed_normalised(backbone.module, batch)


def test_it_is_frozen():
    backbone = random("resnet18")
    assert not backbone.module.training
    assert not any(module.training for module in backbone.module.modules())
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    run(backbone, images())
    after = backbone.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "running statistics"


def test_the_classifier_is_gone_and_the_width_is_measured():
    # The widths of these are not their num_features.
    for model, width in (("mobilenetv3_small_050", 1024), ("test_vit.r160_in1k", 64)):
        backbone = random(model)
        assert backbone.width == width
        assert run(backbone, images()).shape == (3, width)
        classifier = backbone.module.get_classifier()
        assert sum(p.numel() for p in classifier.parameters()) == 0


def test_the_same_seed_gives_the_same_weights_and_touches_no_global_state():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    digests = [random(seed=seed).digest for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    assert digests[0] == digests[1] != digests[2]
    assert random(seed=1).seed == 1


@pytest.mark.parametrize(
    "model",
    [
        "test_convnext",
        "test_mambaout",
        "test_byobnet",
        "test_nfnet",
        "vit_relpos_small_patch16_224",
        "mixer_s32_224",
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "xcit_nano_12_p16_224",
        "swin_tiny_patch4_window7_224",
        "eva02_tiny_patch14_224",
        "levit_128s",
        "crossvit_9_240",
        "coat_lite_tiny",
        "gmlp_s16_224",
        "resmlp_12_224",
        "densenet121",
        "vgg11",
        "inception_v3",
    ],
)
def test_every_kind_of_architecture_at_another_size(model):
    # Built without memory for weights; what matters is which arguments timm is given.
    config = pretrained_config(model)
    size = {"eva02_tiny_patch14_224": 112, "inception_v3": 128, "crossvit_9_240": 240}.get(
        model, 96
    )
    arguments = {"img_size": size} if config.get("fixed_input_size") else {}
    with torch.device("meta"), torch.inference_mode():
        module = timm.create_model(model, num_classes=0, **arguments).eval()
        output = embed_normalised(module, torch.empty(2, 3, size, size))
    assert output.ndim == 2
    assert output.shape[0] == 2


@pytest.mark.parametrize("size", [32, 48, 160])
def test_the_image_size_reaches_a_model_that_fixes_it(size):
    backbone = random(size=size)
    assert backbone.preprocessing.image_size == size
    assert backbone.module.pos_embed.shape[1] >= (size // 16) ** 2
    assert run(backbone, images(2, size)).shape == (2, 64)


def test_a_size_that_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"70x70.*\n.*--image-size"):
        random(size=70)


def test_pool():
    default, average, token = (random(pool=pool) for pool in ("default", "avg", "token"))
    batch = images()
    with torch.inference_mode():
        tokens = average.module.forward_features(batch)
        prefix = average.module.num_prefix_tokens
        mean = average.module.fc_norm(tokens[:, prefix:].mean(1))
    torch.testing.assert_close(run(average, batch), mean)
    torch.testing.assert_close(run(token, batch), token.module.fc_norm(tokens[:, 0]))
    assert not torch.allclose(run(average, batch), run(token, batch))
    assert torch.equal(run(default, batch), run(token, batch))  # this model's own
    assert torch.equal(run(random("resnet18", pool="avg"), batch), run(random("resnet18"), batch))


@pytest.mark.parametrize("model", ["resnet18", "mixer_s32_224"])
def test_a_pool_that_a_model_does_not_have(model):
    with pytest.raises(UserError, match=r"--pool token.*supports only default, avg"):
        random(model, pool="token")


def test_the_default_and_the_fast_model_exist_with_weights():
    known = timm.list_models(pretrained=True)
    assert DEFAULT_MODEL in known
    assert FAST_MODEL in known
    assert DEFAULT_MODEL_IMAGE_SIZE % 14 == 0


def saved(tmp_path, model, head=True, change=None, **kwargs):
    torch.manual_seed(3)
    source = timm.create_model(model, **kwargs).eval()
    if not head:
        source.reset_classifier(0)
    state = {name: value.clone() for name, value in source.state_dict().items()}
    if change is not None:
        change(state)
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
    save_file(state, str(path))
    source.reset_classifier(0)
    return path, source


def digest_of_file(path, head):
    """The digest by hand, from the bytes of a safetensors file."""
    content = Path(path).read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    digest = hashlib.sha256()
    for name in sorted(header.keys() - {"__metadata__"}):
        if not name.startswith(head):
            first, last = (start + at for at in header[name]["data_offsets"])
            of_bytes = hashlib.sha256(content[first:last]).hexdigest()
            line = [name, header[name]["dtype"], header[name]["shape"], of_bytes]
            digest.update(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def load(model, path, **kwargs):
    return load_backbone(BackboneRequest(model, str(path), **kwargs))


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_efficientnet"])
def test_a_weights_file_with_and_without_a_head(tmp_path, model):
    batch = images(size=160)
    digests = set()
    for head in (True, False):
        path, source = saved(tmp_path, model, head)
        backbone = load(model, path)
        with torch.inference_mode():
            expected = source.forward_head(source.forward_features(batch), pre_logits=True)
        torch.testing.assert_close(run(backbone, batch), expected)
        digests.add(backbone.digest)
    assert len(digests) == 1, "the head is no part of what identifies a backbone"
    # A head for another number of classes does not matter either.
    path, _ = saved(tmp_path, model, num_classes=7)
    assert load(model, path).width == backbone.width


def test_a_vit_saved_at_another_size_has_its_positions_interpolated(tmp_path):
    path, source = saved(tmp_path, "test_vit", img_size=160)
    small, large = load("test_vit", path, image_size=64), load("test_vit", path, image_size=160)
    assert small.module.pos_embed.shape != large.module.pos_embed.shape
    assert torch.equal(large.module.pos_embed, source.pos_embed)
    assert small.digest == large.digest, "the weights are the same, the size is its own setting"
    again = timm.create_model("test_vit", img_size=64, num_classes=0).pos_embed
    assert not torch.allclose(small.module.pos_embed, again)


def test_half_precision_weights_are_read(tmp_path):
    path, _ = saved(tmp_path, "test_resnet")
    state = {name: value.half() for name, value in load_file(str(path)).items()}
    half = tmp_path / "half.safetensors"
    save_file(state, str(half))
    backbone = load("test_resnet", half, image_size=32)
    assert next(backbone.module.parameters()).dtype == torch.float32
    assert backbone.digest != load("test_resnet", path, image_size=32).digest


def test_weights_that_do_not_fit_are_named(tmp_path):
    path, _ = saved(tmp_path, "test_resnet", change=lambda state: state.pop("conv1.0.weight"))
    with pytest.raises(UserError, match=r"1 missing from the file: conv1.0.weight"):
        load("test_resnet", path)
    path, _ = saved(
        tmp_path,
        "test_resnet",
        change=lambda state: state.update({f"extra.{i}": torch.zeros(1) for i in range(9)}),
    )
    with pytest.raises(UserError, match=r"9 not in the model: extra.0, .*\(4 more\)"):
        load("test_resnet", path)
    path, _ = saved(
        tmp_path, "test_resnet", change=lambda state: state.update(**{"bn1.weight": torch.ones(3)})
    )
    with pytest.raises(UserError, match=r"1 tensors? differ"):
        load("test_resnet", path)
    path, _ = saved(tmp_path, "test_vit")
    with pytest.raises(UserError, match="does not fit test_resnet") as caught:
        load("test_resnet", path)
    assert len(str(caught.value).splitlines()) <= 4


@pytest.mark.parametrize(
    ("content", "name", "match"),
    [
        (None, "absent.safetensors", "no such file"),
        (b"anything", "weights.pth", "cannot be read as a file of torch.save"),
        (b"PK\x03\x04anything", "weights", "cannot be read as a file of torch.save"),
        (b"short", "weights.safetensors", "not a safetensors file"),
        (b"<html>" * 100, "weights.safetensors", "not a safetensors file"),
        ((9).to_bytes(8, "little") + b"{notjson}", "weights.safetensors", "header"),
        ((2).to_bytes(8, "little") + b"{}", "weights.safetensors", "no tensors"),
    ],
)
def test_a_file_that_is_no_safetensors(tmp_path, content, name, match):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=match):
        load("test_resnet", path)


def test_a_truncated_weights_file(tmp_path):
    path, _ = saved(tmp_path, "test_resnet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="expected: it is damaged"):
        load("test_resnet", path)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("mobilnetv2_100", "mobilenetv2_100"),
        ("resnet18.a9_in1k", "resnet18.a1_in1k"),
        ("timm/resnet18", "one of timm's names"),
        ("hf-hub:", "give hf-hub:OWNER/NAME"),
    ],
)
def test_an_unknown_model(model, match):
    with pytest.raises(UserError, match=match):
        load_backbone(BackboneRequest(model, "random"))


def test_a_bad_model_argument():
    with pytest.raises(UserError, match=r"no_such=1.*\n.*--model-arg"):
        random("resnet18", model_args={"no_such": 1})
    with pytest.raises(UserError, match="--image-size"):
        random(model_args={"img_size": 32})
    with pytest.raises(UserError, match="always left out"):
        random("resnet18", model_args={"num_classes": 3})


def test_a_model_without_pretrained_weights():
    with pytest.raises(UserError, match=r"no pretrained weights.*--weights FILE"):
        load_backbone(BackboneRequest("seresnet18"))


def test_a_hub_that_cannot_be_reached_is_known_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"(?s)resnet18.a1_in1k.*--weights FILE.*random"):
        load_backbone(BackboneRequest("resnet18"))
    assert time.perf_counter() - start < 6


def test_weights_in_the_hubs_cache_need_no_network(tmp_path):
    """In a process of its own, because the cache's place is read when the hub is imported."""
    path, _ = saved(tmp_path, "test_resnet")
    snapshot = tmp_path / "hub/models--timm--test_resnet.r160_in1k/snapshots/abc"
    (snapshot / "../../refs").resolve().mkdir(parents=True)
    (snapshot / "../../refs/main").resolve().write_text("abc")
    snapshot.mkdir(parents=True)
    path.rename(snapshot / "model.safetensors")
    code = (
        "from extract.model.backbone import *; b = load_backbone(BackboneRequest('test_resnet'));"
        "print(b.name, b.source.source, b.digest, b.model_spec()['weights']['source'],"
        "b.source.origin)"
    )
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }
    done = run_warm(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    digest = digest_of_file(snapshot / "model.safetensors", "fc.")
    origin = "timm/test_resnet.r160_in1k@abc"  # with the commit, for the provenance
    assert done.stdout.split() == ["test_resnet.r160_in1k", "hub", digest, "hub", origin]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real weights are not here")
@pytest.mark.parametrize(("model", "width"), [("mobilenetv2_100", 1280), ("mobilenetv1_100", 1024)])
def test_the_real_weights_load(model, width):
    backbone = load(
        model,
        REAL / f"{model}.safetensors",
        model_args={"pad_type": "same"},
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        image_size=64,
    )
    assert backbone.width == width
    assert backbone.is_convolutional
    vectors = run(backbone, images(4, 64))
    assert vectors.std(dim=0).mean() > 0.01, "in train mode, or unfrozen, these collapse"


@pytest.mark.parametrize(
    "model", ["test_vit", "test_convnext", "test_efficientnet", "cait_xxs24_224"]
)
def test_a_network_without_weights_has_the_same_shapes(model):
    from extract.model.outline import without_weights

    with without_weights():
        outline = timm.create_model(model, num_classes=3).state_dict()
    real = timm.create_model(model, num_classes=3).state_dict()
    assert list(outline) == list(real)
    for name, tensor in real.items():
        assert outline[name].is_meta
        assert (outline[name].shape, outline[name].dtype) == (tensor.shape, tensor.dtype)
    torch.testing.assert_close(torch.zeros(2).fill_(3), torch.full((2,), 3.0))  # afterwards
