"""Every architecture of timm takes its own weights, and gives what its own head would see.

The witness is timm itself: `reset_classifier(0)` for what a head is, and the whole model's
``forward_head(forward_features(x), pre_logits=True)`` for the vectors.
"""

from __future__ import annotations

import os

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from timm.models._registry import _model_to_module

from data.common.errors import UserError
from extract.commands.list import measure
from extract.model import backbone
from extract.model.backbone import BackboneRequest, embed_normalised, load_backbone
from extract.model.outline import without_weights
from extract.model.sources import find_model
from extract.model.weights_fit import HeadKeys

LONG = os.environ.get("ICEBOX_FAULTS") == "1"
# The smallest of each class of each module of timm 1.0.31; `test_every_module_is_among_them`.
SMALLEST = (
    "beit_base_patch16_224", "cait_xxs24_224", "coat_tiny", "convit_tiny", "convmixer_768_32",
    "cpubone_nano", "crossvit_tiny_240", "cs3darknet_focus_s", "csatv2", "cspnext_tiny",
    "davit_tiny", "deepseek_vit_412m", "deepseek_vit_412m_enc",
    "deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224", "densenet121", "dla46x_c",
    "dpn48b", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0",
    "efficientvim_m1", "efficientvim_m1_dist", "efficientvit_b0", "efficientvit_l1",
    "efficientvit_m0", "ese_vovnet19b_slim_dw", "fasternet_t0", "fastvit_t8",
    "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m", "gemma4_vit_167m_enc",
    "ghostnet_050", "gmlp_ti16_224", "halonet_h1", "hardcorenas_b", "hgnetv2_b0",
    "hiera_tiny_224", "hrnet_w18_small", "iformer_t", "inception_next_atto",
    "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2_small", "legacy_seresnet18",
    "legacy_xception", "levit_128s", "levit_256d", "lowformer_b0", "mobilenetv3_small_050",
    "mobilenetv5_300m_enc", "mobilenetv5_base", "mobilevit_xxs", "mvitv2_tiny",
    "naflexvit_base_patch16_parfac_gap", "nasnetalarge", "nest_tiny", "nextvit_small",
    "pit_ti_224", "pnasnet5large", "poolformerv2_s12", "pvt_v2_b0", "qwen3_vit_88m",
    "qwen3_vit_88m_enc", "rdnet_tiny", "regnetx_002", "repghostnet_050", "repvit_m1",
    "res2next50", "resnest14d", "resnetv2_18", "rexnet_100", "sam2_hiera_tiny",
    "samvit_base_patch16_224", "selecsls42", "sequencer2d_s", "shvit_s1", "skresnet18",
    "starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224",
    "swinv2_tiny_window16_256", "test_byobnet", "test_coatnet", "test_convnext",
    "test_efficientnet", "test_mambaout", "test_nfnet", "test_resnet", "test_vit",
    "test_vit_relpos", "tiny_vit_5m_224", "tnt_s_legacy_patch16_224", "tresnet_m",
    "twins_svt_small", "vgg11", "visformer_tiny", "vit_tiny_patch16_dinov3_qkvb",
    "vit_tiny_r_s16_p8_224", "vitamin_small_224", "volo_d1_224", "xception41p",
    "xcit_nano_12_p8_224",
)  # fmt: skip
# Their heads have more than the last layer that timm's configuration names.
WHOLE_HEADS = (
    "levit_128s", "iformer_t", "repvit_m0_9", "caformer_s18", "efficientvit_m0", "shvit_s1",
    *(["convformer_s18"] if LONG else []),  # of caformer_s18's class
)  # fmt: skip
# Other shapes of heads: two classifiers, a hidden layer that stays, none by default, more than one.
OTHER_HEADS = (
    "deit_tiny_distilled_patch16_224", "mobilenetv3_small_050", "test_vit3",
)  # fmt: skip
MOST_PARAMETERS = 60_000_000


def members():
    """The smallest model of each module that fits into a test."""
    found = {}
    for name in SMALLEST:
        with without_weights():
            size = sum(p.numel() for p in timm.create_model(name).parameters())
        module = _model_to_module[name]
        if size <= MOST_PARAMETERS and size < found.get(module, (size + 1, ""))[0]:
            found[module] = (size, name)
    return sorted(name for _, name in found.values())


