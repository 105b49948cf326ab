"""From what the user calls a dataset to its images, and to cheap facts about it.

The sources (`data.images.cifar`, `data.images.digits`, `data.images.elpv`, `data.images.folder`)
are imported only when one is used: the fast path of stage one asks for names and fingerprints, and
pays for nothing else.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from data.common.datasets import BUILT_IN
from data.common.errors import UserError, nearest
from data.common.files import stat_stamp
from data.images.arrays import (
    ImageDataset,
    RawDataset,
    digest_rows,
    digested,
    spill,
)
from data.images.sampling import stratified_subset

__all__ = ["dataset_name", "load_dataset", "source_fingerprint", "source_sha256"]


def load_dataset(
    dataset: str,
    *,
    data_dir: Path,
    limit: int | None = None,
    data_url: str | None = None,
    data_sha256: str | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
) -> ImageDataset:
    """Read a dataset, downloading it if need be.

    ``limit`` takes a stratified subset of so many training rows, at least one of each class, and of
    the test split the same share, rounded up, with at least one row of each of its classes. The
    choice depends on nothing but the labels and the limit.
    """
    kind = _kind(dataset)
    _check_options(kind, dataset, limit, data_url, data_sha256, test_fraction)
    if kind == "digits":
        from data.images.digits import read_digits

        source = read_digits()
    elif kind == "elpv":
        from data.images.elpv import read_elpv

        source = read_elpv()
    elif kind == "folder":
        from data.images.folder import read_folder

        source = read_folder(
            _folder(dataset), dataset_name(dataset), test_fraction=test_fraction, seed=seed
        )
    else:
        from data.images.cifar import ARCHIVES, read_cifar

        source = read_cifar(ARCHIVES[kind], Path(data_dir), data_url, data_sha256)
    return _finish(source, limit, Path(data_dir))


def dataset_name(dataset: str) -> str:
    """Turn what the user typed into a short name for files and tables."""
    kind = _kind(dataset)
    if kind != "folder":
        return kind
    name = re.sub(r"[^\w.-]+", "-", _folder(dataset).name).strip("-.") or "folder"
    # So that ./cifar10 is not taken for the dataset of that name in a list of stores.
    return f"{name}-folder" if name in BUILT_IN else name


def source_fingerprint(
    dataset: str, *, data_dir: Path, data_url: str | None = None, data_sha256: str | None = None
) -> dict[str, str] | None:
    """Tell cheaply what lies on the disk now, so that a later run can see that it is the same.

    ``path`` is the archive or folder that would be read, and ``stat`` a digest of the names, sizes,
    times and inodes of its files. None if there is nothing yet and it would be downloaded.
    """
    kind = _kind(dataset)
    _check_options(kind, dataset, None, data_url, data_sha256, None)
    if kind == "digits":
        from data.images.digits import version

        return {"path": "scikit-learn", "stat": version()}
    if kind == "elpv":
        from data.images.elpv import elpv_files, find_elpv

        return {"path": str(find_elpv()), "stat": stat_stamp(find_elpv(), elpv_files())}
    if kind == "folder":
        from data.images.folder import scan

        root = _folder(dataset)
        return {"path": str(root), "stat": stat_stamp(root, scan(root).files())}
    from data.images.cifar import ARCHIVES, locate

    archive = ARCHIVES[kind]
    location = locate(archive, Path(data_dir), data_url, data_sha256)
    if not location.exists:
        return None
    members = archive.members if location.kind == "folder" else None
    return {"path": os.path.abspath(location.path), "stat": stat_stamp(location.path, members)}


def source_sha256(
    dataset: str, *, data_dir: Path, data_url: str | None = None, data_sha256: str | None = None
) -> str | None:
    """Digest what would be read, for the case that its fingerprint has changed.

    It is what `load_dataset` puts in ``origin["sha256"]``. None for images in files, of which only
    `load_dataset` can tell whether the rows in use are the same.
    """
    kind = _kind(dataset)
    _check_options(kind, dataset, None, data_url, data_sha256, None)
    if kind in ("elpv", "folder"):
        return None
    if kind == "digits":
        from data.images.digits import digits_sha256

        return digits_sha256()
    from data.images.cifar import ARCHIVES, cifar_sha256, locate

    archive = ARCHIVES[kind]
    return cifar_sha256(archive, locate(archive, Path(data_dir), data_url, data_sha256))


def _folder(dataset: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(dataset)))


def _kind(dataset: str) -> str:
    """Give the name of a built-in dataset, or ``"folder"``."""
    if dataset in BUILT_IN:
        return dataset
    if dataset and _folder(dataset).is_dir():
        return "folder"
    if dataset and _folder(dataset).exists():
        raise UserError(
            f"--dataset {dataset} is a file; give {', '.join(BUILT_IN)}, or a folder of images "
            "(an archive goes to --data-dir)"
        )
    hint = nearest(dataset, BUILT_IN)
    raise UserError(
        f"unknown dataset {dataset!r}: it is not {', '.join(BUILT_IN[:-1])} or {BUILT_IN[-1]}, "
        f"and there is no folder of that name" + (f"; {hint}" if hint else "")
    )


def _check_options(
    kind: str,
    dataset: str,
    limit: int | None,
    data_url: str | None,
    data_sha256: str | None,
    test_fraction: float | None,
) -> None:
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} is not possible; give a positive number of images")
    if kind not in ("cifar10", "cifar100"):
        for option, value in (("--data-url", data_url), ("--data-sha256", data_sha256)):
            if value is not None:
                raise UserError(
                    f"{option} is for cifar10 and cifar100, not for --dataset {dataset}; "
                    "leave it out"
                )
    if test_fraction is not None:
        if kind != "folder":
            raise UserError(
                f"--test-fraction is for folders of images; {kind} comes with its own test "
                "split, so leave the option out"
            )
        if not 0 < test_fraction < 1:
            raise UserError(
                f"--test-fraction {test_fraction} is not possible; give a number between 0 and 1, "
                "such as 0.2"
            )


def _finish(source: RawDataset, limit: int | None, data_dir: Path) -> ImageDataset:
    """Check that there is something to learn, apply the limit, and digest what is left."""
    from data.images.folder import hash_files

    where, n_classes = source.origin["path"], len(source.class_names)
    if n_classes < 2:
        raise UserError(
            f"{where} holds {n_classes} class ({', '.join(source.class_names)}); a classifier "
            "needs at least 2, each in a sub-folder of its own"
        )
    train, test = source.train, source.test
    for split, name in ((train, "training"), (test, "test")):
        if not len(split):
            raise UserError(f"the {name} split of {where} is empty; add images to it")
    if limit is not None and limit >= len(train):
        limit = None  # everything is in use, as without a limit: the same data, the same digest
    if limit is not None:
        if limit < n_classes:
            raise UserError(
                f"--limit {limit} is less than one image for each of the {n_classes} classes of "
                f"{source.name}; give at least {n_classes}"
            )
        share = -(-limit * len(test) // len(train))
        n_test = max(share, len(np.unique(test.labels)))
        train = train.take(stratified_subset(train.labels, limit))
        test = test.take(stratified_subset(test.labels, n_test))
    train, test = spill(train, data_dir), spill(test, data_dir)
    train, test = digested(train, hash_files), digested(test, hash_files)
    digest = digest_rows(source.class_names, train, test)
    return ImageDataset(
        source.name,
        source.class_names,
        train,
        test,
        source.origin,
        digest,
        limit,
        validation=source.validation,
    )
