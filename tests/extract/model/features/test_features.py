"""Every pooling and layer against timm's own way and DINOv2's formula, written out here."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

from data.common.errors import UserError
from extract.commands.witness_features import feature_of_spec
from extract.model.backbone import BackboneRequest, embed_normalised, load_backbone
from extract.model.features.choice import FeatureChoice, choices_of, words_of
from extract.model.features.network import module_of
from extract.model.from_spec import backbone_of_spec

SIZE = 64


def loaded(model, **more):
    return load_backbone(BackboneRequest(model, "random", image_size=SIZE, **more))


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def networks():
    """Small transformers of each kind, made by timm itself."""
    torch.manual_seed(0)
    common = dict(img_size=SIZE, patch_size=16, embed_dim=32, depth=5, num_heads=2, num_classes=0)
    vit = timm.models.vision_transformer.VisionTransformer
    made = {
        "token": vit(**common),
        "registers": vit(**common, reg_tokens=4, init_values=1e-1),  # as DINOv2's
        "fc_norm": vit(**common, global_pool="avg"),
        "no token": vit(**common, class_token=False, global_pool="avg"),
        "attention": vit(**common, class_token=False, global_pool="map"),  # as SigLIP's
        "distilled": timm.models.deit.VisionTransformerDistilled(**common),
        "dinov3": timm.models.eva.Eva(
            **common, num_reg_tokens=4, use_rot_pos_emb=True, use_abs_pos_emb=False,
            global_pool="avg", use_fc_norm=False,
        ),
    }  # fmt: skip
    for network in made.values():
        network.eval().requires_grad_(False)
        for name, parameter in network.named_parameters():
            if "norm" in name or "token" in name:  # as drawn, norms would be the identity
                parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def rows_of(network, words, images):
    choices = choices_of(words)
    with torch.inference_mode():
        return module_of(network, "it", choices, (SIZE, SIZE))(images)


def create_linear_input(x_tokens_list, use_n_blocks, use_avgpool):
    """Word for word what DINOv2's dinov2/eval/linear.py has."""
    intermediate_output = x_tokens_list[-use_n_blocks:]
    output = torch.cat([class_token for _, class_token in intermediate_output], dim=-1)
    if use_avgpool:
        output = torch.cat(
            (output, torch.mean(intermediate_output[-1][0], dim=1)),  # patch tokens
            dim=-1,
        )
        output = output.reshape(output.shape[0], -1)
    return output.float()


@pytest.mark.parametrize("kind", ["token", "registers", "dinov3"])
@pytest.mark.parametrize(
    ("words", "blocks", "avgpool"),
    [
        ("token@last4", 4, False), ("token+avg@last4", 4, True), ("token+avg", 1, True),
        ("token@-1", 1, False), ("token+avg@last2", 2, True), ("token", 1, False),
    ],
)  # fmt: skip
def test_dinos_linear_input(networks, images, kind, words, blocks, avgpool):
    network = networks[kind]
    with torch.inference_mode():
        every = network.get_intermediate_layers(
            images, n=4, return_prefix_tokens=True, norm=True
        ) if hasattr(network, "get_intermediate_layers") else network.forward_intermediates(
            images, 4, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
        )  # fmt: skip
        expected = create_linear_input([(p, t[:, 0]) for p, t in every], blocks, avgpool)
    torch.testing.assert_close(rows_of(network, words, images), expected)


@pytest.mark.parametrize("kind", ["token", "registers", "fc_norm", "dinov3"])
@pytest.mark.parametrize("pool", ["avg", "max", "token"])
def test_a_pool_is_timms(networks, images, kind, pool):
    network = networks[kind]
    own = copy.deepcopy(network)
    own.reset_classifier(0, pool)
    with torch.inference_mode():
        expected = own.eval()(images)
        last = rows_of(network, f"{pool}@-1", images)
    assert torch.equal(rows_of(network, pool, images), expected)
    torch.testing.assert_close(last, expected)  # the norm after pooling included


