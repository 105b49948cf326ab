"""Rows taken over from a finished store of the same network and preprocessing.

A data set grows: most of its images are in a store already, and the same image gives the same row
whatever its name, its label and its place are. Images are known by their SHA-256. Rows are the
same bit for bit only from the same engine with the same batch size, on the same kind of device, by
the same versions of what computes; so the run goes on with what the store was made with, and takes
nothing over where that is not at hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.format.records import FeatureArray, Features, Header, StoreError
from data.format.spec import LAYER, canonical_json, cropped_twice, find_stores, pooled_otherwise
from data.images.arrays import EncodedImages, ImageDataset, Split
from data.images.decode import decoder
from data.reading import open_features, read_header
from extract.engines.place import Device
from extract.engines.plan import Plan
from extract.model.providers.registry import versions_of
from extract.options import Options

NOTHING = -1
# The names of unread rotations that a store lists in full.
_LISTED = "first"


@dataclass(frozen=True, eq=False)
class Taken:
    """Which rows come from a finished store, and how it was computed."""

    store: Features  # with its features on the disk
    # Of each split: where a row lies in the store, counted through its splits; -1 of new images
    rows: Mapping[str, npt.NDArray[np.int64]]
    plan: Plan  # not yet cut into shards
    digest: str = field(repr=False)  # of the store's key and bytes, and of which rows are taken

    @property
    def count(self) -> int:
        """How many rows are taken over."""
        return sum(int((rows != NOTHING).sum()) for rows in self.rows.values())

    @property
    def new_rows(self) -> str:
        """A digest of which rows are left to be embedded."""
        digest = hashlib.sha256()
        for name, rows in self.rows.items():
            digest.update(name.encode() + (rows == NOTHING).tobytes())
        return digest.hexdigest()

    def new(self, dataset: ImageDataset) -> dict[str, Split]:
        """Give the images that are left to be embedded, by split."""
        return {
            name: split.take(np.flatnonzero(self.rows[name] == NOTHING))
            for name, split in dataset.splits.items()
        }

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Read rows of the store, by their places: (k, width)."""
        found = np.empty((len(rows), self.store.n_features), np.float32)
        for start, split in zip(_starts(self.store), self.store.splits.values(), strict=True):
            here = (rows >= start) & (rows < start + len(split))
            table: Any = split.features
            found[here] = table.gather(rows[here] - start)
        return found

    def mixed(
        self, name: str, computed: Iterator[tuple[FeatureArray, npt.NDArray[np.bool_]]]
    ) -> Iterator[tuple[FeatureArray, npt.NDArray[np.bool_]]]:
        """Put rows that are taken over among those that were computed, in the data set's order."""
        places = self.rows[name]
        dtype = np.dtype(self.store.dtype)
        features = np.empty((0, self.store.n_features), dtype)
        ok = np.empty(0, np.bool_)
        for start in range(0, len(places), _BLOCK):
            block = places[start : start + _BLOCK]
            here = block != NOTHING
            n_new = int((~here).sum())
            while len(features) < n_new:
                more, good = next(computed)
                features, ok = np.concatenate([features, more]), np.concatenate([ok, good])
            rows, fine = np.empty((len(block), features.shape[1]), dtype), np.ones(len(block), bool)
            rows[here] = self.read(block[here])
            rows[~here], fine[~here] = features[:n_new], ok[:n_new]
            features, ok = features[n_new:], ok[n_new:]
            yield rows, fine

    def unread_rotations(self, dataset: ImageDataset) -> list[str]:
        """Name the images that the store took as they are stored, by their names of now."""
        named = set((self.store.provenance.get("unread_rotations") or {}).get(_LISTED, []))
        if not named:
            return []
        ids = [f"{name}/{i}" for name, split in self.store.splits.items() for i in split.ids]
        places = {place for place, name in enumerate(ids) if name in named}
        return [
            f"{name}/{split.ids[row]}"
            for name, split in dataset.splits.items()
            for row, place in enumerate(self.rows[name].tolist())
            if place in places
        ]


_BLOCK = 4096  # rows that are put together at a time


