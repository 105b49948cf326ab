"""``python -m extract verify``: a store's checksums, and a few of its rows embedded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.cli import say
from data.dataset import ArrayImages, ImageDataset, Split, load_dataset
from data.errors import UserError
from data.store import Features, open_features, verify_store

# Largest difference, relative to the largest value of the store's rows, that a recomputation in
# float32 may show: other devices and batch sizes stay below 1e-5, stored halves round to 5e-4.
TOLERANCE = {"float32": 1e-4, "float16": 2e-3}
# Half-precision networks lose digits at every layer: the direction of a row is what remains.
LOWEST_COSINE = {"fp32": 0.9999, "fp16": 0.99, "bf16": 0.98}


def verify(
    path: Path,
    *,
    rows: int,
    data_dir: Path | None,
    weights: Path | None,
    device: str,
    seed: int,
) -> None:
    """Recompute every checksum of a store, and embed a few random rows again in float32.

    Parameters
    ----------
    path : Path
        The store.
    rows : int
        How many rows to embed again; 0 for none.
    data_dir : Path or None
        Where the images lie now, if not where they lay.
    weights : Path or None
        Where the weights file lies now, if not where it lay.
    device : {'auto', 'cpu', 'cuda'}
        Where to compute.
    seed : int
        Of the choice of rows.

    Raises
    ------
    UserError
        If a checksum is wrong, or the rows come out otherwise than they are stored.
    """
    report = verify_store(path)
    for entry in report.datasets:
        shape = " x ".join(f"{side:,}" for side in entry.shape)
        say(f"  {entry.name:<18} {entry.dtype:<8} {shape:<22} {entry.sha256[:16]}")
    say(f"{path}: {len(report.datasets)} checksums are right, {report.size / 1e6:,.1f} MB")
    if rows < 1:
        return
    try:
        store = open_features(path, verify=False)
        dataset = _images_of(store, data_dir)
        backbone = _backbone_of(store, weights)
    except UserError as error:
        say(f"the rows were not embedded again: {error}")
        return
    _compare(store, dataset, backbone, rows, device, seed)


def _images_of(store: Features, data_dir: Path | None) -> ImageDataset:
    """Load the images that a store was made from, and make sure they are the same."""
    options = store.request.get("options", {})
    stamp = store.request.get("files", {}).get("dataset", {})
    name = store.spec["dataset"]["name"]
    origin = store.provenance.get("dataset", {})
    where = data_dir or Path(stamp.get("path", ".")).parent
    source = str(data_dir or stamp.get("path")) if origin.get("kind") == "folder" else name
    dataset = load_dataset(
        source,
        data_dir=where,
        limit=store.spec["dataset"]["limit"],
        data_url=options.get("data_url"),
        data_sha256=options.get("data_sha256"),
        test_fraction=options.get("test_fraction"),
        seed=options.get("seed") or 0,
    )
    if dataset.digest != store.spec["dataset"]["digest"]:
        raise UserError(f"the images of {name} at {where} are not those that it was made from")
    return dataset


def _backbone_of(store: Features, weights: Path | None) -> Any:
    from extract.images import backbone_of_spec

    return backbone_of_spec(store.spec, weights or store.provenance.get("weights_file"))


def _compare(
    store: Features, dataset: ImageDataset, backbone: Any, rows: int, device: str, seed: int
) -> None:
    """Embed random rows of both splits in float32, and compare them with what is stored."""
    from extract.embed import Embedder, choose_device
    from extract.engines import default_engine

    chosen = choose_device(device)
    embedder = Embedder(backbone, chosen, "fp32", default_engine(backbone), min(rows, 16))
    generator = np.random.default_rng(seed)
    total = len(store.train.labels) + len(store.test.labels)
    picked = generator.choice(total, size=min(rows, total), replace=False)
    stored, again, ids = [], [], []
    for stored_split, split, first in (
        (store.train, dataset.train, 0),
        (store.test, dataset.test, len(store.train.labels)),
    ):
        chosen_rows = np.sort(
            picked[(picked >= first) & (picked < first + len(stored_split.labels))] - first
        )
        position = {identity: row for row, identity in enumerate(split.ids)}
        for start in range(0, len(chosen_rows), embedder.batch_size):
            batch = chosen_rows[start : start + embedder.batch_size]
            names = [stored_split.ids[row] for row in batch]
            again.append(embedder.embed([_image(split, position[name]) for name in names]))
            stored.append(stored_split.features[batch].astype(np.float32))
            ids.extend(names)
    _report(store, np.concatenate(stored), np.concatenate(again), ids)


def _image(split: Split, row: int) -> npt.NDArray[np.uint8]:
    if isinstance(split.images, ArrayImages):
        return split.images.rows(row, row + 1)[0]
    return split.images.decode(row)


def _report(
    store: Features,
    stored: npt.NDArray[np.float32],
    again: npt.NDArray[np.float32],
    ids: list[str],
) -> None:
    """Say how far the rows are from what is stored, and refuse what rounding cannot explain."""
    scale = float(np.abs(again).max()) or 1.0
    error = np.abs(stored - again).max(axis=1) / scale
    lengths = np.linalg.norm(stored, axis=1) * np.linalg.norm(again, axis=1)
    cosine = (stored * again).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    precision = store.spec["precision"]
    say(
        f"{len(ids)} rows embedded again in fp32 (stored: {precision}, {store.dtype}): "
        f"largest difference {error.max():.1e} of the largest value, lowest cosine "
        f"{cosine.min():.6f}"
    )
    wrong = cosine < LOWEST_COSINE[precision]
    if precision == "fp32":
        wrong |= error > TOLERANCE[store.dtype]
    if wrong.any():
        named = ", ".join(np.array(ids)[wrong][:3])
        raise UserError(
            f"{store.path}: {int(wrong.sum())} of {len(ids)} rows ({named}) are not what this "
            "backbone gives for these images; make the store again with --force"
        )
