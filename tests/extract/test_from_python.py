"""`extract.embed`: what it takes, what it finds again, what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image
from same_images import files_of, write_folder

from data import UserError
from extract import embed
from extract.options import usable_cpus

SETTINGS = {
    "model": "test_efficientnet",
    "weights": "random",
    "image_size": 32,
    "batch_size": 16,
    "engine": "channels-last",
    "jobs": 1,
}


@pytest.fixture
def run(tmp_path):
    def run(dataset, **more):
        return embed(dataset, **{"name": "made", "features_dir": tmp_path, **SETTINGS, **more})

    return run


def items(count=12, seed=0, classes=2):
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 255, (10, 12, 3), dtype=np.uint8), row % classes) for row in range(count)
    ]


def test_a_torch_data_set_and_its_subsets(run):
    class Made(torch.utils.data.Dataset):
        classes = ("no", "yes")
        rows = items(20)

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, row):
            return self.rows[row]

    made = Made()
    parts = torch.utils.data.random_split(made, [12, 8], torch.Generator().manual_seed(0))
    store = run(parts[0], test=parts[1], validation=made, class_names=Made.classes)
    assert store.class_names == ("no", "yes")
    assert {name: len(split.labels) for name, split in store.splits.items()} == {
        "train": 12,
        "test": 8,
        "validation": 20,
    }
    again = run({"train": made, "test": made})
    assert again.class_names == ("no", "yes")  # of the data set itself
    order = parts[0].indices
    assert np.array_equal(store.train.features, np.asarray(again.train.features)[order])


def test_all_forms_of_an_image_give_the_same_row(run, tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (9, 7), dtype=np.uint8)
    path = tmp_path / "grey.png"
    Image.fromarray(grey).save(path)
    forms = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), grey]
    forms += [Image.open(path), Image.fromarray(grey), np.repeat(grey[..., None], 3, axis=2)]
    others = items(4)
    store = run([(form, "a") for form in forms] + [(i, "b") for i, _ in others], test=others_of())
    rows = np.asarray(store.train.features)[: len(forms)]
    assert (rows == rows[0]).all()


def others_of():
    return [(image, "ab"[label]) for image, label in items(4, seed=1)]


def test_labels_of_any_kind(run):
    images = [image for image, _ in items(6)]
    for labels, names in (
        (["b", "a"] * 3, ("a", "b")),
        ([10, 9] * 3, ("9", "10")),
        ([np.int32(1), np.int64(0)] * 3, ("0", "1")),
        ([torch.tensor(1), torch.tensor(0)] * 3, ("0", "1")),
        ([True, False] * 3, ("0", "1")),
    ):
        rows = list(zip(images, labels, strict=True))
        store = run(rows, test=rows)
        assert store.class_names == names
    rows = [(images[0], None), *rows]
    store = run(rows, test=rows[1:])
    assert len(store.unlabelled.labels) == 1 and len(store.train.labels) == 6


def test_the_same_call_finds_what_is_there(run, monkeypatch, capsys):
    made = items()
    store = run(made, test=items(6, seed=1))
    import extract.run

    def refuse(*_):
        raise AssertionError("a backbone is loaded")

    monkeypatch.setattr(extract.run, "_extract", refuse)
    assert run(list(made), test=items(6, seed=1)).path == store.path
    assert "found" in capsys.readouterr().err
    for changed in (
        lambda: run(made[::-1], test=items(6, seed=1)),
        lambda: run(made, test=items(6, seed=2)),
        lambda: run([(image, 1 - label) for image, label in made], test=items(6, seed=1)),
        lambda: run(made, test=items(6, seed=1), class_names=["x", "y"]),
    ):
        with pytest.raises(AssertionError, match="a backbone is loaded"):
            changed()


def test_paths_are_files_to_everything_after(run, tmp_path):
    folder = write_folder(tmp_path / "folder")
    parts = {split: files_of(folder, split) for split in ("train", "test")}
    store = run(parts)
    assert store.train.ids[0] == "ant/0.jpg"
    assert store.provenance["dataset"]["kind"] == "python"
    assert run(parts, jobs=2).path == store.path


def test_pixels_for_none_and_other_options(run):
    store = run(items(), test=items(4), model="pixels", weights="hub", image_size=(10, 12))
    assert store.n_features == 10 * 12 * 3
    store = run(items(), test=items(4), store_dtype="float16", limit=6, image_size=(32, 32))
    assert str(store.dtype) == "float16" and len(store.train.labels) == 6
    assert usable_cpus() >= 1


def test_a_share_is_held_out(run):
    made = items(20)
    store = run(made, test=None, test_fraction=0.2, seed=3)
    assert len(store.train.labels) == 16 and len(store.test.labels) == 4
    assert set(store.train.ids) | set(store.test.ids) == {f"train/{row}" for row in range(20)}
    assert store.provenance["dataset"]["test_fraction"] == 0.2


def test_a_mapping_has_the_spellings_of_folders(run):
    store = run({"Training": items(), "dev": items(4), "Testing": items(6)})
    assert list(store.splits) == ["train", "test", "validation"]


class Endless:
    def __getitem__(self, row):
        return items(1)[0]


@pytest.mark.parametrize(
    ("dataset", "more", "says"),
    [
        (iter(items()), {}, "the train split is list_iterator, which has no length"),
        (Endless(), {}, "which has no length"),
        ([1, 2], {}, "item 0 of train is int; .image, label. is expected"),
        ([*items(), (torch.zeros(3, 4, 4), 0)], {}, "item 12 of train has torch.Tensor of shape"),
        ([*items(), (np.zeros((4, 4)), 0)], {}, "item 12 of train: it is an array of float64"),
        ([*items(), (object(), 0)], {}, "item 12 of train has object as image; an image is a path"),
        ([*items(), ("/gone.png", 0)], {}, "item 12 of train: cannot read the image /gone.png"),
        ([*items(), (b"no image", 0)], {}, "item 12 of train: its content is not a JPEG"),
        ([*items(), (items()[0][0], [1])], {}, r"a label is list \(\[1\]\)"),
        (items(), {"class_names": ["a"]}, "has the label '1', which is none of its 1 class names"),
        (items(), {"test": None}, "was given no test split.*test_fraction=0.2"),
        (items(), {"test_fraction": 0.5}, "a test split and test_fraction; leave one"),
        ([], {}, "the train split is empty"),
        (items(), {"name": "a/b"}, "name='a/b' is not possible"),
        (items(), {"nmae": 1}, "embed.. has no option 'nmae'"),
        (items(), {"batch_szie": 1}, "did you mean batch_size"),
        (items(), {"cluster": "dask"}, "embed.. has no option 'cluster'"),
        ({"train": items(), "tset": items()}, {"test": None}, "the key 'tset' is no split"),
        ({"train": items()}, {"test": items()}, "a mapping of splits and test beside it"),
        ({"train": items(), "training": items()}, {"test": None}, "the train split a second time"),
    ],
)
def test_what_is_refused(dataset, more, says, run):
    with pytest.raises(UserError, match=re.compile(says, re.DOTALL)):
        run(dataset, **{"test": items(4), **more})


def test_an_image_that_changes_between_two_looks(run):
    """A transform that draws anew each time, for one."""
    rng = np.random.default_rng(0)

    class Drawn:
        def __len__(self):
            return 12

        def __getitem__(self, row):
            return rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), row % 2

    with pytest.raises(UserError, match="item 0 of train has changed since the dataset was read"):
        run(Drawn(), test=items(4))


def test_the_command_line_says_where_such_images_are(call, refused, tmp_path):
    done = call("--dataset=python:made", f"--features-dir={tmp_path}")
    refused(done, "--dataset python:made", "extract.embed")


def test_an_import_of_the_package_is_light():
    import subprocess
    import sys

    code = "import extract, sys; assert 'torch' not in sys.modules; assert 'embed' in dir(extract)"
    subprocess.run([sys.executable, "-c", code], check=True)