def take_over(
    options: Options, spec: Mapping[str, Any], dataset: ImageDataset, device: Device
) -> tuple[Taken | None, str]:
    """Find the store that has most of the images; say why, where one is near and not used."""
    if options.force or options.join != "copy":
        return None, ""
    tables = {name: split.image_sha256 for name, split in dataset.splits.items()}
    encoded = isinstance(dataset.train.images, EncodedImages)
    best: tuple[int, Features, dict[str, npt.NDArray[np.int64]], Plan] | None = None
    why = ""
    for path in find_stores(options.features_dir):
        header = _alike(path, spec)
        if header is None:
            continue
        plan, problem = _plan_of(header, options, device, encoded)
        if plan is None:
            why = why or f"{path} has images of the same network, and {problem}"
            continue
        try:
            store = open_features(path, verify=False, in_memory=False)
        except StoreError:  # a damaged one; `find` has said so
            continue
        rows = _places(store, tables)
        count = sum(int((found != NOTHING).sum()) for found in rows.values())
        if count and (best is None or count > best[0]):
            best = count, store, rows, plan
    if best is None:
        return None, why
    count, store, rows, plan = best
    total = sum(map(len, rows.values()))
    if options.engine == "auto" and 2 * count < total:
        # A store of a few images was made with an engine that need not be the fastest.
        return None, (
            f"{store.path} has {count:,} of {total:,} images; with so few no rows are taken over, "
            "and the engine is chosen anew"
        )
    try:
        store = open_features(store.path, in_memory=False)  # now with its bytes proven
    except StoreError as error:
        return None, f"no rows are taken over: {error}"
    return Taken(store, rows, plan, _digest(store, rows)), ""


def likely(options: Options, asked: Mapping[str, Any]) -> bool:
    """Tell cheaply whether rows may be taken over: a store was asked for in nearly these words."""
    if options.force or options.join != "copy":
        return False
    ours = _of_network(asked)
    for path in find_stores(options.features_dir):
        try:
            if _of_network(read_header(path).request.get("options", {})) == ours:
                return True
        except StoreError:
            continue
    return False


_OF_NETWORK = (
    *("model", "weights", "model_args", "image_size", "pool", LAYER, "crop_pct", "interpolation"),
)


def _of_network(asked: Mapping[str, Any]) -> list[Any]:
    return [asked.get(name) for name in _OF_NETWORK]


def _alike(path: Path, spec: Mapping[str, Any]) -> Header | None:
    """Read a store's header if all but its images is as wanted."""
    try:
        header = read_header(path)
    except StoreError:
        return None
    theirs, ours = (
        canonical_json({name: value for name, value in one.items() if name != "dataset"})
        for one in (header.spec, spec)
    )
    wrong = cropped_twice(header.spec) or pooled_otherwise(header.spec)
    return header if theirs == ours and not wrong else None


def _plan_of(
    header: Header, options: Options, device: Device, encoded: bool
) -> tuple[Plan | None, str]:
    """Say how the store was computed, if that can be done here; else what is another."""
    made = header.provenance
    engine, size = made.get("engine"), made.get("batch_size")
    asked = None if options.engine == "auto" else options.engine
    differing = [
        f"{what} {theirs}, this run has {ours}"
        for what, theirs, ours in (
            ("the device", made.get("device"), device.name),
            # The package's version, without what torch adds to it for the device.
            ("torch", str(made.get("torch")).partition("+")[0], device.torch.partition("+")[0]),
            *((name, made.get(name), ours) for name, ours in versions_of(options.model).items()),
            ("the engine", engine, asked or engine),
            ("batches of", size, options.batch_size or size),
            ("openvino", made.get("openvino"), device.openvino if engine == "openvino" else None),
            # Of images that somebody else has decoded there is none.
            ("the decoder", made.get("decoder"), decoder() if encoded else None),
        )
        if theirs != ours
    ]
    if engine == "compiled" and options.compile == "off":
        differing.append("a compiled network, this run has --compile off")
    unread = made.get("unread_rotations") or {}
    if int(unread.get("count", 0)) > len(unread.get(_LISTED, [])):
        differing.append("more images with rotations that cannot be read than it names")
    if differing:
        return None, f"was made with {differing[0]}: no rows are taken over"
    if not isinstance(engine, str) or not isinstance(size, int):
        return None, "does not say how it was made: no rows are taken over"
    return Plan(
        batch_size=size,
        engine=engine,
        device=device.name,
        threads=int(made.get("threads") or device.threads),
        torch=device.torch,
        openvino=made.get("openvino"),
        features=str(made.get("features") or ""),
    ), ""


def _places(
    store: Features, tables: Mapping[str, npt.NDArray[np.uint8]]
) -> dict[str, npt.NDArray[np.int64]]:
    """Find the images of a data set in a store, by their digests."""
    known: dict[bytes, int] = {}
    for start, split in zip(_starts(store), store.splits.values(), strict=True):
        if split.image_sha256 is not None:
            for row, digest in enumerate(split.image_sha256):
                known.setdefault(digest.tobytes(), start + row)
    return {
        name: np.array([known.get(digest.tobytes(), NOTHING) for digest in table], np.int64)
        for name, table in tables.items()
    }


def _starts(store: Features) -> list[int]:
    """Count where each split begins."""
    sizes = list(store.sizes.values())
    return [sum(sizes[:number]) for number in range(len(sizes))]


def _digest(store: Features, rows: Mapping[str, npt.NDArray[np.int64]]) -> str:
    digest = hashlib.sha256(store.key.encode())
    digest.update(str(store.provenance.get("finished")).encode())
    for name, places in rows.items():
        digest.update(name.encode() + places.astype("<i8").tobytes())
    return digest.hexdigest()
