"""The data sets of ``torchvision.datasets``, ``torchvision:NAME[:ARGUMENT=VALUE,...]``.

A class is made once for each split that it has, without a transform, with ``--data-dir`` as its
root, and downloads itself where it can. Images that it lists as files are read as files are
everywhere, so that they give the same rows; those that it holds as one array stay one; of any other
class the images are those that it gives.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import inspect
import os
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.common.cli import log
from data.common.errors import UserError, nearest
from data.common.files import stat_stamp
from data.common.packages import package_folder, package_version
from data.images.arrays import ArrayImages, EncodedImages, RawDataset, RecordImages
from data.images.file_digests import bar_of
from data.images.sources.assembly import Listed, Rows, assemble, file_images
from data.images.sources.registry import SourceRequest, absolute

PREFIX = "torchvision:"


class Class(NamedTuple):
    """A class of torchvision: what it reads below its root, and how it gives its splits."""

    reads: tuple[str, ...]
    splits: Mapping[str, Mapping[str, Any]]  # the arguments for each


_TRAIN = {"train": {"train": True}, "test": {"train": False}}
_WHOLE: dict[str, dict[str, Any]] = {"train": {}}


def _by_split(train: str, validation: str | None, test: str | None) -> dict[str, dict[str, Any]]:
    values = {"train": train, "test": test, "validation": validation}
    return {name: {"split": value} for name, value in values.items() if value is not None}


_TRAIN_TEST = _by_split("train", None, "test")
_ALL = _by_split("train", "val", "test")
_TRAIN_VAL = _by_split("train", "val", None)
CLASSES = {
    "CIFAR10": Class(("cifar-10-batches-py",), _TRAIN),
    "CIFAR100": Class(("cifar-100-python",), _TRAIN),
    "CLEVRClassification": Class(("clevr",), _ALL),
    "Caltech101": Class(("caltech101",), _WHOLE),
    "Caltech256": Class(("caltech256",), _WHOLE),
    "Country211": Class(("country211",), _by_split("train", "valid", "test")),
    "DTD": Class(("dtd",), _ALL),
    "EMNIST": Class(("EMNIST",), _TRAIN),
    "EuroSAT": Class(("eurosat",), _WHOLE),
    "FER2013": Class(("fer2013",), _TRAIN_TEST),
    "FGVCAircraft": Class(("fgvc-aircraft-2013b",), _ALL),
    "FashionMNIST": Class(("FashionMNIST",), _TRAIN),
    "Flowers102": Class(("flowers-102",), _ALL),
    "Food101": Class(("food-101",), _TRAIN_TEST),
    "GTSRB": Class(("gtsrb",), _TRAIN_TEST),
    "ImageNet": Class(("train", "val", "meta.bin"), _TRAIN_VAL),
    "Imagenette": Class(("imagenette2", "imagenette2-320", "imagenette2-160"), _TRAIN_VAL),
    "KMNIST": Class(("KMNIST",), _TRAIN),
    "LFWPeople": Class(("lfw-py",), _TRAIN_TEST),
    "MNIST": Class(("MNIST",), _TRAIN),
    "Omniglot": Class(("omniglot-py",), _WHOLE),
    "OxfordIIITPet": Class(("oxford-iiit-pet",), _by_split("trainval", None, "test")),
    "PCAM": Class(("pcam",), _ALL),
    "Places365": Class(
        ("data_large_standard", "data_256_standard", "val_large", "val_256"),
        _by_split("train-standard", "val", None),
    ),
    "QMNIST": Class(("QMNIST",), _TRAIN),
    "RenderedSST2": Class(("rendered-sst2",), _ALL),
    "SEMEION": Class(("semeion.data",), _WHOLE),
    "STL10": Class(("stl10_binary",), _TRAIN_TEST),
    "SUN397": Class(("SUN397",), _WHOLE),
    "SVHN": Class(("train_32x32.mat", "test_32x32.mat"), _TRAIN_TEST),
    "StanfordCars": Class(("stanford_cars",), _TRAIN_TEST),
    "USPS": Class(("usps.bz2", "usps.t.bz2"), _TRAIN),
}
# What classes call their lists: of pairs of file and label, of files, of labels.
_PAIRS = ("samples", "_samples", "imgs")
_FILES = ("_image_files", "_images", "data")
_LABELS = ("_labels", "targets", "labels", "y")
_NAMES = ("classes", "categories")
_CHECKED = 3  # images of an array that are compared with what the class gives


class Parts:
    """The images that classes give, split after split: what workers get."""

    def __init__(self, called: str, splits: Mapping[str, Any]) -> None:
        self.called = called
        self.names, self.datasets = list(splits), list(splits.values())
        self.starts = [0, *accumulate(map(len, self.datasets))]

    def read(self, row: int) -> Any:
        """Read an image as its class gives it."""
        part = bisect_right(self.starts, row) - 1
        return self.datasets[part][row - self.starts[part]][0]

    def name(self, row: int) -> str:
        """Name an image by its split and place."""
        part = bisect_right(self.starts, row) - 1
        return f"{self.called}: image {row - self.starts[part]} of {self.names[part]}"


def fingerprint(asked: SourceRequest) -> dict[str, str] | None:
    """Tell what lies below the root of the class; None where nothing does."""
    name, _ = split_name(asked.dataset)
    root = absolute(asked.data_dir)
    names = [file for entry in CLASSES[name].reads for file in _files(root, entry)]
    if not names:
        return None
    return {"path": str(root / CLASSES[name].reads[0]), "stat": stat_stamp(root, names)}


def source_sha256(_: SourceRequest) -> None:
    """Leave it to the digests of the images."""


def read(asked: SourceRequest) -> RawDataset:
    """Make the splits of a class, and list their images."""
    if package_folder("torchvision") is None:
        raise UserError(
            f"--dataset {asked.dataset} needs the package torchvision, which is not installed; "
            "pip install torchvision, of the version that goes with torch"
        )
    name, arguments = split_name(asked.dataset)
    splits = {
        split: _make(asked, name, {**arguments, **of_split})
        for split, of_split in CLASSES[name].splits.items()
    }
    parts = Parts(asked.dataset, splits)
    listed = {
        split: _list(parts, number, absolute(asked.data_dir))
        for number, split in enumerate(parts.names)
    }
    origin = {
        "class": name,
        "arguments": arguments,
        "root": str(absolute(asked.data_dir)),
        "torchvision": package_version("torchvision"),
    }
    return assemble(
        asked,
        Listed(
            listed,
            str(absolute(asked.data_dir) / CLASSES[name].reads[0]),
            class_names=_class_names(parts.datasets[0]),
            origin=origin,
        ),
        kind="torchvision",
    )


def images_of(origin: Mapping[str, Any], ids: Sequence[str]) -> RecordImages:
    """Find images of a store by their ids; nothing is downloaded."""
    if package_folder("torchvision") is None:
        raise UserError("the package torchvision is not installed")
    asked = SourceRequest(str(origin["source"]), Path(origin["root"]))
    name, arguments = split_name(asked.dataset)
    wanted = [identity.rpartition("/") for identity in ids]
    known = CLASSES[name].splits
    for split, _, row in wanted:
        if split not in known or not row.isdecimal():
            raise UserError(f"{asked.dataset} has no image {split}/{row}")
    splits = {
        split: _make(asked, name, {**arguments, **known[split]}, download=False)
        for split in dict.fromkeys(split for split, _, _ in wanted)
    }
    parts = Parts(asked.dataset, splits)
    for split, _, row in wanted:
        if int(row) >= len(splits[split]):
            raise UserError(f"{asked.dataset} has no image {split}/{row}")
    rows = [parts.starts[parts.names.index(split)] + int(row) for split, _, row in wanted]
    return RecordImages(parts, np.array(rows, dtype=np.int64))


def split_name(dataset: str) -> tuple[str, dict[str, Any]]:
    """Find the class that ``torchvision:NAME[:ARGUMENT=VALUE,...]`` names, and its arguments."""
    word, _, rest = dataset.removeprefix(PREFIX).partition(":")
    known = {name.lower(): name for name in CLASSES}
    name = known.get(word.lower())
    if name is None:
        hint = nearest(word, CLASSES)
        raise UserError(
            f"--dataset {dataset}: torchvision has no data set {word!r} of images with one class "
            f"each that is known here; {hint or 'there are ' + ', '.join(CLASSES)}\n"
            "others: give the folder or the table of their images"
        )
    arguments: dict[str, Any] = {}
    for text in filter(None, rest.split(",")):
        key, sign, value = text.partition("=")
        if not sign or not key.isidentifier():
            raise UserError(
                f"--dataset {dataset}: {text!r} is not ARGUMENT=VALUE, such as "
                "torchvision:EMNIST:split=letters"
            )
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value
    return name, arguments


def _files(root: Path, entry: str) -> Iterator[str]:
    """Name the files of an entry below the root, relative to it."""
    if (root / entry).is_file():
        yield entry
    for place, _, files in os.walk(root / entry, followlinks=True):
        below = Path(place).relative_to(root)
        yield from ((below / name).as_posix() for name in files)


def _make(
    asked: SourceRequest, name: str, arguments: dict[str, Any], *, download: bool = True
) -> Any:
    """Make one split, and have it downloaded if it is not there and may be."""
    import torchvision.datasets

    made, root = getattr(torchvision.datasets, name, None), str(absolute(asked.data_dir))
    if made is None:
        raise UserError(
            f"--dataset {asked.dataset}: torchvision {package_version('torchvision')} has no class "
            f"{name}; install a newer one"
        )
    known = _arguments_of(made)
    for key in arguments:
        if key not in known or key in ("transform", "target_transform", "download", "loader"):
            hint = nearest(key, known)
            raise UserError(
                f"--dataset {asked.dataset}: {key} is no argument of {name}; {hint or ''}"
                f"{' ' if hint else ''}it takes {', '.join(known)}"
            )
    downloads = "download" in known
    # What a class prints is for a person.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            return made(root, **arguments)
        except (RuntimeError, OSError) as error:
            missing = error
        except (ValueError, TypeError) as error:
            raise UserError(
                f"--dataset {asked.dataset}: {name} of torchvision refuses "
                f"{', '.join(f'{key}={value}' for key, value in arguments.items())}: {error}\n"
                f"give its arguments behind its name: torchvision:{name}:ARGUMENT=VALUE"
            ) from error
        except ImportError as error:  # scipy, h5py, gdown, ...
            raise UserError(f"--dataset {asked.dataset}: {name} of torchvision: {error}") from error
        if not download:
            raise UserError(f"{name} is not whole in {root}: {_first_line(missing)}") from missing
        if not downloads:
            raise UserError(
                f"--dataset {asked.dataset}: {name} does not find its files in --data-dir {root} "
                f"({_first_line(missing)}), and cannot download them\nget them as torchvision's "
                "documentation of the class says, and give the folder as --data-dir"
            ) from missing
        log(f"downloading {name} to {root}")
        try:
            os.makedirs(root, exist_ok=True)
            return made(root, download=True, **arguments)
        except Exception as error:  # of the network, of archives, of checksums
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"--dataset {asked.dataset}: {name} is missing or incomplete in --data-dir {root} "
                f"({_first_line(missing)}), and cannot be downloaded ({_first_line(error)})\n"
                "connect to a network, or put its files there as torchvision keeps them"
            ) from error


def _arguments_of(made: Any) -> list[str]:
    """Name the arguments of a class, and those that it hands to the class below it."""
    found: dict[str, None] = {}
    for one in made.__mro__:
        parameters = inspect.signature(one.__init__).parameters.values()
        found |= {p.name: None for p in parameters if p.kind is not p.VAR_KEYWORD}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in found if name not in ("self", "root")]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


def _class_names(dataset: Any) -> list[str] | None:
    """Give the names of the classes, where the class of torchvision has them."""
    for attribute in _NAMES:
        names = getattr(dataset, attribute, None)
        if isinstance(names, (list, tuple)) and names:
            # ImageNet has synonyms.
            texts = [", ".join(n) if isinstance(n, (list, tuple)) else str(n) for n in names]
            return texts if len(set(texts)) == len(texts) else None
    return None


def _list(parts: Parts, number: int, root: Path) -> Rows:
    """List the images of one split, in the form in which they are read best."""
    dataset, start = parts.datasets[number], parts.starts[number]
    files = _files_and_labels(dataset)
    if files is not None:
        paths = [os.path.abspath(path) for path, _ in files]
        base = os.path.commonpath([os.path.dirname(path) for path in paths])
        ids = [Path(os.path.relpath(path, base)).as_posix() for path in paths]
        return Rows(file_images(paths), [label for _, label in files], ids)
    ids = [f"{parts.names[number]}/{row}" for row in range(len(dataset))]
    labels = _attribute_labels(dataset)
    pixels = _pixels(dataset)
    if pixels is not None and labels is not None:
        return Rows(ArrayImages(pixels), labels, ids)
    if labels is None:
        labels = []
        with bar_of(len(dataset), f"listing {parts.names[number]}") as bar:
            for row in range(len(dataset)):
                labels.append(dataset[row][1])
                if bar is not None:
                    bar.update(1)
    rows = np.arange(start, start + len(dataset), dtype=np.int64)
    images: EncodedImages = RecordImages(parts, rows)
    return Rows(images, labels, ids)


def _files_and_labels(dataset: Any) -> list[tuple[str, Any]] | None:
    """Give image files with their labels, where the class lists them."""
    for attribute in _PAIRS:
        pairs: Any = getattr(dataset, attribute, None)
        if _is_list_of(pairs, len(dataset)) and all(
            isinstance(pair, (list, tuple)) and len(pair) == 2 and _is_file(pair[0])
            for pair in pairs
        ):
            return [(os.fspath(path), label) for path, label in pairs]
    labels = _attribute_labels(dataset)
    for attribute in _FILES:
        files: Any = getattr(dataset, attribute, None)
        if labels is not None and _is_list_of(files, len(dataset)) and all(map(_is_file, files)):
            return list(zip(map(os.fspath, files), labels, strict=True))
    return None


def _is_list_of(values: Any, count: int) -> bool:
    return isinstance(values, (list, tuple)) and len(values) == count > 0


def _is_file(path: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and os.path.isfile(path)


def _attribute_labels(dataset: Any) -> list[Any] | None:
    """Give the labels, where the class holds a list of them that its images come with."""
    for attribute in _LABELS:
        labels: Any = getattr(dataset, attribute, None)
        if hasattr(labels, "tolist"):
            labels = labels.tolist()
        if not _is_list_of(labels, len(dataset)) or isinstance(labels[0], (list, tuple, dict)):
            continue
        if all(dataset[row][1] == labels[row] for row in _some_rows(dataset)):
            return list(labels)
    return None


def _some_rows(dataset: Any) -> list[int]:
    return sorted({0, len(dataset) // 2, len(dataset) - 1})[:_CHECKED]


def _pixels(dataset: Any) -> npt.NDArray[np.uint8] | None:
    """Give all images as one array, where the class holds one that shows what it gives.

    Shape: (n, height, width, 3).
    """
    held = getattr(dataset, "data", None)
    array = np.asarray(held) if hasattr(held, "shape") else None
    if array is None or array.dtype != np.uint8 or len(array) != len(dataset):
        return None
    if array.ndim == 3:
        array = np.repeat(array[..., None], 3, axis=3)
    if array.ndim == 4 and array.shape[1] == 3 and array.shape[3] != 3:
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] != 3:
        return None
    for row in _some_rows(dataset):
        given = np.asarray(dataset[row][0].convert("RGB"))
        if not np.array_equal(given, array[row]):
            return None
    return np.ascontiguousarray(array)
