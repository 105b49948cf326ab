"""Files that change while they are read: never the numbers of one under the digest of another."""

from __future__ import annotations

import os

import numpy as np
import pytest
from command_lines import start
from fault_world import TINY, call, save_image
from PIL import Image
from safetensors.numpy import load_file, save_file

from data.reading import open_features

LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`


@pytest.fixture
def images(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/b"):
        for number in range(4):
            save_image(tmp_path / "images" / name / f"{number}.png", 40 * number + len(name))
    return tmp_path / "images"


def go_on(process, code):
    out, err = process.communicate("\n", timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


CHANGES = {
    "other pixels": lambda path: save_image(path, 200),
    "the same pixels in other bytes": lambda path: Image.open(path).save(path, optimize=True),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES if LONG else ["other pixels"])
def test_an_image_that_changes_after_it_was_digested(change, images, tmp_path):
    words = ["extract", f"--dataset={images}", *TINY, f"--features-dir={tmp_path}/features"]
    process = start("pause", ["extract.run.prepare"], *words)
    assert process.stdout.readline() == "there\n"
    changed = images / "train" / "b" / "2.png"
    before = changed.read_bytes()
    CHANGES[change](changed)
    _, err = go_on(process, 2)
    assert str(changed) in err
    assert "run the same command again" in err or "No such file" in err
    assert not list(tmp_path.glob("features/*/*.h5"))
    changed.write_bytes(before)
    assert call(words).code == 0


STEPS = ["extract.model.backbone._build", "extract.run.prepare"]


@pytest.mark.parametrize("step", STEPS if LONG else STEPS[:1])
def test_weights_that_are_replaced_while_they_are_read(step, tmp_path):
    from extract.model.backbone import BackboneRequest, load_backbone

    one, two = tmp_path / "w.safetensors", tmp_path / "other.safetensors"
    state = load_backbone(BackboneRequest("test_efficientnet", "random")).module.state_dict()
    tensors = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in state.items()}
    save_file(tensors, one)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, two)
    features = f"--features-dir={tmp_path}/features"
    words = ["extract", "--dataset=digits", "--limit=40", *TINY, f"--weights={one}", features]
    process = start("pause", [step], *words)
    assert process.stdout.readline() == "there\n"
    os.replace(two, one)
    _, err = go_on(process, 2)
    assert f"{one} has changed while it was being read" in err
    assert not list(tmp_path.glob("features/*/*.h5"))
    assert load_file(one).keys() == tensors.keys()


def test_images_that_are_added_while_a_folder_is_read(images, tmp_path):
    words = ["extract", f"--dataset={images}", *TINY, f"--features-dir={tmp_path}/features"]
    process = start("pause", ["data.images.arrays.hash_files"], *words)
    assert process.stdout.readline() == "there\n"
    save_image(images / "train" / "a" / "9.png", 9)
    _, err = go_on(process, 2)
    assert f"{images} has changed while it was being read" in err
    store = call(words).out.strip()
    assert "a/9.png" in open_features(store).train.ids
