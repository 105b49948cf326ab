"""Rebuild the backbone of a store's spec, and embed image files with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.common.cli import log, progress
from data.common.errors import UserError
from data.common.files import atomic_path, check_writable
from data.common.shapes import mismatch
from data.format.spec import PRECISIONS, SPEC_SHAPE, check_decode, is_imported
from data.images.decode import MAX_PIXELS, BadImageError, TooManyPixelsError, decode_file
from extract.engines.build import default_engine
from extract.engines.device import OutOfMemoryError, choose_device, default_batch_size
from extract.engines.embed import Embedder
from extract.model.from_spec import backbone_of_spec
from extract.model.preprocess import Prepared, prepared, wanted_of
from extract.model.preprocessing import Preprocessing

IMAGES_NAMED = 5


@dataclass(frozen=True)
class How:
    """How image files are embedded."""

    weights: Path | None = None  # the weights file, if it is not where it was
    device: str = "auto"  # auto, cpu or cuda: where to compute, in the precision of the spec
    decode: str | None = None  # refused if it is not the spec's own
    max_pixels: int = MAX_PIXELS  # refuse images with more


def read_spec(path: Path) -> tuple[dict[str, Any], str | None]:
    """Read ``{"spec": ..., "weights_file": path or null}``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"--spec {path}: no such file; give a JSON file with 'spec' and 'weights_file'"
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"--spec {path}: cannot be read as JSON ({error}); write it again"
        ) from error
    spec = content.get("spec") if isinstance(content, dict) else None
    needed = {"model", "preprocessing", "pool", "precision", "seed"}
    if not isinstance(spec, dict) or not needed <= spec.keys():
        raise UserError(
            f"--spec {path}: expected an object with 'spec' (a store's spec: "
            f"{', '.join(sorted(needed))}) and 'weights_file'"
        )
    # A spec from a head that somebody else made: nothing in it is believed.
    parts = (spec, content["weights_file"]) if "weights_file" in content else (spec, None)
    problem = mismatch(parts[0], SPEC_SHAPE, "spec") or mismatch(
        parts[1], (str, type(None)), "weights_file"
    )
    if not problem and is_imported(spec):
        raise UserError(
            f"--spec {path}: it is of features that were imported, and no model is known that "
            "embeds images like them; give feature files to python -m classify predict"
        )
    if not problem and spec["precision"] not in PRECISIONS:
        problem = f"spec.precision is {spec['precision']!r}, expected {' or '.join(PRECISIONS)}"
    if not problem and not {"name", "args", "weights"} <= spec["model"].keys():
        problem = "spec.model has no name, args or weights"
    if problem:
        raise UserError(f"--spec {path}: {problem}; take the spec of a store or a head unchanged")
    return parts


def read_list(path: Path) -> list[Path]:
    """Read a JSON list of file names."""
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"--list {path}: cannot be read as JSON ({error}); give a JSON list of file names"
        ) from error
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserError(f"--list {path}: expected a JSON list of file names, one or more")
    return [Path(name) for name in names]


def embed_files(
    spec_path: Path,
    images: Sequence[Path],
    out: Path,
    how: How,
) -> None:
    """Embed image files and write the vectors as a NumPy file.

    Parameters
    ----------
    spec_path : Path
        See `read_spec`.
    images : sequence of Path
        Files of the formats that `data.images.decode.decode_file` takes.
    out : Path
        For a float32 array of shape (number of images, width), in their order.
    how : How
        Where the weights lie, and where to compute.

    Raises
    ------
    UserError
        If a file is no image, or the backbone cannot be had.
    """
    spec, weights_file = read_spec(spec_path)
    check_decode(how.decode, spec, "the store of this spec")
    check_writable(out.resolve().parent)
    chosen = choose_device(how.device)
    backbone = backbone_of_spec(spec, how.weights or weights_file)
    batch_size = min(default_batch_size(chosen), len(images))
    engine = default_engine(backbone)
    settings = backbone.preprocessing
    while True:
        embedder = Embedder(backbone, chosen, spec["precision"], engine, batch_size)
        try:
            with progress(len(images), "images", "image") as bar:
                blocks: list[Any] = []
                unread: list[Path] = []
                # Decoded batch by batch: thousands of photographs do not fit into memory.
                for start in range(0, len(images), batch_size):
                    batch = [
                        _decode(path, settings, how.max_pixels, unread)
                        for path in images[start : start + batch_size]
                    ]
                    blocks.append(embedder.embed(batch))
                    bar.update(len(batch))
            break
        except OutOfMemoryError as error:
            if batch_size == 1:
                raise UserError("one image does not fit into memory; give --device cpu") from error
            batch_size //= 2
    if unread:
        names = ", ".join(str(path) for path in unread[:IMAGES_NAMED])
        more = ", ..." if len(unread) > IMAGES_NAMED else ""
        log(
            f"the rotation of {len(unread):,} of {len(images):,} images cannot be read; they are "
            f"taken as stored: {names}{more}"
        )
    with atomic_path(out) as temporary, open(temporary, "wb") as stream:
        np.save(stream, np.concatenate(blocks), allow_pickle=False)


def _decode(path: Path, settings: Preprocessing, max_pixels: int, unread: list[Path]) -> Prepared:
    try:
        image = decode_file(path, max_pixels=max_pixels, wanted=wanted_of(settings))
    except TooManyPixelsError as error:
        raise UserError(
            f"cannot decode the image {path}: {error.reason}\n"
            f"read it with --max-pixels {error.found}, make it smaller, or leave it out"
        ) from error
    except BadImageError as error:
        # Its own advice is about leaving images out, which makes no sense for one asked for.
        raise UserError(
            f"{path} is not an image that can be decoded: {error.reason}; "
            "repair it, or leave it out"
        ) from error
    if image.unread_rotation is not None:
        unread.append(path)
    return prepared(settings, image.picture, image.reduction)