def without_head(name):
    """The keys that are left of the whole model when timm has reset its classifier."""
    classes = {} if get_pretrained_cfg(name).num_classes else {"num_classes": 5}
    with without_weights():
        model = timm.create_model(name, **classes)
    whole = set(model.state_dict())
    if hasattr(model, "reset_classifier"):
        with without_weights():
            model.reset_classifier(0)
    return whole, set(model.state_dict())


@pytest.mark.parametrize("name", timm.list_models() if LONG else SMALLEST)
def test_what_is_left_without_the_head_is_what_the_backbone_wants(name):
    whole, left = without_head(name)
    named = find_model(name, None, from_hub=False)
    head = HeadKeys(
        backbone._head_names(named.pretrained_cfg),
        lambda: backbone._dropped_with_head(named, {}),
    )
    with without_weights():
        wanted = set(timm.create_model(name, num_classes=0).state_dict())
    assert wanted == left
    assert not any(head.known(key) for key in wanted)
    if {key for key in whole if not head.known(key)} != wanted:  # timm drops more than it names
        assert {key for key in whole if not head.holds(key)} == wanted
        assert not any(head.holds(key) for key in wanted)


def test_every_module_is_among_them():
    known = {_model_to_module[name] for name in SMALLEST}
    missing = {_model_to_module[name] for name in timm.list_models()} - known
    if missing and not timm.__version__.startswith("1.0.31"):
        pytest.skip(f"this timm has more modules: {', '.join(sorted(missing))}")
    assert not missing


def perturbed(name, **kwargs):
    """The whole model with weights that no initialisation has."""
    generator = torch.Generator().manual_seed(7)
    model = timm.create_model(name, **kwargs).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():  # views of the model's own
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator) - 0.5
                tensor.mul_(1 + 0.2 * noise)
                if not key.endswith("running_var"):
                    tensor.add_(0.01 * noise)
    return model


def check_vectors(name, tmp_path, size=None):
    model = perturbed(name)
    path = tmp_path / "whole.safetensors"
    save_file({key: value.clone() for key, value in model.state_dict().items()}, str(path))
    loaded = load_backbone(BackboneRequest(name, str(path), image_size=size))
    side = loaded.preprocessing.image_size
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        if hasattr(model, "forward_head"):
            expected = model.forward_head(model.forward_features(images), pre_logits=True)
        else:
            expected = model.reset_classifier(0) or model(images)
        found = embed_normalised(loaded.module, images)
    assert torch.isfinite(found).all()
    assert found.shape == (2, loaded.width)
    torch.testing.assert_close(found, expected.reshape(found.shape))
    assert measure(name)["width"] == loaded.width, "what `list` says and a store's width"


@pytest.mark.parametrize("name", WHOLE_HEADS + OTHER_HEADS)
def test_vectors_are_those_that_the_whole_models_head_would_see(name, tmp_path):
    check_vectors(name, tmp_path)


@pytest.mark.skipif(not LONG, reason="make faults")
@pytest.mark.parametrize("name", members() if LONG else [])
def test_vectors_of_every_module(name, tmp_path):
    check_vectors(name, tmp_path)


@pytest.mark.parametrize("name", ["levit_128s", "repvit_m0_9"])
def test_a_key_that_is_neither_the_backbones_nor_the_heads_is_refused(name, tmp_path):
    with without_weights():
        shapes = timm.create_model(name).state_dict()
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}
    head = next(key for key in state if key.startswith("head."))
    last = [key for key in state if key.endswith(".weight") and not key.startswith("head")][-1]
    for change, match in (
        ({"head.other.weight": torch.zeros(1)}, r"1 not in the model: head\.other\.weight"),
        ({head.replace("head.", "heads."): torch.zeros(1)}, "1 not in the model: heads"),
        ({last: None}, "1 missing from the file"),
    ):
        path = tmp_path / "changed.safetensors"
        changed = {key: value for key, value in {**state, **change}.items() if value is not None}
        save_file(changed, str(path))
        with pytest.raises(UserError, match=match):
            load_backbone(BackboneRequest(name, str(path)))
