"""``python -m extract verify``: a store's checksums, and a few of its rows embedded again.

They are embedded by the library's own transform and model (`extract.commands.witness`), so that a
fault of what made the store does not repeat itself here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.common.cli import log, progress
from data.common.errors import UserError
from data.dataset import load_dataset
from data.format.records import Features, Header
from data.format.spec import (
    FAST,
    IMPORTED,
    TWICE,
    check_decode,
    cropped_twice,
    decode_of,
    is_imported,
)
from data.images.arrays import ArrayImages, ImageDataset, Split
from data.images.decode import MAX_PIXELS
from data.reading import open_features, read_header, verify_store
from data.reembedded import EXACTLY, Rechecked, digest_of, write_rechecked
from extract.commands.decoding import compare_decoding
from extract.commands.provider_witness import witness_of
from extract.commands.witness import Witness
from extract.engines.device import choose_device
from extract.request import source_of_request

# What stored rows in fp32 may differ from timm's: the lowest cosine, and the largest difference
# relative to the largest value. Pillow gives timm's very pixels; small square images are resized
# on the device, where a grey level differs by at most 2 (tests/extract/test_one_path.py): of all
# 1,442 training digits with the bundled weights the lowest cosine was 0.99985 (at 128 pixels) and
# the largest difference 3.3e-2 (at 64). What is decoded at a reduced scale the witness resizes
# before it turns it upright, in another order.
TOLERANCE = {
    "pillow": (0.99999, 5e-3),
    "device": (0.9995, 6e-2),
    "reduced": (0.9999, 2e-2),
}
BATCH = 16
ROWS = 16
TABLE = "  {:<14} {:<14} {:>14} {:>14} {:>12}"


@dataclass(frozen=True)
class Check:
    """How a store is verified."""

    # How many rows to embed again by timm, half of them test rows; 0 for none. Where a number is
    # given, every engine and precision that runs here is compared on these rows as well, so is
    # fast decoding with exact, and the test rows are kept beside the store; None is `ROWS` rows
    # without that.
    rows: int | None = None
    data_dir: Path | None = None  # where the images lie now, if not where they lay
    weights: Path | None = None  # the same of the weights file
    device: str = "cpu"  # auto, cpu or cuda: where to compute
    seed: int = 0  # of the choice of rows
    decode: str | None = None  # refused if it is not the store's own
    max_pixels: int | None = None  # of an image file; None for the limit that the store was made at
    reports_dir: Path = Path("reports")  # where a trained head is looked for


def verify(path: Path, check: Check) -> None:
    """Recompute every checksum of a store, and embed a few random rows again in float32.

    Parameters
    ----------
    path : Path
        The store.
    check : Check
        What else to do, and where.

    Raises
    ------
    UserError
        If a checksum is wrong, or the rows come out otherwise than they are stored.
    """
    if check.decode is not None:
        check_decode(check.decode, read_header(path).spec, path)
    report = verify_store(path)
    for entry in report.datasets:
        shape = " x ".join(f"{side:,}" for side in entry.shape)
        log(f"  {entry.name:<18} {entry.dtype:<8} {shape:<22} {entry.sha256[:16]}")
    log(f"{path}: {len(report.datasets)} checksums are right, {report.size / 1e6:,.1f} MB")
    for text in report.odd:
        log(f"warning: {text}")
    if is_imported(report.header.spec):
        _tell_sources(report.header)
        return
    rows = ROWS if check.rows is None else check.rows
    if rows < 1:
        return
    try:
        store = open_features(path, verify=False)
        dataset = _images_of(store, check.data_dir)
        backbone = _backbone_of(store, check.weights)
        chosen, size = choose_device(check.device), min(rows, BATCH)
        witness = witness_of(backbone, store.spec, chosen, size)
    except UserError as error:
        log(f"the rows were not embedded again: {error}")
        return
    limit = check.max_pixels or store.provenance.get("max_pixels", MAX_PIXELS)
    sample = _sampled(
        store, dataset.limited_to(limit), backbone.preprocessing, witness, rows, check.seed
    )
    _compare(store, backbone, chosen, size, sample, check)


def _tell_sources(header: Header) -> None:
    """Say where imported features came from, and that nothing can embed their images again."""
    files = (header.spec.get(IMPORTED) or {}).get("files") or []
    for file in files:
        log(f"  imported from {file.get('name')}, sha256 {str(file.get('sha256'))[:16]}")
    log("these features were imported: there is no model, so no row was embedded again")


def _images_of(store: Features, data_dir: Path | None) -> ImageDataset:
    """Load the images that a store was made from, and make sure they are the same."""
    options = store.request.get("options", {})
    stamp = store.request.get("files", {}).get("dataset", {})
    name = store.spec["dataset"]["name"]
    origin = store.provenance.get("dataset", {})
    where = data_dir or Path(stamp.get("path", ".")).parent
    source = str(origin.get("source", name))
    if origin.get("kind") in ("folder", "table"):
        source = str(data_dir or stamp.get("path"))
    dataset = load_dataset(
        source,
        data_dir=where,
        limit=store.spec["dataset"]["limit"],
        **source_of_request(options),
    )
    if dataset.digest != store.spec["dataset"]["digest"]:
        raise UserError(f"the images of {name} at {where} are not those that it was made from")
    return dataset


def _backbone_of(store: Features, weights: Path | None) -> Any:
    from extract.model.from_spec import backbone_of_spec

    return backbone_of_spec(store.spec, weights or store.provenance.get("weights_file"))


@dataclass
class _Sample:
    """Some rows of a store, test rows first, and what timm makes of their images."""

    numbers: list[npt.NDArray[np.int64]] = field(default_factory=list)  # of each split
    stored: list[npt.NDArray[np.floating]] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)  # as they go to the device's side
    ids: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)  # keys of `TOLERANCE`
    seen: list[int] = field(default_factory=list)  # those that timm's transform can do
    # What exact decoding gives of those that were decoded at a reduced scale, by their position.
    exact: dict[int, Any] = field(default_factory=dict)
    again: Any = None  # the witness's vectors of those: float32, (n, width)
    who: str = ""  # what the witness is


def _sampled(
    store: Features, dataset: ImageDataset, settings: Any, witness: Witness, rows: int, seed: int
) -> _Sample:
    """Draw rows of all splits, and have timm embed their images in float32."""
    sample = _Sample(who=witness.who)
    for name, count in _rows_of_each(store, rows).items():
        stored, split = store.splits[name], dataset.splits[name]
        generator = np.random.default_rng(seed)
        numbers = np.sort(generator.choice(len(stored.labels), size=count, replace=False))
        names = [stored.ids[row] for row in numbers]
        _add(sample, split, names, settings, witness)
        sample.numbers.append(numbers)
        sample.stored.append(stored.features[numbers])
    sample.again = witness.rows()
    return sample


def _compare(
    store: Features, backbone: Any, device: Any, size: int, sample: _Sample, check: Check
) -> None:
    """Compare what is stored with timm's rows, and where asked for with every engine's."""
    from extract.engines.embed import Embedder

    kept = np.concatenate(sample.stored).astype(np.float32)[sample.seen]
    every_engine = check.rows is not None
    _log_differences(store, kept, sample)
    if every_engine:
        torch_fp32 = Embedder(backbone, device, "fp32", "torch", size)
        plain = _embed(torch_fp32, sample.images, "torch fp32")
        others = _compare_engines(backbone, device, sample.images, plain, size)
    if every_engine and decode_of(store.spec) == FAST:
        others[EXACTLY] = exact = plain.copy()
        reduced = list(sample.exact)
        if reduced:
            exact[reduced] = _embed(torch_fp32, list(sample.exact.values()), "exact decoding")
        compare_decoding(store, check.reports_dir, plain, exact, reduced)
    _refuse(store, kept, sample.again, sample)
    if every_engine and len(sample.numbers[0]):
        _keep(store, sample.numbers[0], sample.stored[0], plain, others)


def _add(sample: _Sample, split: Split, names: list[str], settings: Any, witness: Any) -> None:
    """Read the images of some ids of a split, for timm and for our engines."""
    from extract.model.preprocess import (
        is_small,
        keeps_shape,
        prepared,
        prepared_array,
        wanted_of,
    )

    position = {identity: row for row, identity in enumerate(split.ids)}
    for name in names:
        row = position[name]
        # A large one is resized at once, so that hundreds fit into memory.
        if isinstance(split.images, ArrayImages):
            image = split.images.rows(row, row + 1)[0]
            sample.images.append(prepared_array(settings, image[None])[0])
            kind = "device" if keeps_shape(settings, *image.shape[:2]) else "pillow"
            seen = witness.see(image)
        else:
            decoded = split.images.decode_file(row, wanted_of(settings))
            image = decoded.pixels
            sample.images.append(prepared(settings, image, decoded.reduction))
            kind = "device" if is_small(settings, *image.shape[:2]) else "pillow"
            # The witness decides for itself what is to be decoded at a reduced scale.
            seen = settings.decode == FAST and witness.see_reduced(split.images.open(row))
            if decoded.reduction is not None or seen:
                image, kind = split.images.decode(row), "reduced"
                sample.exact[len(sample.ids)] = prepared(settings, image)
            seen = seen or witness.see(image)
        if kind == "pillow" and not witness.exact:
            kind = "device"
        if seen:
            sample.seen.append(len(sample.ids))
        else:
            log(f"not embedded again: {name} {witness.why_not()}")
        sample.ids.append(name)
        sample.kinds.append(kind)


def _rows_of_each(store: Features, rows: int) -> dict[str, int]:
    """Divide the rows among the splits, test rows first: half for them, where there are as many."""
    sizes = store.sizes
    others = sum(sizes.values()) - sizes["test"]
    counts = {"test": min(sizes["test"], max(rows - rows // 2, rows - others))}
    left = min(others, rows - counts["test"])
    names = [name for name in sizes if name != "test"]
    for i, name in enumerate(reversed(names)):  # the training rows, which are most, take the rest
        share = left if i == len(names) - 1 else min(sizes[name], left // (len(names) - i))
        counts[name] = min(sizes[name], share)
        left -= counts[name]
    return counts


def _keep(
    store: Features,
    numbers: npt.NDArray[np.int64],
    stored: npt.NDArray[np.floating],
    plain: npt.NDArray[np.float32],
    others: dict[str, npt.NDArray[np.float32]],
) -> None:
    """Keep the test rows, which stand before the others, for stage two to count flips on."""
    n = len(numbers)
    first = {name: rows[:n] for name, rows in others.items()}
    found = Rechecked(store.key, numbers, digest_of(stored), plain[:n], first)
    try:
        path = write_rechecked(store.path, found)
    except OSError as error:
        log(f"the rows are not kept for stage two: {error}")
        return
    log(
        f"{n:,} test rows in each of these are kept in {path.name}: python -m classify fit says "
        "how many test predictions would flip"
    )


def _embed(embedder: Any, images: list[Any], what: str) -> npt.NDArray[np.float32]:
    """Embed images batch by batch, with a progress bar."""
    blocks = []
    with progress(len(images), what, "img") as bar:
        for start in range(0, len(images), embedder.batch_size):
            batch = images[start : start + embedder.batch_size]
            blocks.append(embedder.embed(batch))
            bar.update(len(batch))
    return np.concatenate(blocks)


def _compare_engines(
    backbone: Any, device: Any, images: list[Any], plain: npt.NDArray[np.float32], size: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Print how far every engine and precision here is from plain torch in fp32; give the rows."""
    from extract.engines.build import candidates, differences
    from extract.engines.device import EngineError
    from extract.engines.embed import Embedder

    log(TABLE.format("engine", "precision", "largest error", "lowest cosine", "mean cosine"))

    found: dict[str, npt.NDArray[np.float32]] = {}

    def row(engine: str, precision: str, rows: npt.NDArray[np.float32]) -> None:
        found[f"{precision}, {engine}"] = rows
        error, cosine = differences(rows, plain)
        numbers = (f"{error.max():.1e}", f"{cosine.min():.6f}", f"{cosine.mean():.6f}")
        log(TABLE.format(engine, precision, *numbers))

    with np.errstate(over="ignore"):
        row("torch", "fp32, float16", plain.astype(np.float16).astype(np.float32))
    for precision in ("fp32", "bf16") if device.type == "cpu" else ("fp32", "bf16", "fp16"):
        for engine in sorted(candidates(backbone, device, precision)):
            if (engine, precision) == ("torch", "fp32"):
                continue  # is what the others are compared with
            try:
                embedder = Embedder(backbone, device, precision, engine, size)
                row(engine, precision, _embed(embedder, images, f"{engine} {precision}"))
            except (EngineError, UserError) as failure:
                log(f"  {engine} {precision}: {failure}")
    return found


