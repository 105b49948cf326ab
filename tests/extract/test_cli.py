"""The command line: bad input, the fast path, why, verify, images, list."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from data.common.cli import Parser
from data.common.errors import UserError
from data.reading import open_features, read_header
from extract.options import Options, add_options, to_options

ROOT = Path(__file__).parents[2]


def parsed(*argv) -> Options:
    parser = Parser(prog="extract")
    add_options(parser, run=True)
    return to_options(parser.parse_args(argv))


def test_the_default_model_is_made_for_224_pixels():
    assert parsed().model == "vit_base_patch14_reg4_dinov2.lvd142m"
    assert parsed().image_size == 224
    assert parsed("--image-size", "98").image_size == 98
    assert parsed("--model", "resnet18").image_size is None


def test_timms_spellings():
    assert parsed("-b", "8", "--img-size", "64", "--gp", "avg") == parsed(
        "--batch-size", "8", "--image-size", "64", "--pool", "avg"
    )
    assert parsed("--amp-dtype", "bfloat16").precision == "bf16"
    assert parsed("--mean", "0.5", "0.4", "0.3") == parsed("--mean", "0.5,0.4,0.3")
    assert parsed("--std", "0.5").std == (0.5, 0.5, 0.5)
    assert parsed("--batch-size", "auto").batch_size is None
    arguments = ("--model-arg", "a=1", "b=same", "--model-kwargs", "c=False", "d=(1,2)")
    assert parsed(*arguments).model_args == {"a": 1, "b": "same", "c": False, "d": [1, 2]}


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("--dataset", "cifar1"), ["cifar10"]),
        (("--dataset", "digits", "--model", "resnet81"), ["resnet18", "list"]),
        (("--dataset", "digits", "--weights", "none.safetensors"), ["none.safetensors"]),
        (("--limit", "0"), ["--limit"]),
        (("--dataset", "digits", "--limit", "3"), ["--limit 3"]),
        (("--batch-size", "many"), ["many", "whole number"]),
        (("--image-size", "-4"), ["-4"]),
        (("--precision", "fp8"), ["fp16", "bf16"]),
        (("--std", "0,1,1"), ["--std", "positive"]),
        (("--amp-dtype", "float16", "--precision", "bf16"), ["--amp-dtype"]),
        (("--modle", "resnet18"), ["--model"]),
        (("lst",), ["list"]),
        (("list", "mobilnetv2_100"), ["mobilenetv2_100"]),
        (("verify", "absent.h5"), ["absent.h5"]),
        (("images", "--spec", "absent.json", "--out", "x.npy", "a.png"), ["absent.json"]),
    ],
)
def test_bad_input(call, argv, named, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    word = argv[:1] if not argv[0].startswith("-") else ()
    dataset = ("--dataset", "digits") if not word and "--dataset" not in argv else ()
    weights = ("--weights", "random") if not word and "--weights" not in argv else ()
    refused(call(*argv, *dataset, *weights), *named)
    assert not word or not list(tmp_path.iterdir()), "nothing is created"


def test_a_folder_that_cannot_be_written_is_known_before_the_model(
    call, tmp_path, refused, small_job
):
    (tmp_path / "file").write_text("in the way")
    done = call(*small_job, "--features-dir", tmp_path / "file" / "features")
    refused(done, tmp_path / "file")
    assert "loading" not in done.err


def test_a_broken_dataset_is_known_before_the_model(call, tmp_path, refused, small_job):
    (tmp_path / "pictures" / "train" / "cats").mkdir(parents=True)
    (tmp_path / "pictures" / "test" / "cats").mkdir(parents=True)
    for split in ("train", "test"):
        Image.new("RGB", (9, 9)).save(tmp_path / "pictures" / split / "cats" / "a.png")
    done = call(*small_job, "--dataset", tmp_path / "pictures", "--features-dir", tmp_path / "f")
    refused(done, "class")
    assert "loading" not in done.err


def test_weights_that_do_not_fit_keep_an_existing_store(small, tmp_path, refused):
    store = small().path
    wrong = tmp_path / "wrong.safetensors"
    save_file({"some.weight": torch.ones(3)}, str(wrong))
    done = small("--weights", wrong)
    refused(done, "wrong.safetensors does not fit test_efficientnet", "some.weight")
    assert Path(store).is_file()


def test_a_network_that_gives_nan_is_refused(small, features, tmp_path, refused):
    state = timm.create_model("test_efficientnet", num_classes=0).state_dict()
    state["conv_head.weight"] = torch.full_like(state["conv_head.weight"], torch.nan)
    save_file(state, str(tmp_path / "nan.safetensors"))
    refused(small("--weights", tmp_path / "nan.safetensors"), "NaN", "--precision")
    assert not list(features.glob("*/*.h5"))


def test_a_cached_store_is_found_without_anything_heavy(small, features, small_job):
    small()
    code = (
        "import sys; from data.common.cli import run; from extract.__main__ import main;"
        "code = run(main, sys.argv[1:]);"
        "heavy = {'torch', 'timm', 'sklearn', 'scipy', 'PIL', 'pandas', 'tqdm', 'pooch'};"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules})); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *small_job, "--features-dir", str(features)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    seconds = time.perf_counter() - start
    assert done.stdout.splitlines()[-1] == "[]"
    assert "found" in done.stderr
    assert seconds < 5  # half a second on a quiet machine
    why = subprocess.run(
        [*command[:3], "why", *command[3:], "--seed", "3"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert why.stdout.splitlines()[-1] == "[]"
    assert "--seed" in why.stderr


def saved_weights(path, seed=0):
    torch.manual_seed(seed)
    save_file(timm.create_model("test_efficientnet", num_classes=0).state_dict(), str(path))
    return path


def test_a_weights_file_that_was_moved_or_touched_is_still_the_same(small, tmp_path):
    weights = saved_weights(tmp_path / "a.safetensors")
    first = small("--weights", weights)
    assert first.code == 0, first.err
    moved = weights.rename(tmp_path / "b.safetensors")
    os.utime(moved)
    again = small("--weights", moved)
    assert again.path == first.path
    assert "loading" not in again.err
    saved_weights(moved, seed=1)
    assert small("--weights", moved).path != first.path


def test_why(small, tmp_path):
    assert "no store" in small(word=["why"]).err
    first = small()
    found = small(word=["why"])
    assert found.path == first.path
    assert found.code == 0
    other = small("--image-size", "48", "--model", "test_resnet", word=["why"])
    assert other.code == 0
    assert other.out == ""
    rows = [line.split() for line in other.err.splitlines() if line.startswith("  --")]
    assert rows == [["--model", "test_resnet", "test_efficientnet"], ["--image-size", "48", "32"]]


def test_verify(call, small, tmp_path, refused):
    store = small().path
    done = call("verify", store)
    assert done.code == 0, done.err
    assert done.out.strip() == store
    assert "16 rows embedded again" in done.err
    assert "/train/features" in done.err
    content = bytearray(Path(store).read_bytes())
    content[len(content) // 2] ^= 1
    broken = tmp_path / "broken.h5"
    broken.write_bytes(content)
    refused(call("verify", broken), "broken.h5")


def test_verify_finds_an_unpacked_archive_again(tmp_path):
    from types import SimpleNamespace

    from data.images.sources.cifar import ARCHIVES
    from extract.commands import verify as check

    folder = tmp_path / ARCHIVES["cifar10"].folder
    asked = []

    def load(source, **options):
        asked.append((source, options["data_dir"]))
        return SimpleNamespace(digest="d")

    store = SimpleNamespace(
        request={"options": {}, "files": {"dataset": {"path": str(folder)}}},
        spec={"dataset": {"name": "cifar10", "digest": "d", "limit": None}},
        provenance={"dataset": {"kind": "unpacked"}},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "load_dataset", load)
        check._images_of(store, None)
    assert asked == [("cifar10", tmp_path)]


def test_verify_says_why_it_cannot_embed_again(call, small, tmp_path):
    weights = saved_weights(tmp_path / "a.safetensors")
    store = small("--weights", weights).path
    assert "rows embedded again" in call("verify", store, "--rows", "4").err
    moved = weights.rename(tmp_path / "b.safetensors")
    done = call("verify", store)
    assert done.code == 0
    assert "not embedded again" in done.err
    assert "a.safetensors" in done.err
    assert "rows embedded again" in call("verify", store, "--weights", moved).err


def test_verify_notices_rows_of_another_network(call, small, tmp_path, refused, monkeypatch):
    store = small().path
    from extract.commands import verify as check

    original = check._backbone_of

    def other(store, weights):
        backbone = original(store, weights)
        with torch.no_grad():
            for parameter in backbone.module.conv_head.parameters():
                parameter.mul_(1.5).add_(0.01)
        return backbone

    monkeypatch.setattr(check, "_backbone_of", other)
    refused(call("verify", store), "not what this backbone gives")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_gives_the_rows_of_the_store(call, small, tmp_path, precision):
    from data.dataset import load_dataset

    store = open_features(small("--precision", precision).path)
    dataset = load_dataset("digits", data_dir=Path(), limit=100)
    files = []
    for row in range(5):
        files.append(tmp_path / f"{row}.png")
        Image.fromarray(dataset.test.images.rows(row, row + 1)[0]).save(files[-1])
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"spec": store.spec, "weights_file": None}))
    out = tmp_path / "rows.npy"
    done = call("images", "--spec", spec, "--out", out, *files)
    assert done.code == 0, done.err
    assert done.out.strip() == str(out)
    rows = np.load(out)
    assert rows.dtype == np.float32
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    assert np.abs(rows - store.test.features[:5]).max() < tolerance * np.abs(rows).max()


def test_images_of_a_list_in_several_batches(call, small, tmp_path, refused, monkeypatch):
    from extract.commands import embed_images as images

    header = read_header(small().path)
    files = [tmp_path / f"-{i}.png" for i in range(5)]
    for i, file in enumerate(files):
        Image.new("RGB", (40, 30), (50 * i, 90, 200 - 40 * i)).save(file)
    spec, listing, out = (tmp_path / name for name in ("s.json", "l.json", "rows.npy"))
    spec.write_text(json.dumps({"spec": header.spec, "weights_file": None}))
    listing.write_text(json.dumps([str(file) for file in files]))
    arguments = ("images", "--spec", spec, "--out", out)
    done = call(*arguments, *files)
    assert done.code == 0
    assert "rotation" not in done.err
    whole = np.load(out)
    odd = tmp_path / "odd.png"  # sound, but for how it is to be turned
    Image.open(files[1]).save(odd, exif=b"no TIFF")
    done = call(*arguments, *files[:2], odd)
    assert (
        f"the rotation of 1 of 3 images cannot be read; they are taken as stored: {odd}" in done.err
    )
    np.testing.assert_allclose(np.load(out)[2], whole[1], rtol=1e-4, atol=1e-5)
    assert call(*arguments, *files).code == 0
    monkeypatch.setattr(images, "default_batch_size", lambda device: 2)
    assert call(*arguments, "--list", listing).code == 0
    rows = np.load(out)
    np.testing.assert_allclose(rows, whole, rtol=1e-4, atol=1e-5)
    assert len(np.unique(rows, axis=0)) == 5
    refused(call(*arguments), "--list")
    for content in ("[]", "[1]", "{"):
        listing.write_text(content)
        refused(call(*arguments, "--list", listing), "l.json")


def test_images_refuses_what_is_none_and_other_weights(call, small, tmp_path, refused):
    weights = saved_weights(tmp_path / "a.safetensors")
    header = read_header(small("--weights", weights).path)
    spec, out = tmp_path / "spec.json", tmp_path / "rows.npy"
    spec.write_text(json.dumps({"spec": header.spec, "weights_file": str(weights)}))
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    Image.new("RGB", (40, 30), "red").save(good)
    bad.write_text("no picture")
    arguments = ("images", "--spec", spec, "--out", out)
    assert call(*arguments, good).code == 0
    out.unlink()
    refused(call(*arguments, good, bad), "bad.png")
    refused(call(*arguments, tmp_path / "absent.png"), "absent.png")
    other = saved_weights(tmp_path / "b.safetensors", seed=1)
    refused(call(*arguments, "--weights", other, good), "not the weights", "b.safetensors")
    spec.write_text(json.dumps({"spec": header.spec, "weights_file": None}))
    refused(call(*arguments, good), "--weights FILE")
    spec.write_text("[]")
    refused(call(*arguments, good), "spec.json")
    assert not out.exists()


def test_list(call, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = call("list", "test_v*")
    assert done.code == 0
    lines = done.out.splitlines()
    assert [line.split()[:3] for line in lines if line.startswith("test_vit ")] == [
        ["test_vit", "64", "160"]
    ]
    assert len({line.index(line.split()[3]) for line in lines}) == 1, "aligned"
    known = json.loads(next((tmp_path / "icebox").iterdir()).read_text())
    assert known["test_vit"]["width"] == 64
    # The second time the widths are read, not measured.
    monkeypatch.setattr("extract.commands.list.measure", None)
    assert call("list", "test_v*").out == done.out


def test_list_names_models_that_give_no_vector(call, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    from extract.commands import list as listing

    def no_vector(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(listing, "embed_normalised", no_vector)
    row = call("list", "test_resnet").out.splitlines()[1].split()
    assert row == ["test_resnet", "-", "160", "hub"]


def test_options_are_checked_before_anything_is_done():
    with pytest.raises(UserError, match="contradicts"):
        parsed("--amp-dtype", "float16", "--precision", "fp32")
