"""Files of weights as training scripts leave them: prefixes, wrappers, other input sizes."""

from __future__ import annotations

import argparse
import datetime
import threading

import pytest
import timm
import torch
from safetensors.torch import save_file

from data.common.errors import UserError
from extract.model.backbone import BackboneRequest, embed_normalised, load_backbone
from extract.model.outline import without_weights

MODEL = "test_resnet"


@pytest.fixture(scope="module")
def whole():
    """A whole model, and its tensors."""
    torch.manual_seed(3)
    model = timm.create_model(MODEL).eval()
    return model, {key: value.clone() for key, value in model.state_dict().items()}


def other(state):
    """The tensors of another training run."""
    return {key: value * 2 for key, value in state.items()}


def renamed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def load(path, model=MODEL, **kwargs):
    return load_backbone(BackboneRequest(model, str(path), image_size=64, **kwargs))


def same_vectors(loaded, model):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(embed_normalised(loaded.module, images), expected)


@pytest.fixture
def plain(whole, tmp_path):
    """The digest that the same weights have in a plain safetensors file."""
    save_file(whole[1], str(tmp_path / "plain.safetensors"))
    return load(tmp_path / "plain.safetensors").digest


@pytest.mark.parametrize(
    "prefix",
    [
        "model.", "backbone.", "encoder.", "student.", "teacher.", "module.", "_orig_mod.",
        "teacher.backbone.", "module.encoder_q.", "model._orig_mod.", "visual.trunk.", "a.b.c.d.",
    ],
)  # fmt: skip
def test_a_prefix_is_stripped_and_said(whole, plain, tmp_path, capsys, prefix):
    model, state = whole
    save_file(renamed(state, prefix), str(tmp_path / "w.safetensors"))
    loaded = load(tmp_path / "w.safetensors")
    said = capsys.readouterr().err
    assert f"w.safetensors: '{prefix}' is stripped" in said
    same_vectors(loaded, model)
    assert loaded.digest == plain, "the same weights have the same key"


def test_a_file_that_fits_is_read_as_it_is_without_a_word(whole, plain, capsys):
    assert plain
    assert capsys.readouterr().err == ""


def test_a_head_beside_the_prefix_belongs_to_the_classifier(whole, plain, tmp_path):
    model, state = whole
    backbone = {key: value for key, value in state.items() if not key.startswith("fc.")}
    content = {**renamed(backbone, "backbone."), "fc.weight": torch.zeros(3, 512)}
    save_file(content, str(tmp_path / "w.safetensors"))
    loaded = load(tmp_path / "w.safetensors")
    same_vectors(loaded, model)
    assert loaded.digest == plain


def test_a_prefix_of_part_of_the_names_is_no_prefix(whole, tmp_path):
    _, state = whole
    content = {**renamed(state, "model."), "criterion.weight": torch.zeros(2)}
    save_file(content, str(tmp_path / "w.safetensors"))
    with pytest.raises(UserError, match=r"1 not in the model: criterion\.weight"):
        load(tmp_path / "w.safetensors")


def test_two_networks_in_one_file_are_not_guessed_between(whole, tmp_path):
    _, state = whole
    content = {**renamed(state, "student."), **renamed(other(state), "teacher.")}
    save_file(content, str(tmp_path / "w.safetensors"))
    with pytest.raises(UserError, match=r"several networks.*'student', 'teacher'"):
        load(tmp_path / "w.safetensors")
    dino = {"student": renamed(state, "backbone."), "teacher": renamed(other(state), "backbone.")}
    torch.save(dino, tmp_path / "dino.pth")
    with pytest.raises(UserError, match=r"several networks.*'student.backbone', 'teacher.back"):
        load(tmp_path / "dino.pth")


WRAPPERS = {
    "none": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
    "teacher": lambda state: {"teacher": renamed(state, "backbone."), "center": torch.zeros(1)},
    "module": lambda state: {"module": state},
    "network.weights": lambda state: {"network": {"weights": state}},
    "state_dict, with a prefix": lambda state: {"state_dict": renamed(state, "module.model.")},
    "model_ema": lambda state: {"model": other(state), "model_ema": state},
    "state_dict_ema": lambda state: {
        "state_dict": other(state), "state_dict_ema": renamed(state, "module."),
    },
    "averaged": lambda state: {"n_averaged": torch.tensor(3), **renamed(state, "module.")},
    "with its optimizer": lambda state: {
        "model": state,
        "optimizer": {"state": {0: {"exp_avg": state["fc.weight"]}}, "param_groups": [{"lr": 1}]},
    },
}  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRAPPERS)), ids=list(WRAPPERS))
def test_pickles_are_unwrapped(whole, plain, tmp_path, capsys, number):
    model, state = whole
    wrapper = list(WRAPPERS)[number]
    path = tmp_path / f"w.{('pth', 'pt', 'bin', 'pth.tar')[number % 4]}"
    torch.save(WRAPPERS[wrapper](state), path)
    loaded = load(path)
    assert loaded.digest == plain
    same_vectors(loaded, model)
    said = capsys.readouterr().err
    assert ("are taken" in said) == (wrapper not in ("none", "averaged"))
    assert ("averaged weights, as timm does" in said) == ("ema" in wrapper)