def _log_differences(store: Features, stored: npt.NDArray[np.float32], sample: _Sample) -> None:
    """Say how far the witness's rows are from what is stored."""
    from extract.engines.build import differences

    again = sample.again
    if not len(again):
        return
    error, cosine = differences(stored, again)
    engine = store.provenance.get("engine", "torch")
    log(
        f"{len(again)} rows embedded again in fp32 by {sample.who} (stored: "
        f"{engine}, {store.spec['precision']}, {store.dtype}): largest difference "
        f"{error.max():.1e} of the largest value, lowest cosine {cosine.min():.6f}"
    )


def _refuse(
    store: Features,
    stored: npt.NDArray[np.float32],
    again: npt.NDArray[np.float32],
    sample: _Sample,
) -> None:
    """Refuse rows that rounding cannot explain."""
    from extract.engines.build import differences
    from extract.engines.constants import LOWEST_COSINE

    if not len(again):
        return
    error, cosine = differences(stored, again)
    precision = store.spec["precision"]
    if precision == "fp32":
        limits = np.array([TOLERANCE[sample.kinds[number]] for number in sample.seen])
        wrong = (cosine < limits[:, 0]) | (error > limits[:, 1])
    else:
        wrong = cosine < LOWEST_COSINE[precision]
    if wrong.any():
        named = ", ".join([sample.ids[sample.seen[i]] for i in np.flatnonzero(wrong)[:3]])
        why, what = "", "make the store again with --force"
        if cropped_twice(store.spec):
            why, what = f"; it was {TWICE}", "run stage one again (icebox features)"
        raise UserError(
            f"{store.path}: {int(wrong.sum())} of {len(again)} rows ({named}) are not what "
            f"this backbone gives for these images{why}; {what}"
        )
