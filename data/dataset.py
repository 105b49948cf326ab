"""From what the user calls a dataset to its images, and to cheap facts about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data.common.errors import UserError
from data.images.arrays import ImageDataset, RawDataset, Split
from data.images.digests import content_sha256, digest_dataset
from data.images.sampling import stratified_subset
from data.images.sources.registry import Kind, SourceRequest, dataset_name, kind_of, source
from data.images.spilled import spill

__all__ = ["dataset_name", "load_dataset", "source_fingerprint", "source_sha256"]


def load_dataset(dataset: str, *, limit: int | None = None, **asked: Any) -> ImageDataset:
    """Read a dataset, downloading it if need be; `asked` is the rest of a `SourceRequest`.

    ``limit`` takes a stratified subset of so many training rows, at least one of each class, and of
    the other splits the same share, rounded up, with at least one row of each of their classes. The
    choice depends on nothing but the labels and the limit.
    """
    request = SourceRequest(dataset, **asked)
    kind = kind_of(dataset)
    _check_options(kind, request, limit)
    return finish(source(kind).read(request), limit, Path(request.data_dir))


def source_fingerprint(dataset: str, **asked: Any) -> dict[str, str] | None:
    """Tell cheaply what lies on the disk now, so that a later run can see that it is the same.

    ``path`` is the archive or folder that would be read, and ``stat`` a digest of the names, sizes,
    times and inodes of its files. None if there is nothing yet and it would be downloaded.
    """
    request = SourceRequest(dataset, **asked)
    kind = kind_of(dataset)
    _check_options(kind, request, None)
    found: dict[str, str] | None = source(kind).fingerprint(request)
    return found


def source_sha256(dataset: str, **asked: Any) -> str | None:
    """Digest what would be read, for the case that its fingerprint has changed.

    It is what `load_dataset` puts in ``origin["sha256"]``. None for images in files, of which only
    `load_dataset` can tell whether the rows in use are the same.
    """
    request = SourceRequest(dataset, **asked)
    kind = kind_of(dataset)
    _check_options(kind, request, None)
    found: str | None = source(kind).source_sha256(request)
    return found


def _check_options(kind: Kind, asked: SourceRequest, limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit} is not possible; give a positive number of images")
    if kind.name not in ("cifar10", "cifar100"):
        for option, value in (("--data-url", asked.data_url), ("--data-sha256", asked.data_sha256)):
            if value is not None:
                raise UserError(
                    f"{option} is for cifar10 and cifar100, not for --dataset {asked.dataset}; "
                    "leave it out"
                )
    if asked.test_fraction is not None:
        if not kind.takes_test_fraction:
            raise UserError(
                f"--test-fraction is for folders of images; {kind.name} comes with its own test "
                "split, so leave the option out"
            )
        if not 0 < asked.test_fraction < 1:
            raise UserError(
                f"--test-fraction {asked.test_fraction} is not possible; give a number between 0 "
                "and 1, such as 0.2"
            )


def finish(raw: RawDataset, limit: int | None, data_dir: Path) -> ImageDataset:
    """Check that there is something to learn, apply the limit, and digest what is left."""
    where, n_classes = raw.origin["path"], len(raw.class_names)
    if n_classes < 2:
        raise UserError(
            f"{where} holds {n_classes} class ({', '.join(raw.class_names)}); a classifier "
            "needs at least 2, each in a sub-folder of its own"
        )
    splits = raw.splits
    for name, called in (("train", "training"), ("test", "test")):
        if not len(splits[name]):
            raise UserError(f"the {called} split of {where} is empty; add images to it")
    if limit is not None and limit >= len(raw.train):
        limit = None  # everything is in use, as without a limit: the same data, the same digest
    if limit is not None:
        if limit < n_classes:
            raise UserError(
                f"--limit {limit} is less than one image for each of the {n_classes} classes of "
                f"{raw.name}; give at least {n_classes}"
            )
        splits = {name: _limited(name, split, limit, raw) for name, split in splits.items()}
    splits = {
        name: spill(split, data_dir).with_digests() for name, split in splits.items() if len(split)
    }
    return ImageDataset(
        **{field: getattr(raw, field) for field in ("name", "class_names", "group_names")},
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        unlabelled=splits.get("unlabelled"),
        origin=raw.origin | {"content_sha256": content_sha256(raw.class_names, splits)},
        digest=digest_dataset(raw.class_names, raw.group_names, splits),
        limit=limit,
    )


def _limited(name: str, split: Split, limit: int, raw: RawDataset) -> Split:
    """Take a stratified part of a split: as large a share of each as the limit is of training."""
    if name == "train":
        return split.take(stratified_subset(split.labels, limit))
    share = -(-limit * len(split) // len(raw.train))
    n_rows = max(share, len(np.unique(split.labels)))
    return split.take(stratified_subset(split.labels, n_rows))