def test_the_pickles_of_torch_before_1_6(whole, plain, tmp_path):
    torch.save(whole[1], tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert load(tmp_path / "w.pth").digest == plain


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        lambda state: {"model": state, "evil": Evil()},
        lambda state: {**state, "when": datetime.timedelta(3)},
        lambda state: timm.create_model(MODEL),
    ],
)
def test_a_pickle_with_more_than_tensors_is_refused_and_not_run(whole, tmp_path, content, legacy):
    path = tmp_path / "w.pth"
    torch.save(content(whole[1]), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"w\.pth: refused.*weights_only=True.*\n.*safetensors"):
        load(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3), {}])
def test_a_pickle_without_named_tensors(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: holds no tensors by name"):
        load(tmp_path / "w.pth")


def test_a_cut_pickle(whole, tmp_path):
    torch.save(whole[1], tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"w\.pth: cannot be read as a file of torch.save"):
        load(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "best.pth"])
def test_a_folder_of_weights(whole, plain, tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "README.md").write_text("a model")
    with pytest.raises(UserError, match=r"the folder holds no weights; expected model.safetensors"):
        load(folder)
    writer = save_file if name.endswith("tensors") else torch.save
    writer(whole[1], str(folder / name))
    loaded = load(folder)
    assert loaded.digest == plain
    assert loaded.source.path == (folder / name).resolve()
    torch.save(other(whole[1]), folder / "last.pth")
    if name == "best.pth":
        with pytest.raises(UserError, match=r"the folder holds best.pth, last.pth"):
            load(folder)
    else:
        assert load(folder).digest == plain


@pytest.mark.parametrize(
    ("model", "made_for", "asked"),
    [
        ("cait_xxs24_224", 224, 128), ("convit_tiny", 224, 128), ("volo_d1_224", 224, 128),
        ("pit_ti_224", 224, 128), ("hiera_tiny_224", 224, 128), ("nest_tiny", 224, 112),
        ("gcvit_xxtiny", 224, 192), ("mixer_s32_224", 224, 128), ("visformer_tiny", 224, 128),
        # Weights of somebody's own, for a size that no configuration names.
        ("convit_tiny", 304, 224), ("pit_ti_224", 176, 224),
    ],
)  # fmt: skip
def test_weights_for_another_input_size_name_it(tmp_path, model, made_for, asked):
    with without_weights():
        shapes = timm.create_model(model, img_size=made_for).state_dict()
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}
    path = tmp_path / "w.safetensors"
    save_file(state, str(path))
    with pytest.raises(UserError, match=f"{asked}x{asked}(?s:.)*--image-size {made_for}$") as found:
        load_backbone(BackboneRequest(model, str(path), image_size=asked))
    assert "--model" not in str(found.value)


def test_weights_of_another_model_are_not_blamed_on_the_size(tmp_path):
    with without_weights():
        shapes = timm.create_model("pit_xs_224").state_dict()
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}
    save_file(state, str(tmp_path / "w.safetensors"))
    with pytest.raises(UserError, match="Give the --model") as found:
        load_backbone(BackboneRequest("pit_ti_224", str(tmp_path / "w.safetensors")))
    assert "--image-size" not in str(found.value)


def test_loading_changes_nothing_in_torch_or_timm(whole, tmp_path):
    """Not in the end, nor for the loads of other threads meanwhile."""
    from timm.models import _builder

    before = torch.nn.Module.load_state_dict, _builder.load_pretrained
    save_file(renamed(whole[1], "x."), str(tmp_path / "w.safetensors"))
    save_file({"a": torch.zeros(1)}, str(tmp_path / "bad.safetensors"))
    problems = []

    def work(name):
        try:
            for _ in range(3):
                load(tmp_path / name)
        except UserError as error:
            problems.append(str(error))

    threads = [
        threading.Thread(target=work, args=(f"{name}.safetensors",))
        for name in ("w", "bad", "w", "bad")
    ]
    for thread in threads:
        thread.start()
    seen = set()
    wrong = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1), "other": torch.zeros(1)}
    while any(thread.is_alive() for thread in threads):
        seen.add(torch.nn.Module.load_state_dict)
        with pytest.raises(RuntimeError, match="Unexpected key"):
            torch.nn.Linear(1, 1).load_state_dict(wrong)
    for thread in threads:
        thread.join()
    assert len(problems) == 2
    assert seen <= {before[0]}
    assert before == (torch.nn.Module.load_state_dict, _builder.load_pretrained)
