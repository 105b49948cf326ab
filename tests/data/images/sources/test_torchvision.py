"""Classes of torchvision: their splits, their files and arrays, what is refused."""

from __future__ import annotations

import inspect
import pickle
import re
import shutil
import struct

import numpy as np
import pytest
import torchvision.datasets
from same_images import CLASSES, write_folder

from data.common.errors import UserError
from data.dataset import dataset_name, load_dataset, source_fingerprint
from data.images.arrays import ArrayImages, FileImages
from data.images.sources import torchvision as source


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Have every download end at once."""

    def refuse(*_, **__):
        raise OSError("<urlopen error no network>")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def write_cifar(root, count=20):
    """Write a CIFAR-10 of a few records as torchvision unpacks it; returns pixels and labels."""
    from hashlib import md5

    folder, made = root / "cifar-10-batches-py", torchvision.datasets.CIFAR10
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pixels, labels, lists = {}, {}, {}

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return name, md5((folder / name).read_bytes()).hexdigest()

    for split, names in (("train", made.train_list), ("test", made.test_list)):
        pixels[split] = rng.integers(0, 255, (len(names) * count, 32, 32, 3), dtype=np.uint8)
        labels[split] = [i % 10 for i in range(len(names) * count)]
        lists[split] = []
        for i, (name, _) in enumerate(names):
            rows = slice(i * count, (i + 1) * count)
            planes = pixels[split][rows].transpose(0, 3, 1, 2).reshape(count, -1)
            lists[split].append(write(name, {"data": planes, "labels": labels[split][rows]}))
    names = [f"class {i}" for i in range(10)]
    meta = write("batches.meta", {"label_names": names})
    return pixels, labels, lists, {**made.meta, "md5": meta[1]}


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    pixels, labels, lists, meta = write_cifar(tmp_path)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", lists["train"])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", lists["test"])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta", meta)
    return pixels, labels


def test_the_table_names_splits_that_the_classes_take():
    """A class names the values of ``split`` when it refuses one."""
    for name, known in source.CLASSES.items():
        made = getattr(torchvision.datasets, name)
        there = source._arguments_of(made)
        for arguments in known.splits.values():
            assert set(arguments) <= set(there), name
        values = {a["split"] for a in known.splits.values() if "split" in a}
        if not values:
            assert "split" not in there or name == "EMNIST", name
            continue
        with pytest.raises(ValueError) as refused:
            made("/nowhere", split="?")
        offered = set(re.findall(r"'([^'?]+)'", str(refused.value).partition("alid values")[2]))
        assert values <= offered, name
        # What is left out is no part of the benchmark, or holds others.
        assert offered - values <= {
            *("extra", "unlabeled", "train+unlabeled", "10fold", "train-challenge"),
            *(("trainval",) if name == "FGVCAircraft" else ()),
            *(("test",) if name == "Places365" else ()),  # without labels
        }, name


def test_an_array_is_taken_as_one(cifar, tmp_path):
    pixels, labels = cifar
    found = load_dataset("torchvision:cifar10", data_dir=tmp_path)
    assert found.name == dataset_name("torchvision:CIFAR10") == "cifar10-torchvision"
    assert found.class_names == tuple(f"class {i}" for i in range(10))
    for name, split in found.splits.items():
        assert isinstance(split.images, ArrayImages)
        assert np.array_equal(split.images.array, pixels[name])
        assert split.labels.tolist() == labels[name]
    before = source_fingerprint("torchvision:CIFAR10", data_dir=tmp_path)
    assert before["path"] == str(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "test_batch").touch()
    assert source_fingerprint("torchvision:CIFAR10", data_dir=tmp_path) != before


def test_a_fingerprint_does_not_import_torchvision(tmp_path):
    assert source_fingerprint("torchvision:CIFAR10", data_dir=tmp_path) is None
    top = [line for line in inspect.getsource(source).splitlines() if line.startswith("import")]
    assert not any("torch" in line for line in top)


def test_grey_pixels_of_a_tensor(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = {}
    for word, count in (("train", 30), ("t10k", 20)):
        pixels[word] = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        head = struct.pack(">4i", 2051, count, 28, 28)
        (folder / f"{word}-images-idx3-ubyte").write_bytes(head + pixels[word].tobytes())
        labels = bytes(i % 10 for i in range(count))
        (folder / f"{word}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels)
    found = load_dataset("torchvision:MNIST", data_dir=tmp_path)
    assert found.class_names[3] == "3 - three"
    assert found.test.labels.tolist() == [i % 10 for i in range(20)]
    assert np.array_equal(found.test.images.array, np.repeat(pixels["t10k"][..., None], 3, axis=3))


def test_files_are_read_as_files(tmp_path):
    """EuroSAT is torchvision's ``ImageFolder``, and Imagenette one with splits."""
    folder = write_folder(tmp_path / "folder")
    wnids = ("n01440764", "n02102040", "n02979186")
    for split, called in (("train", "train"), ("test", "val")):
        for name, wnid in zip(CLASSES, wnids, strict=True):
            there = tmp_path / "raw" / "imagenette2" / called / wnid
            there.mkdir(parents=True)
            for path in (folder / split / name).iterdir():
                shutil.copy(path, there / f"{path.stem}.JPEG")  # whatever its content
    for wnid in torchvision.datasets.Imagenette._WNID_TO_CLASS:
        for called in ("train", "val"):
            (tmp_path / "raw" / "imagenette2" / called / wnid).mkdir(exist_ok=True)
    # torchvision looks for files in each of its ten classes.
    others = [w for w in torchvision.datasets.Imagenette._WNID_TO_CLASS if w not in wnids]
    for wnid in others:
        for called in ("train", "val"):
            source_file = folder / "train" / "ant" / "0.jpg"
            shutil.copy(source_file, tmp_path / "raw" / "imagenette2" / called / wnid / "0.JPEG")
    found = load_dataset("torchvision:Imagenette", data_dir=tmp_path / "raw")
    same = load_dataset(str(folder), data_dir=tmp_path)
    assert isinstance(found.train.images, FileImages)
    assert found.class_names[0] == "tench, Tinca tinca"
    assert found.validation is None  # its val is the test split
    for row, name in enumerate(found.test.ids):
        wnid, file = name.split("/")
        if wnid in wnids:
            wanted = f"{CLASSES[wnids.index(wnid)]}/{file.removesuffix('.JPEG')}"
            (there,) = [i for i, n in enumerate(same.test.ids) if n.rpartition(".")[0] == wanted]
            assert np.array_equal(found.test.images.decode(row), same.test.images.decode(there))
            assert found.test.images.digest(row) == same.test.images.digest(there)


