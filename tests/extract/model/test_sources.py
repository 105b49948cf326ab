"""``local-dir:FOLDER`` and ``hf-hub:NAME``, with what timm's own `save_for_hf` writes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from warm_processes import run_warm

from classify.__main__ import main as classify_main
from data import open_features
from data.common.cli import run
from data.reading import read_header
from extract.model.backbone import BackboneRequest, embed_normalised, load_backbone

ROOT = Path(__file__).parents[3]
JOB = ("--dataset", "digits", "--limit", "40", "--batch-size", "16", "--engine", "torch")
JOB = (*JOB, "--image-size", "64", "--jobs", "1")


def save(folder, *, safe=True, seed=3, model="test_vit", **kwargs):
    """Write a model as timm does; an odd mean shows whose configuration is followed."""
    torch.manual_seed(seed)
    whole = timm.create_model(model, num_classes=7, **kwargs).eval()
    data_config = {"mean": (0.25, 0.5, 0.75), "crop_pct": 0.9}
    save_for_hf(whole, str(folder), safe_serialization=safe, data_config=data_config)
    return whole


def expected_rows(folder, images):
    """The embedding by timm alone: its factory for such folders, and its transform."""
    from timm.data import create_transform, resolve_data_config

    whole = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = resolve_data_config({"input_size": (3, 64, 64)}, model=whole)
    transform = create_transform(**config, is_training=False)
    batch = torch.stack([transform(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        return whole.forward_head(whole.forward_features(batch), pre_logits=True).numpy()


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_a_folder_from_extract_to_predict(call, tmp_path, safe):
    folder = tmp_path / "my model, v1"
    save(folder, safe=safe, class_token=False, global_pool="avg")
    words = (*JOB, "--model", f"local-dir:{folder}", "--features-dir", tmp_path / "f")
    made = call(*words)
    assert made.code == 0, made.err
    path = Path(made.path)
    header = read_header(path)
    assert path.name == f"local-dir-my-model-v1-64px-{header.key[:8]}.h5"
    model = header.spec["model"]
    assert model["name"] == "local-dir:my model, v1", "no folder of this machine is in the spec"
    assert model["args"] == {}
    assert model["weights"]["source"] == "file"
    assert model["config"]["architecture"] == "test_vit"
    saved = {"class_token": False, "global_pool": "avg"}.items()
    assert saved <= model["config"]["args"].items()
    assert header.spec["preprocessing"]["mean"] == [0.25, 0.5, 0.75]

    from data.dataset import load_dataset
    from data.images.arrays import ArrayImages

    images = load_dataset("digits", data_dir=tmp_path, limit=40).train.images
    assert isinstance(images, ArrayImages)
    rows = expected_rows(folder, images.rows(0, 4))
    found = open_features(path).train.features[:4]
    cosine = (found * rows).sum(axis=1)
    cosine /= np.linalg.norm(found, axis=1) * np.linalg.norm(rows, axis=1)
    assert cosine.min() > 0.99999

    again = call(*words)
    assert "found" in again.err, "the same folder again needs no model"
    verified = call("verify", path)
    assert verified.code == 0
    assert "16 rows embedded again" in verified.err

    # The same model elsewhere has the same key; other weights or another configuration have not.
    moved = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, moved)
    other = ("--model", f"local-dir:{moved}")
    assert call(*words, *other).path == made.path
    config = json.loads((moved / "config.json").read_text())
    config["pretrained_cfg"]["std"] = [0.3, 0.3, 0.3]
    (moved / "config.json").write_text(json.dumps(config))
    changed = call(*words, *other)
    assert changed.path != made.path
    save(moved, safe=safe, seed=4, class_token=False, global_pool="avg")
    assert call(*words, *other).path not in (made.path, changed.path)


def test_heads_of_a_folders_model_predict(
    call, tmp_path, capsys, warm_stage_one, unwritten_figures
):
    folder = tmp_path / "mine"
    save(folder, model="test_efficientnet")
    made = call(*JOB, "--model", f"local-dir:{folder}", "--features-dir", tmp_path / "f")
    reports, image = tmp_path / "r", tmp_path / "1.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(image)
    (folder / "config.json").unlink()  # the head's spec has what is needed of it

    def classify(*words):
        capsys.readouterr()
        assert run(classify_main, [*map(str, words)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out.strip().splitlines()[-1]

    fit = ("fit", made.path, "--strategy=ovr", "--c=1", "--jobs=1", f"--reports-dir={reports}")
    classify(*fit, "--no-few-shot")
    (head,) = reports.rglob("ovr.safetensors")
    assert "1.png" in classify("predict", head, image, "--csv", "--device=cpu")


def test_a_size_that_was_saved_with_the_model_is_its_own(tmp_path):
    whole = save(tmp_path, model="vit_tiny_patch16_224", img_size=96)
    loaded = load_backbone(BackboneRequest(f"local-dir:{tmp_path}"))
    assert loaded.preprocessing.image_size == 96
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        rows = whole.forward_head(whole.forward_features(images), pre_logits=True)
    torch.testing.assert_close(embed_normalised(loaded.module, images), rows)
    assert load_backbone(BackboneRequest(f"local-dir:{tmp_path}", image_size=64)).width == 192


def test_other_weights_for_a_folders_configuration(tmp_path):
    save(tmp_path / "a")
    save(tmp_path / "b", seed=5)
    own = load_backbone(BackboneRequest(f"local-dir:{tmp_path}/a"))
    given = load_backbone(BackboneRequest(f"local-dir:{tmp_path}/a", str(tmp_path / "b")))
    other = load_backbone(BackboneRequest(f"local-dir:{tmp_path}/b"))
    assert given.digest == other.digest != own.digest
    random = load_backbone(BackboneRequest(f"local-dir:{tmp_path}/a", "random"))
    assert random.source.source == "random"
    assert random.digest == load_backbone(BackboneRequest("test_vit", "random")).digest


BAD = {
    "no JSON": ("{", "not a configuration that timm has written"),
    "a list": ("[]", "not a configuration that timm has written"),
    "another library's": ('{"architectures": ["ViTModel"], "model_type": "vit"}', "configuration"),
    "unknown": ('{"architecture": "test_vti", "pretrained_cfg": {}}', "no architecture 'test_vti'"),
    "newer": ('{"architecture": "test_vit", "pretrained_cfg": {"x": 1}}', "does not know x"),
    "a size": ('{"architecture": "test_vit", "pretrained_cfg": {"input_size": 5}}', "a list"),
    "sizes": (
        '{"architecture": "test_vit", "pretrained_cfg": {"input_size": [3, 1]}}',
        "three num",
    ),
    "a mean": (
        '{"architecture": "test_vit", "pretrained_cfg": {"mean": ["a", 1, 2]}}',
        "three num",
    ),
    "arguments": ('{"architecture": "test_vit", "pretrained_cfg": {}, "model_args": [1]}', "conf"),
    "a pickle by the back door": (
        '{"architecture": "test_vit", "pretrained_cfg": {},'
        ' "model_args": {"checkpoint_path": "p"}}',
        "checkpoint_path: not an argument",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_timm_has_not_written(call, refused, tmp_path, name):
    text, message = BAD[name]
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text(text)
    torch.save({"a": torch.zeros(1)}, tmp_path / "m/pytorch_model.bin")
    done = call(*JOB, "--model", f"local-dir:{tmp_path}/m", "--features-dir", tmp_path / "f")
    refused(done, "config.json", message)


@pytest.mark.parametrize(
    ("error", "said"),
    [("GatedRepoError", "me/closed is gated"), ("RepositoryNotFoundError", "no repository me/clo")],
)
def test_a_repository_that_is_closed(call, refused, tmp_path, monkeypatch, error, said):
    import huggingface_hub

    from extract.model import weights

    def refuse(*_, **__):
        kind = getattr(huggingface_hub.errors, error)
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(weights, "_check_reachable", lambda *_: None)
    done = call(*JOB, "--model", "hf-hub:me/closed", "--features-dir", tmp_path / "f")
    refused(done, "--model hf-hub:me/closed", said, "hf auth login (or set HF_TOKEN)")


def test_a_folder_without_weights(call, refused, tmp_path):
    save(tmp_path / "m")
    (tmp_path / "m/model.safetensors").unlink()
    done = call(*JOB, "--model", f"local-dir:{tmp_path}/m", "--features-dir", tmp_path / "f")
    refused(done, tmp_path / "m", "holds no weights", "model.safetensors")


class Hub(SimpleHTTPRequestHandler):
    """As much of the hub as a download needs: /OWNER/NAME/resolve/REVISION/FILE."""

    def translate_path(self, path):
        owner, name, _, _, *rest = path.strip("/").split("/")
        return str(Path(self.directory, owner, name, *rest))

    def send_head(self):
        if "/resolve/" in self.path and not Path(self.translate_path(self.path)).is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return None
        return super().send_head() if "/resolve/" in self.path else self.send_error(404)

    def end_headers(self):
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{abs(hash(self.path)):x}"')
        super().end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=str(tmp_path / "hub")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


ONE_AFTER_THE_OTHER = """
import json, sys
from data.common.cli import run
from extract.__main__ import main
print([run(main, words) for words in json.loads(sys.argv[1])])
"""


# The pickle also has timm's first choice refused, which `make faults` sees found.
@pytest.mark.parametrize("safe", [False, True] if os.environ.get("ICEBOX_FAULTS") else [False])
def test_a_repository_of_the_hub(tmp_path, hub, safe):
    """In processes of their own, because the cache's place is read when the hub is imported."""
    save(tmp_path / "hub/me/my-model", safe=safe)
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "cache"),
    }  # fmt: skip
    environment.pop("HF_HUB_OFFLINE", None)

    def extract(*names, **more):
        """Run stage one on one model after the other, in one process; returns their exit codes."""
        to = tmp_path / more.pop("to", "f")
        lines = [[*JOB, "--model", name, "--features-dir", str(to)] for name in names]
        done = run_warm(
            [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(lines)],
            capture_output=True, text=True, env={**environment, **more}, cwd=ROOT, check=True,
        )  # fmt: skip
        *printed, codes = done.stdout.splitlines()
        return printed, json.loads(codes), done.stderr

    (made,), codes, said = extract("hf-hub:me/my-model", "hf-hub:me/none")
    assert codes == [0, 2], said
    path = Path(made)
    header = read_header(path)
    assert path.name == f"hf-hub-me-my-model-64px-{header.key[:8]}.h5"
    assert header.spec["model"]["name"] == "hf-hub:me/my-model"
    assert header.spec["model"]["weights"]["source"] == "hub"
    assert header.provenance["weights_origin"] == f"me/my-model@{'c' * 40}"
    folder = load_backbone(BackboneRequest(f"local-dir:{tmp_path}/hub/me/my-model"))
    assert header.spec["model"]["weights"]["digest"] == folder.digest
    # From the cache, without a network.
    (found,), codes, offline = extract("hf-hub:me/my-model", HF_HUB_OFFLINE="1", to="g")
    assert codes == [0], offline
    assert Path(found).name == path.name
    assert "hf-hub:me/none" in said
    assert "Traceback" not in said