def test_the_norms_of_a_head_are_where_the_head_has_them(networks, images):
    """Before the pooling, or of networks with ``fc_norm`` after it."""
    network = networks["fc_norm"]
    with torch.inference_mode():
        x = network.forward_intermediates(images, [2], output_fmt="NLC", intermediates_only=True)[0]
        expected = network.fc_norm(x.mean(1))
    torch.testing.assert_close(rows_of(network, "avg@-3", images), expected)
    network = networks["token"]
    with torch.inference_mode():
        x = network.forward_intermediates(images, [2], output_fmt="NLC", intermediates_only=True)[0]
        expected = network.norm(x).mean(1)
    torch.testing.assert_close(rows_of(network, "avg@-3", images), expected)


def test_a_distilled_network_has_two_tokens(networks, images):
    """timm's head gives their mean whatever it is told; of other poolings the last layer is."""
    network = networks["distilled"]
    with torch.inference_mode():
        tokens = network.forward_features(images)
        assert torch.equal(rows_of(network, "default", images), network(images))
    expected = {
        "token@-1": tokens[:, 0], "avg@-1": tokens[:, 2:].mean(1), "max@-1": tokens[:, 2:].amax(1),
        "default@-1": tokens[:, :2].mean(1),
        "token+avg@-1": torch.cat([tokens[:, 0], tokens[:, 2:].mean(1)], 1),
    }  # fmt: skip
    for words, vectors in expected.items():
        torch.testing.assert_close(rows_of(network, words, images), vectors)
    made = loaded("deit_tiny_distilled_patch16_224", pool="token")
    assert made.choices == (FeatureChoice("token", "-1"),)


def test_rows_of_a_distilled_network_from_before_are_made_as_then():
    """Earlier versions took the default for whatever was asked for."""
    model = "deit_tiny_distilled_patch16_224"
    made = loaded(model)
    spec = {
        "model": made.model_spec(), "preprocessing": made.preprocessing.to_spec(), "pool": "token",
        "seed": 0,
    }  # fmt: skip
    assert backbone_of_spec(spec, None).choices == (FeatureChoice(),)
    assert backbone_of_spec({**spec, "layer": "-1"}, None).choices == (
        FeatureChoice("token", "-1"),
    )


def test_attention_pooling_is_the_default_alone(networks, images):
    network = networks["attention"]
    with torch.inference_mode():
        tokens = network.forward_features(images)
        assert torch.equal(rows_of(network, "default", images), network.attn_pool(tokens))
    expected = {"avg": tokens.mean(1), "default@-1": tokens.mean(1), "max@-1": tokens.amax(1)}
    for words, vectors in expected.items():
        torch.testing.assert_close(rows_of(network, words, images), vectors)


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_layers_of_convolutions_are_averaged(images, model):
    made = loaded(model)
    network = made.network
    with torch.inference_mode():
        maps = timm.create_model(model, features_only=True)  # has as many as there are layers
        every = network.forward_intermediates(images, norm=True, intermediates_only=True)
    assert len(every) == len(maps.feature_info)
    for words, expected in {
        "avg@-1": every[-1].mean((2, 3)), "default@-2": every[-2].mean((2, 3)),
        "max@-3": every[-3].amax((2, 3)),
        "avg@last2": torch.cat([one.mean((2, 3)) for one in every[-2:]], 1),
    }.items():  # fmt: skip
        torch.testing.assert_close(rows_of(network, words, images), expected)
    own = copy.deepcopy(network)
    own.reset_classifier(0, "max")
    with torch.inference_mode():
        torch.testing.assert_close(rows_of(network, "max", images), own.eval()(images))


ALL = {
    "token": "default avg max token token+avg avg@-1 default@-2 token@last2 token+avg@last4 max@-5",
    "registers": "token default token+avg@last3 avg@last2 token+avg",
    "fc_norm": "default token token+avg avg@-1 token@-2 token+avg@last2",
    "no token": "default max avg@-2 max@last2",
    "attention": "default avg max avg@-1",
    "distilled": "default token@-1 avg@-1 default@-2 token+avg@last2",
    "dinov3": "default token avg token+avg avg@-3 token+avg@last4",
}