def test_any_other_class_gives_its_images(tmp_path, monkeypatch):
    """Omniglot holds no array, and its list of files is its own."""

    class Odd:
        def __init__(self, root, download=False):
            self.root = root

        def __len__(self):
            return 12

        def __getitem__(self, row):
            from PIL import Image

            return Image.new("L", (5, 4), 20 * row), row % 3

    monkeypatch.setattr(torchvision.datasets, "Omniglot", Odd)
    from data.images.sources.registry import SourceRequest

    raw = source.read(SourceRequest("torchvision:Omniglot", tmp_path, test_fraction=0.3))
    every = raw.train
    assert raw.class_names == ("0", "1", "2") and len(every) == 12
    assert [every.images.decode(row)[0, 0].tolist() for row in (0, 5)] == [[0] * 3, [100] * 3]
    assert every.images.name(5) == "torchvision:Omniglot: image 5 of train"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("torchvision:CIFAR11", "no data set 'CIFAR11'.*did you mean CIFAR1"),
        ("torchvision:", "there are CIFAR10, CIFAR100"),
        ("torchvision:CIFAR10:train", "'train' is not ARGUMENT=VALUE"),
        ("torchvision:CIFAR10:trian=True", "trian is no argument of CIFAR10; did you mean train"),
        ("torchvision:CIFAR10:download=True", "download is no argument of CIFAR10"),
        ("torchvision:EMNIST", "missing.*'split'\ngive its arguments behind its name"),
        (
            "torchvision:FGVCAircraft:annotation_level=x",
            "refuses annotation_level=x, split=train: ",
        ),
        ("torchvision:CIFAR10", "cannot be downloaded .*no network.*\nconnect to a network"),
        ("torchvision:ImageNet", "does not find its files in --data-dir .*cannot download them"),
    ],
)
def test_what_is_refused(word, says, tmp_path):
    with pytest.raises(UserError, match=re.compile(says, re.DOTALL)):
        load_dataset(word, data_dir=tmp_path)


def test_a_download_is_tried_where_nothing_is(tmp_path, monkeypatch, cifar):
    made = tmp_path / "cifar-10-batches-py"
    away = made.rename(tmp_path / "away")
    asked = []

    def fetch(self):
        asked.append(self.train)
        if not made.exists():
            shutil.copytree(away, made)
        print("on stdout")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", fetch)
    assert len(load_dataset("torchvision:CIFAR10", data_dir=tmp_path).train) == 100
    assert asked == [True]  # what it brings is whole, so that the second split is there


def test_a_damaged_copy_is_not_taken(cifar, tmp_path, capsys):
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="missing or incomplete in --data-dir"):
        load_dataset("torchvision:CIFAR10", data_dir=tmp_path)
    assert capsys.readouterr().out == ""
