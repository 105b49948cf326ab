"""The whole of stage one on a device: images from memory and from files, and ``verify`` there."""

import numpy as np
import pytest
from PIL import Image

from data import open_features
from data.reading import read_header

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_a_store_made_on_a_device_is_what_timm_gives_there(small, call, device):
    done = small("--device", device, "--precision", "fp32")
    assert done.code == 0, done.err
    checked = call("verify", done.path, "--rows", "6", "--device", device)
    assert checked.code == 0, checked.err
    assert "6 rows embedded again" in checked.err


@pytest.mark.parametrize("device", DEVICES)
def test_files_are_decoded_beside_a_device(call, small_job, tmp_path, device):
    """Decoders are forked, on a GPU from a process that has used it."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 12)):
        for number in range(count):
            folder = tmp_path / "images" / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            side = 20 + number % 30  # some are resized on the device, and some before
            pixels = rng.integers(0, 256, (side, side + number % 3, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    rows = {}
    for where in {device, "cpu"}:
        words = [str(word) for word in small_job]
        words[words.index("digits")] = str(tmp_path / "images")
        del words[words.index("--limit") : words.index("--limit") + 2]
        done = call(*words, "--device", where, "--precision", "fp32", "--jobs", "2",
                    "--features-dir", tmp_path / where)  # fmt: skip
        assert done.code == 0, done.err
        name = read_header(done.path).provenance["device"]
        assert name.startswith("cpu") == (where == "cpu")
        store = open_features(done.path)
        rows[where] = np.concatenate([store.train.features, store.test.features])
    apart = np.abs(rows[device] - rows["cpu"]).max() / np.abs(rows["cpu"]).max()
    assert len(rows[device]) == 52 and apart < 1e-3
