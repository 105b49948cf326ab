"""Data sets of Hugging Face's `datasets`: columns, splits, caches, what is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from same_images import CLASSES, files_of, write_folder, write_saved

from data.common.errors import UserError
from data.dataset import dataset_name, load_dataset, source_fingerprint
from data.images.arrays import FileImages, RecordImages
from data.images.sources import hf
from data.images.sources.registry import SourceRequest

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module", autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "folder")


@pytest.fixture(scope="module")
def saved(folder):
    return write_saved(folder, folder.parent / "saved")


@pytest.fixture
def write(tmp_path, folder):
    """Save parts of the first images, with columns of any kind beside them."""

    def write(parts, features=None, name="made"):
        path, _ = files_of(folder, "train")[1]
        cell = {"bytes": path.read_bytes(), "path": path.name}
        made = {}
        for split, columns in parts.items():
            count = len(next(iter(columns.values())))
            known = datasets.Features({"image": datasets.Image()} | features) if features else None
            rows = {"image": [cell] * count, **columns}
            part = datasets.Dataset.from_dict(rows, features=known)
            made[split] = part if known else part.cast_column("image", datasets.Image())
        datasets.DatasetDict(made).save_to_disk(str(tmp_path / name))
        return tmp_path / name

    return write


def read(word, tmp_path, **asked):
    return hf.read(SourceRequest(f"hf:{word}", tmp_path / "raw", **asked))


def test_images_inside_a_data_set_are_taken_as_their_files(folder, saved, tmp_path):
    found = load_dataset(f"hf:{saved}", data_dir=tmp_path)
    assert found.name == "saved" and found.class_names == CLASSES
    for name, split in found.splits.items():
        assert isinstance(split.images, RecordImages)
        for row, (path, label) in enumerate(files_of(folder, name)):
            assert split.images.records.read(int(split.images.rows[row])) == path.read_bytes()
            assert CLASSES[split.labels[row]] == label
    assert found.test.ids[:2] == ("test/0", "test/1")
    test = found.test.images
    assert test.name(1) == f"hf:{saved}: row 1 of test"
    assert found.origin["columns"] == {"image": "image", "label": "label"}


def test_a_folder_of_images_is_read_as_files(folder, tmp_path):
    found = load_dataset(f"hf:{folder}", data_dir=tmp_path)
    same = load_dataset(str(folder), data_dir=tmp_path)
    assert isinstance(found.train.images, FileImages)
    assert found.train.ids == tuple(f"train/{name}" for name in same.train.ids)
    assert found.train.images.digests == same.train.images.digests
    assert found.origin["content_sha256"] == same.origin["content_sha256"]
    assert found.digest != same.digest
    # Their stamps differ, too, or the store of one would be found for the other.
    stamps = [source_fingerprint(word, data_dir=tmp_path) for word in (f"hf:{folder}", str(folder))]
    assert stamps[0] != stamps[1]


def test_splits_by_their_names(write, tmp_path, capsys):
    labels = {"label": ["x", "y", "x", "y"]}
    three = write({"training": labels, "val": labels, "Test": labels, "extra": labels})
    found = read(three, tmp_path)
    assert list(found.splits) == ["train", "test", "validation"]
    assert "its part extra is not read" in capsys.readouterr().err
    two = write({"train": labels, "validation": labels}, name="two")
    found = load_dataset(f"hf:{two}", data_dir=tmp_path)
    assert list(found.splits) == ["train", "test"] and found.test.ids[0] == "validation/0"
    assert "its validation split is the test split" in capsys.readouterr().err
    found = load_dataset(f"hf:{two}", data_dir=tmp_path, test_fraction=0.5)
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 2,
        "test": 2,
        "validation": 4,
    }
    one = write({"all": labels}, name="one")
    with pytest.raises(UserError, match=r"no test split, .*\nadd --test-fraction 0.2"):
        load_dataset(f"hf:{one}", data_dir=tmp_path)
    assert len(load_dataset(f"hf:{one}", data_dir=tmp_path, test_fraction=0.5).train) == 2


def test_a_split_column(write, tmp_path):
    made = write({"train": {"label": [0, 1, 0, 1], "part": ["train", "train", "TEST", "test"]}})
    found = read(made, tmp_path, columns={"split": "part"})
    assert found.train.ids == ("train/0", "train/1") and found.test.ids == ("train/2", "train/3")
    folds = write({"train": {"label": [0, 1, 0, 1], "fold": [1, 1, 2, 3]}}, name="folds")
    found = read(folds, tmp_path, columns={"split": "fold:test=3,val=2"})
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 2,
        "test": 1,
        "validation": 1,
    }
    made = write({"train": {"label": [0, 1], "part": ["train", "third"]}}, name="odd")
    with pytest.raises(UserError, match=r"row 1 of train; the split column part has the value"):
        read(made, tmp_path, columns={"split": "part"})


def test_columns_of_other_names_groups_and_weights(write, tmp_path):
    columns = {"coarse": [0, 1, 1], "fine": ["a", "b", "c"], "who": ["p", "q", "p"], "w": [1, 2, 3]}
    features = {
        "coarse": datasets.ClassLabel(names=["low", "high"]),
        "fine": datasets.Value("string"),
        "who": datasets.Value("string"),
        "w": datasets.Value("float32"),
    }
    made = write({"train": columns, "test": columns}, features)
    found = read(made, tmp_path)  # the one column of classes
    assert found.class_names == ("low", "high")
    asked = {"label": "fine", "group": "who", "weight": "w"}
    found = read(made, tmp_path, columns=asked)
    assert found.class_names == ("a", "b", "c") and found.group_names == ("p", "q")
    assert found.train.groups.tolist() == [0, 1, 0] and found.train.weights.tolist() == [1, 2, 3]
    assert found.origin["columns"] == {"image": "image", **asked}


def test_groups_and_weights_of_usual_names(write, tmp_path, capsys):
    columns = {"label": [0, 1, 0], "Patient": ["p", "q", "p"], "sample_weight": [1.0, 2.0, 0.5]}
    found = read(write({"train": columns, "test": columns}), tmp_path)
    assert found.group_names == ("p", "q") and found.test.weights.tolist() == [1.0, 2.0, 0.5]
    assert "groups from Patient, weights from sample_weight" in capsys.readouterr().err


def test_rows_without_a_label_are_set_apart(write, tmp_path, capsys):
    features = {"label": datasets.ClassLabel(names=["x", "y", "never"])}
    labels = {"train": [0, 1, -1, None], "validation": [0, 1], "test": [-1, -1]}
    made = write({name: {"label": column} for name, column in labels.items()}, features)
    found = read(made, tmp_path)
    assert found.class_names == ("x", "y")
    assert found.train.ids == ("train/0", "train/1")
    assert found.unlabelled.ids == ("train/2", "train/3", "test/0", "test/1")
    assert set(found.unlabelled.labels.tolist()) == {-1}
    assert found.unlabelled.images.name(2).endswith("row 0 of test")
    assert not len(found.test) and found.validation.ids[0] == "validation/0"
    assert "4 rows have no label" in capsys.readouterr().err


def test_bytes_in_parquet_of_another_writer(folder, tmp_path):
    import pandas

    (tmp_path / "parquet").mkdir()
    for split in ("train", "test"):
        rows = files_of(folder, split)
        table = {
            "img": [path.read_bytes() for path, _ in rows],
            "class": [name for _, name in rows],
        }
        pandas.DataFrame(table).to_parquet(tmp_path / "parquet" / f"{split}.parquet")
    found = load_dataset(f"hf:{tmp_path / 'parquet'}", data_dir=tmp_path / "raw")
    same = load_dataset(str(folder), data_dir=tmp_path)
    assert found.origin["content_sha256"] == same.origin["content_sha256"]


def test_nothing_is_written_outside_the_data_folder(folder, saved, tmp_path):
    """In a process of its own: `datasets` reads its variables when it is imported."""
    home = tmp_path / "home"
    home.mkdir()
    lines = [
        "from data.dataset import load_dataset",
        "import sys",
        "for word in sys.argv[2:]: load_dataset(word, data_dir=sys.argv[1])",
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    words = [str(tmp_path / "raw"), f"hf:{folder}", f"hf:{saved}"]
    subprocess.run(
        [sys.executable, "-c", "\n".join(lines), *words],
        check=True,
        env={**environment, "HOME": str(home), "TMPDIR": str(home)},
    )
    assert list(home.rglob("*")) == []
    assert (tmp_path / "raw" / "huggingface" / "folder").is_dir()


def test_a_download_goes_to_the_data_folder(tmp_path, monkeypatch):
    """`datasets` gives the hub's client no folder: it takes that of its own settings."""
    from huggingface_hub import constants

    before, seen = constants.HF_HUB_CACHE, []

    def load(name, config, *, cache_dir):
        seen.append((name, config, cache_dir, constants.HF_HUB_CACHE))
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match="cannot be reached"):
        read("owner/name:small", tmp_path)
    cache = str(tmp_path / "raw" / "huggingface")
    assert seen == [("owner/name", "small", cache, f"{cache}/hub")]
    assert before == constants.HF_HUB_CACHE