@pytest.mark.parametrize("kind", ALL)
def test_several_in_one_pass_are_each_alone_and_the_witnesss(networks, images, kind):
    network, words = networks[kind], ALL[kind]
    module = module_of(network, "it", choices_of(words), (SIZE, SIZE))
    runs = []
    network.blocks[0].register_forward_hook(lambda *_: runs.append(1))
    with torch.inference_mode():
        together = module.vectors(images)
        assert len(runs) == 1, "one pass over the network"
        assert torch.equal(module(images), torch.cat(together, 1))
        for choice, rows in zip(choices_of(words), together, strict=True):
            assert torch.equal(rows_of(network, choice.word, images), rows)
            spec = {"pool": choice.pool, "model": {"name": "it"}}
            spec |= {} if choice.layer is None else {"layer": choice.layer}
            torch.testing.assert_close(feature_of_spec(network, spec)(images), rows)


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_mambaout"])
def test_several_of_convolutions(images, model):
    base = loaded(model)
    made = base.giving(choices_of("default avg max avg@-1 max@-2 avg@last2"))
    with torch.inference_mode():
        rows = embed_normalised(made.module, images)
        for choice in made.choices:
            one = embed_normalised(base.giving([choice]).module, images)
            assert torch.equal(rows[:, made.columns(choice)], one)
            spec = {"pool": choice.pool, "model": {"name": "it"}}
            spec |= {} if choice.layer is None else {"layer": choice.layer}
            torch.testing.assert_close(feature_of_spec(made.network, spec)(images), one)
    parameters = {id(p) for p in made.module.parameters()}
    assert parameters == {id(p) for p in base.network.parameters()}, "weights are shared"


def test_a_head_that_does_not_do_as_told_is_refused():
    """A pooling is believed when it is proven on an image's features, not when it is accepted."""

    class Deaf(torch.nn.Module):
        num_prefix_tokens = 1

        def forward_features(self, images):
            return images.flatten(2)[:, :, :9].transpose(1, 2)

        def forward_head(self, x, pre_logits=False):
            return x[:, 0]

        def reset_classifier(self, num_classes, global_pool=None):
            self.global_pool = global_pool

    with pytest.raises(UserError, match=r"--pool avg: it cannot give it.*default, token; give"):
        module_of(Deaf(), "it", [FeatureChoice("avg")], (8, 8))


@pytest.mark.parametrize(
    ("model", "asked", "said"),
    [
        ("test_resnet", {"pool": "token"}, "no class token.*default, avg, max"),
        ("test_resnet", {"pool": "token", "layer": -1}, "--pool token --layer -1.*no class token"),
        ("test_vit", {"layer": "-7"}, r"--layer -7: test_vit has 6 layers; give -1 to -6"),
        ("test_vit", {"layer": "last9"}, "has 6 layers"),
        ("test_vit", {"layer": "0"}, "--layer 0: give -1 for the last"),
        ("test_vit", {"layer": "last"}, "--layer last: give -1"),
        ("test_vit", {"pool": "maxx"}, r"--pool maxx: there is no such pooling; give one of default,.*did you mean max"),
        ("pixels", {"layer": -1}, "--layer -1: pixels has no layers to choose from"),
        ("pixels", {"pool": "avg"}, "--pool avg: pixels cannot give it.*supports only default"),
        ("mixer_s32_224", {"pool": "max"}, "or --layer -1 --pool max"),
    ],
)
def test_what_a_network_cannot_give(model, asked, said):
    weights = "hub" if model == "pixels" else "random"
    size = 224 if model.startswith("mixer") else SIZE
    with pytest.raises(UserError, match=rf"(?s){said}"):
        load_backbone(BackboneRequest(model, weights, image_size=size, **asked))


def test_layers_without_a_norm_for_them_are_as_they_come(images):
    """Hiera's head has the only norm; timm refuses to apply it, and says so."""
    network = timm.models.hiera.Hiera(
        img_size=(SIZE, SIZE), embed_dim=16, num_heads=1, stages=(1, 1, 1, 1), num_classes=0
    ).eval()
    with torch.inference_mode():
        every = network.forward_intermediates(images, norm=False, intermediates_only=True)
    torch.testing.assert_close(rows_of(network, "avg@-1", images), every[-1].mean((2, 3)))


def test_words():
    words = "default avg@-2 token+avg@last4"
    assert words_of(choices_of(words)) == words
    assert choices_of(words)[2] == FeatureChoice("token+avg", "last4")
    assert FeatureChoice("avg", "-2").indices(12) == [10]
    assert FeatureChoice("avg", "last2").indices(12) == [10, 11]
