"""scikit-learn's bundled digits: the dataset that needs no network.

1,797 handwritten digits, 8 x 8 pixels in 17 grey levels, from the test set of the UCI
Optical Recognition of Handwritten Digits data (Alpaydin and Kaynak, 1998).
"""

from __future__ import annotations

import importlib.metadata

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError
from data.common.files import sha256_file
from data.common.packages import package_folder
from data.images.arrays import ArrayImages, RawDataset, Split
from data.images.sources.registry import SourceRequest

CLASS_NAMES = tuple("0123456789")
TEST_EVERY = 5  # the fifth, tenth, ... image of each class is for testing: 1,442 and 355 images


def fingerprint(_: SourceRequest) -> dict[str, str]:
    """Tell which version is installed."""
    return {"path": "scikit-learn", "stat": version()}


def source_sha256(_: SourceRequest) -> str:
    """Digest the file that is installed."""
    return digits_sha256()


def read(_: SourceRequest) -> RawDataset:
    """Read the digits as RGB images with a fixed stratified split.

    Within each class, in the order in which scikit-learn ships them, every fifth image is for
    testing and the others are for training: the same split everywhere, with no random numbers.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(np.asarray(bunch.images) * (255 / 16)).astype(np.uint8)
    labels = np.asarray(bunch.target, dtype=np.int64)
    test = _is_test(labels)
    return RawDataset(
        name="digits",
        class_names=CLASS_NAMES,
        train=_split(grey, labels, ~test),
        test=_split(grey, labels, test),
        origin={
            "kind": "bundled",
            "path": "scikit-learn",
            "version": version(),
            "sha256": digits_sha256(),
            "verified": False,
        },
    )


def _is_test(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    test = np.zeros(len(labels), dtype=np.bool_)
    for label in range(len(CLASS_NAMES)):
        test[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return test


def _split(
    grey: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_]
) -> Split:
    rows = np.flatnonzero(chosen)
    rgb = np.repeat(grey[rows][..., None], 3, axis=3)
    return Split(ArrayImages(rgb), labels[rows], tuple(f"digits:{row}" for row in rows))


def version() -> str:
    """Version of the installed scikit-learn, without importing it."""
    return importlib.metadata.version("scikit-learn")


def digits_sha256() -> str:
    """Digest of the file that scikit-learn reads the digits from, without importing it."""
    folder = package_folder("sklearn")
    if folder is None:
        raise UserError("the dataset digits is a part of scikit-learn, which is not installed")
    path = folder / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise UserError(f"scikit-learn's file of digits, {path}, is missing; install it again")
    return sha256_file(path)
