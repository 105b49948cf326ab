"""From what the user calls a dataset to its images, and to cheap facts about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.cli import log
from data.common.errors import UserError
from data.images.arrays import ImageDataset, RawDataset, Split
from data.images.classes import check_classes, with_classes
from data.images.digests import content_sha256, digest_dataset
from data.images.sampling import hold_out, hold_out_groups, stratified_subset
from data.images.shared import shared_groups, shared_images, shared_sentence
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
    raw = with_classes(
        source(kind).read(request),
        request.class_names_file,
        request.merge_classes,
        request.drop_class,
    )
    check_classes(raw)
    raw = with_test_split(raw, request.test_fraction, request.seed)
    return finish(raw, limit, Path(request.data_dir))


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
    named = [role for role, word in asked.columns.items() if word and role not in kind.roles]
    if named or (asked.image_root is not None and kind.name != "table"):
        raise UserError(
            f"--{f'{named[0]}-column' if named else 'image-root'} is for tables, not for "
            f"--dataset {asked.dataset}; leave it out"
        )
    if asked.test_fraction is not None:
        if not kind.takes_test_fraction:
            raise UserError(
                f"--test-fraction is for data without a test split; {kind.name} comes with its "
                "own, so leave the option out"
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
            "needs at least 2"
            + (", each in a sub-folder of its own" if raw.origin.get("kind") == "folder" else "")
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
    origin = raw.origin | {"content_sha256": content_sha256(raw.class_names, splits)}
    return ImageDataset(
        **{field: getattr(raw, field) for field in ("name", "class_names", "group_names")},
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        unlabelled=splits.get("unlabelled"),
        origin=origin | _shared(splits, raw.group_names),
        digest=digest_dataset(raw.class_names, raw.group_names, splits),
        limit=limit,
    )


def with_test_split(raw: RawDataset, fraction: float | None, seed: int) -> RawDataset:
    """Hold out rows of a data set that comes without a test split: of a group all or none."""
    where = raw.origin["path"]
    if len(raw.test):
        if fraction is not None:
            raise UserError(
                f"{where} has its own test split, of {len(raw.test):,} images; leave "
                "--test-fraction out"
            )
        return raw
    if fraction is None:
        if raw.validation is None or not len(raw.validation):
            raise UserError(
                f"{where} has no test split, so nothing could be measured\nadd --test-fraction 0.2 "
                "to hold out a fifth of each class, or name the test images"
            )
        log(f"{where} has no test split; its validation split is the test split")
        return replace(raw, test=raw.validation, validation=None)
    held = _held_out(raw, fraction, seed)
    origin = raw.origin | {"test_fraction": fraction, "seed": seed}
    train, test = (raw.train.take(np.flatnonzero(rows)) for rows in (~held, held))
    return replace(raw, train=train, test=test, origin=origin)


def _held_out(raw: RawDataset, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose the rows of the test split, as stratified as groups allow."""
    labels, groups = raw.train.labels, raw.train.groups
    if groups is None:
        held = np.zeros(len(labels), np.bool_)
        for label in range(len(raw.class_names)):
            rows = np.flatnonzero(labels == label)
            held[rows] = hold_out([raw.train.ids[row] for row in rows], fraction, seed)
        return held
    held = hold_out_groups(labels, groups, raw.group_names, fraction, seed)
    n_groups, n_held = len(np.unique(groups)), len(np.unique(groups[held]))
    if not n_held:
        raise UserError(
            f"{raw.origin['path']} has {n_groups} group{'s' * (n_groups != 1)}, none of which can "
            "be held out: each has all images of a class\ngive finer groups with --group-column, "
            "leave such classes out with --drop-class, or name the test images in a column split"
        )
    log(
        f"held out {n_held:,} of {n_groups:,} groups, {held.mean():.1%} of the images "
        f"({fraction:.1%} asked for)"
    )
    alone = sorted(set(labels.tolist()) - set(labels[held].tolist()))
    if alone:
        names = ", ".join(raw.class_names[label] for label in alone[:3])
        log(
            f"warning: no test image of {len(alone):,} classes, whose images cannot be spared: "
            f"{names}{', ...' if len(alone) > 3 else ''}"
        )
    return held


def _shared(splits: Mapping[str, Split], group_names: tuple[str, ...]) -> dict[str, Any]:
    """Report groups and images that are in more than one split."""
    reported = {}
    for name, what, found in (
        ("shared_groups", "groups", shared_groups(splits, group_names)),
        ("shared_images", "identical images", shared_images(splits)),
    ):
        if found is not None:
            log(shared_sentence(what, found))
            reported[name] = found
    return reported


def _limited(name: str, split: Split, limit: int, raw: RawDataset) -> Split:
    """Take a stratified part of a split: as large a share of each as the limit is of training."""
    if name == "train":
        return split.take(stratified_subset(split.labels, limit))
    share = -(-limit * len(split) // len(raw.train))
    n_rows = max(share, len(np.unique(split.labels)))
    return split.take(stratified_subset(split.labels, n_rows))