def test_what_was_downloaded_is_found_again(tmp_path):
    assert source_fingerprint("hf:Owner/My-Name", data_dir=tmp_path) is None
    kept = tmp_path / "huggingface" / "Owner___my-name" / "default" / "0.0.0" / "1a2b"
    kept.mkdir(parents=True)
    (kept / "my-name-train.arrow").write_bytes(b"x")
    found = source_fingerprint("hf:Owner/My-Name", data_dir=tmp_path)
    assert found["path"] == str(tmp_path / "huggingface")
    (kept / "my-name-train.arrow").write_bytes(b"xy")
    assert source_fingerprint("hf:Owner/My-Name", data_dir=tmp_path) != found
    assert source_fingerprint("hf:Owner/Other", data_dir=tmp_path) is None


def test_short_names(tmp_path):
    (tmp_path / "pets").mkdir()
    assert dataset_name(f"hf:{tmp_path}/pets") == "pets"
    assert dataset_name(f"hf:{tmp_path}/pets:large") == "pets-large"
    assert dataset_name("hf:owner/pets:large") == "owner-pets-large"
    assert dataset_name("hf:cifar10") == "cifar10-hf"


def test_a_fingerprint_does_not_import_datasets(folder, tmp_path):
    code = (
        "import sys; from data.dataset import source_fingerprint as f; "
        f"f('hf:{folder}', data_dir='{tmp_path}'); assert 'datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_errors_of_the_hub(monkeypatch, tmp_path):
    """What `datasets` raises in each case, as its version 5 does."""
    from datasets.exceptions import DatasetNotFoundError

    cases = [
        (
            ConnectionError("Couldn't reach 'x' on the Hub (OfflineModeIsEnabled)"),
            "give its folder",
        ),
        (DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub"), "hf auth login"),
        (ValueError("Config name is missing.\nx"), "leave :c out"),
        (ValueError("BuilderConfig 'c' not found. Available: ['large', 'small']"), "hf:o/n:large"),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts are no longer"),
        (MemoryError(), ""),
        (OSError(28, "No space left on device"), ""),
    ]
    for error, says in cases:

        def load(*_, error=error, **__):
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load)
        with pytest.raises(UserError if says else type(error), match=says or None):
            read("o/n:c", tmp_path)


@pytest.mark.parametrize(
    ("columns", "asked", "says"),
    [
        ({"label": [0, 1]}, {"image": "imge"}, "no such column, but image .Image.*did you mean im"),
        ({"label": [0, 1]}, {"image": "label"}, "holds no images but label .int64"),
        ({"label": [0, 1]}, {"label": "lable"}, "did you mean label"),
        ({"kind": [0, 1]}, {}, r"no class labels; .*kind .int64.*\n.*--label-column"),
        ({"label": [[0], [1]]}, {}, "a label is list"),
        ({"label": [None, None]}, {}, "no row has a label"),
        ({"label": [0, 1], "w": [1.0, -1.0]}, {"weight": "w"}, "the row train/1 has the weight -1"),
        ({"label": [0, 1], "g": ["a", ""]}, {"group": "g"}, "the row train/1 has no group"),
        ({"label": [0, 1], "photo": [1, 2]}, {"split": "prt"}, "--split-column prt"),
    ],
)
def test_columns_that_are_refused(columns, asked, says, write, tmp_path):
    made = write({"train": columns, "test": columns})
    with pytest.raises(UserError, match=says):
        read(made, tmp_path, columns=asked)


def test_several_columns_of_classes_or_images(write, tmp_path):
    features = {name: datasets.ClassLabel(names=["x", "y"]) for name in ("coarse", "fine")}
    made = write({"train": {"coarse": [0, 1], "fine": [1, 0]}}, features)
    with pytest.raises(
        UserError, match=r"several columns hold classes .*\n.*--label-column coarse"
    ):
        read(made, tmp_path)


def test_images_that_are_elsewhere(tmp_path):
    """Parquet of older versions has names of files without the files."""
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "gone").mkdir()
    image = pyarrow.array(
        [{"bytes": None, "path": "gone.png"}] * 2,
        pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
    )
    for split in ("train", "test"):
        table = pyarrow.table({"image": image, "label": ["x", "y"]})
        pyarrow.parquet.write_table(table, tmp_path / "gone" / f"{split}.parquet")
    with pytest.raises(UserError, match=r"row 0 of train has no bytes, only the path gone.png"):
        load_dataset(f"hf:{tmp_path / 'gone'}", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("{root}/gone", "there is no folder"),
        ("", "names nothing"),
        ("{folder}:small", "no configuration 'small', but default"),
        ("{saved}:small", "it has no configurations; leave :small out"),
        ("{root}", "doesn't contain any data files; class folders of images"),
        ("{texts}", "no column of images; the columns are text .string"),
        ("{broken}", "cannot be read by datasets .*Parquet"),
    ],
)
def test_words_that_are_refused(word, says, folder, saved, tmp_path):
    for name in ("root", "texts", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts" / "train.txt").write_text("a\nb\n")
    (tmp_path / "broken" / "train.parquet").write_bytes(b"PAR1 and no more")
    places = {name: tmp_path / name for name in ("root", "texts", "broken")}
    with pytest.raises(UserError, match=says):
        read(word.format(folder=folder, saved=saved, **places), tmp_path)


def test_without_the_package(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(hf, "package_folder", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package datasets.*pip install '.*\[hf\]"):
        read(saved, tmp_path)


def test_rows_in_any_order(saved, tmp_path):
    found = load_dataset(f"hf:{saved}", data_dir=tmp_path, limit=6)
    assert found.limit == 6 and len(found.train) == 6
    again = found.train.images.take(np.array([5, 0]))
    assert np.array_equal(again.decode(0), found.train.images.decode(5))
    assert again.digest(1) == found.train.images.digest(0)
