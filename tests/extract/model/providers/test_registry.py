"""Which provider a name belongs to, and what is said where its library is not installed."""

from __future__ import annotations

import importlib.util

import pytest

from data.common.errors import UserError
from extract.model.providers.registry import (
    check_name,
    files_of,
    in_folder,
    portable_name,
    provider_of,
    versions_of,
)

NAMES = {
    "resnet18": None,
    "vit_base_patch14_reg4_dinov2.lvd142m": None,
    "hf-hub:timm/x": None,
    "hf_hub:x": None,  # timm's other spelling, which might be a factory's
    "local-dir:folder": None,
    "local_dir:folder": None,
    "pixels": None,
    "open_clip:ViT-B-32/openai": "open_clip",
    "open_clip:local-dir:/a/b": "open_clip",
    "transformers:facebook/x": "transformers",
    "transformers:/a/b": "transformers",
    "module:factory": "factory",
    "package.module:factory": "factory",
    "package.module:not-a-name": None,
    "package/module:factory": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    found = provider_of(name)
    assert (found and found.name) == NAMES[name]


def test_names_hold_no_folder(tmp_path):
    (tmp_path / "m").mkdir()
    assert portable_name(f"transformers:{tmp_path}/m") == "transformers:m"
    assert portable_name(f"open_clip:local-dir:{tmp_path}/m") == "open_clip:local-dir:m"
    assert portable_name(f"local-dir:{tmp_path}/m") == "local-dir:m"
    assert portable_name("transformers:me/m@main") == "transformers:me/m@main"
    folders = [f"transformers:{tmp_path}/m", f"open_clip:local-dir:{tmp_path}/m"]
    assert all(in_folder(name) for name in [*folders, f"local-dir:{tmp_path}"])
    assert not any(map(in_folder, ["transformers:me/m", "open_clip:a/b", "a:b", "resnet18"]))


def test_files_are_listed_without_a_library(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "1.safetensors"}}'
    )
    parts = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    for part in parts:
        part.touch()
    found = files_of(f"transformers:{tmp_path}", "hub")
    index = tmp_path / "model.safetensors.index.json"
    assert found == [tmp_path / "config.json", index, *parts]
    assert files_of("transformers:me/m", "hub") == []
    assert versions_of("resnet18") == versions_of("module:factory") == {}


@pytest.mark.parametrize("extra", ["open_clip", "transformers"])
def test_an_extra_that_is_not_installed(call, refused, monkeypatch, tmp_path, extra):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == extra else real(name)
    )
    model = f"{extra}:me/model"
    with pytest.raises(UserError, match="is not installed"):
        check_name(model, "random")
    words = ("--dataset=digits", f"--features-dir={tmp_path}", f"--model={model}")
    install = f"[{extra}]', or give a model of timm"
    refused(call(*words), f"--model {model}", install)
    refused(call("list", f"{extra}:*"), install)
