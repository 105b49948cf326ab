"""Stage one from Python: a data set in memory in, an open store out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from data.common.cache_folder import expand_user, use_cache_folder
from data.common.errors import UserError, nearest
from data.format.records import Features
from data.images.sources.sequences import PREFIX, Given
from data.images.splits import split_of
from data.reading import open_features
from extract.model.bundled import CHOICE, check_model
from extract.model.features.choice import check_layer, check_pool
from extract.model.names import BUNDLED_MODEL, DEFAULT_MODEL, DEFAULT_MODEL_IMAGE_SIZE
from extract.model.pixels import PIXELS, check_no_weights
from extract.options import Options, usable_cpus

# What says where images lie, how a command line runs, or is a parameter of `embed`.
_NOT_HERE = {
    *("dataset", "data_dir", "data_url", "data_sha256", "test_fraction", "dry_run", "given"),
    *("columns", "image_root", "class_names_file", "cluster", "scheduler", "address"),
    *("model", "weights", "features_dir"),
}


def embed(
    dataset: Any,
    *,
    name: str,
    test: Any = None,
    validation: Any = None,
    test_fraction: float | None = None,
    class_names: Sequence[str] | None = None,
    model: str | None = None,
    weights: str | os.PathLike[str] = "hub",
    features_dir: str | os.PathLike[str] = "features",
    **options: Any,
) -> Features:
    """Embed images that a Python program holds, or find that it has been done.

    The images are read once for their digests, which decide whether there is a finished store, and
    again while they are embedded. A run that was interrupted goes on where it stopped when the same
    call is made again. The same images give the same rows as from files.

    Parameters
    ----------
    dataset : sequence of (image, label), torch Dataset, or mapping of splits to these
        Anything with ``len`` whose items are pairs. An image is a path, the bytes of an image file,
        a PIL image, or an array of uint8 of shape (height, width, 3) or (height, width); not what a
        transform made of it. A label is text or a whole number; None for an image without one,
        which is embedded and left out of fits. A mapping has the keys ``train``, ``test`` and
        ``validation``, in any spelling that folders may have.
    name : str
        What the data set is called: the folder of its stores in `features_dir`.
    test, validation : sequence of (image, label) or torch Dataset, optional
        The other splits, where `dataset` is the training split.
    test_fraction : float, optional
        The share of each class to hold out where there is no test split.
    class_names : sequence of str, optional
        What labels that are numbers stand for, from 0 on. By default ``dataset.classes``, where it
        has them, and else the numbers.
    model : str, optional
        A model of timm, ``hf-hub:OWNER/NAME``, ``local-dir:FOLDER``, ``open_clip:NAME/TAG``,
        ``transformers:NAME_OR_FOLDER``, ``package.module:factory`` for code of the user's own, or
        ``pixels`` for none; by default that of the command line, at its size, or of
        ``weights="bundled"``.
    weights : str or path
        ``hub``, ``bundled``, ``random``, or a file of weights.
    features_dir : str or path
        Where stores lie.
    **options
        Other options of ``python -m extract``, with underscores for dashes: ``image_size``,
        ``pool``, ``layer`` (``-1`` or ``"last4"``), ``batch_size``, ``device``, ``precision``,
        ``engine``, ``jobs``, ``limit``, ``seed``, ``skip_bad_images``, ``store_dtype``,
        ``force``, ...

    Returns
    -------
    Features
        The open store, as `data.open_features` gives it; ``.path`` is its file, for
        ``python -m classify fit``.

    Raises
    ------
    UserError
        For an image, a label or an option that cannot be used, with what to do about it.
    """
    chosen = _options(name, model, os.fspath(weights), expand_user(features_dir), options)
    splits = _splits(dataset, test=test, validation=validation)
    use_cache_folder(chosen["features_dir"])
    given = Given.of(splits, class_names)

    from extract.run import extract

    path = extract(Options(**chosen, test_fraction=test_fraction, given=given))
    assert path is not None  # this is no dry run
    return open_features(path)


def _options(
    name: str, model: str | None, weights: str, features_dir: Path, more: dict[str, Any]
) -> dict[str, Any]:
    """Settle the options as the command line does."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(
            f"name={name!r} is not possible; give a word of letters, digits, dots and dashes, "
            "which becomes a folder"
        )
    known = {field.name for field in fields(Options)} - _NOT_HERE
    for option in more:
        if option not in known:
            hint = nearest(option, known)
            raise UserError(
                f"embed() has no option {option!r}; {hint or 'it has ' + ', '.join(sorted(known))}"
            )
    size = more.get("image_size")
    if weights == CHOICE:
        model = model or BUNDLED_MODEL
        check_model(model)
    if model == PIXELS:
        check_no_weights(weights)
    if model is None:
        model, size = DEFAULT_MODEL, size or DEFAULT_MODEL_IMAGE_SIZE
    # On the command line, too, a square is a number.
    if isinstance(size, Sequence) and not isinstance(size, str):
        height, width = size
        size = height if height == width else (height, width)
    if "pool" in more:
        check_pool(str(more["pool"]))
    if more.get("layer") is not None:
        more = more | {"layer": check_layer(str(more["layer"]))}
    return {
        "jobs": usable_cpus(),
        **more,
        "dataset": f"{PREFIX}{name}",
        "data_dir": features_dir,  # where pixels of large arrays may be put aside
        "model": model,
        "weights": weights,
        "image_size": size,
        "features_dir": features_dir,
    }


def _splits(dataset: Any, **others: Any) -> dict[str, Any]:
    """Name the splits that were given."""
    given = {name: items for name, items in others.items() if items is not None}
    if not isinstance(dataset, Mapping):
        return {"train": dataset, **given}
    if given:
        raise UserError(
            f"embed() got a mapping of splits and {', '.join(given)} beside it; put "
            f"{'it' if len(given) == 1 else 'them'} into the mapping"
        )
    found: dict[str, Any] = {}
    for key, items in dataset.items():
        split = split_of(str(key))
        if split is None or split in found:
            what = "is no split" if split is None else f"is the {split} split a second time"
            raise UserError(f"embed(): the key {key!r} {what}; give train, validation and test")
        found[split] = items
    return found
