"""Part ``scaling``: a model of what either stage costs, checked at three sizes, and extrapolated.

The model has five numbers, all measured here: seconds an image and fixed seconds of stage one,
bytes of a stored row, bytes of memory that the coordinator keeps for an image, and seconds that a
pass of stage two takes for a row. What it says of other networks starts from their rates.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.growth import as_archive
from benchmarks.processes import measured, scratch
from benchmarks.record import Record, Table, amount, duration
from benchmarks.settings import Settings
from benchmarks.slopes import seconds_of_a_pass

MODEL, IMAGE_SIZE, WIDTH, CLASSES = "mobilenetv2_100", 128, 1280, 10
TARGETS = {"a million": 10**6, "14 million": 14 * 10**6, "a billion": 10**9}
DAY = 86_400.0
# Passes of one fit, at one C; a choice of C takes as many at each of its 20 to 25 values.
PASSES = 30
NAME = "train/n01440764/n01440764_00000000.JPEG"


@dataclass(frozen=True)
class Network:
    """A rate of stage one, images a second on two cores, network only (docs/design/scaling.md)."""

    name: str
    pixels: int
    width: int
    fp32: tuple[str, float]
    bf16: tuple[str, float]


NETWORKS = (
    Network("mobilenetv2_100", 128, 1280, ("OpenVINO", 633), ("OpenVINO", 1272)),
    Network("resnet50", 224, 2048, ("channels-last", 16.9), ("OpenVINO", 50)),
    Network("vit_small_patch16_224", 224, 384, ("torch", 14.4), ("OpenVINO", 18)),
    Network("convnext_tiny", 224, 768, ("OpenVINO", 9.0), ("OpenVINO", 15)),
    Network("vgg16", 224, 4096, ("OpenVINO", 3.0), ("OpenVINO", 8.7)),
)


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "scaling", settings.record())
    one = stage_one(settings.scaling_images, record)
    two = stage_two(settings.scaling_rows, record)
    facts = {**one, **two, **constants()}
    record.remark(
        f"a stored row of {WIDTH} float32 takes {facts['row_bytes']:,.0f} bytes; an image's name, "
        f"label and digest take {facts['name_bytes']:,.0f} bytes of the coordinator's memory; "
        f"SHA-256 runs at {facts['digest_rate'] / 1e9:.2f} GB/s"
    )
    record.add({"facts": facts})
    predict(facts, record)
    limits(facts, record)
    record.finish()
    return record


def line(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """Put a line through the first two of some times; return its slope and its constant."""
    slope = (seconds[1] - seconds[0]) / (sizes[1] - sizes[0])
    return slope, seconds[0] - slope * sizes[0]


def checked(
    what: str, sizes: list[int], seconds: list[float], record: Record
) -> tuple[float, float]:
    """Print what a line through the first two times says of the third; return the line."""
    slope, fixed = line(sizes, seconds)
    table = Table(((what, 24), ("measured", 10), ("model", 10), ("off by", 8)))
    for size, found in zip(sizes, seconds, strict=True):
        said = fixed + slope * size
        table.row(f"{size:,}", duration(found), duration(said), f"{said / found - 1:+.1%}")
        record.add({"what": what, "size": size, "seconds": found, "model_seconds": said})
    return slope, fixed


def stage_one(sizes: tuple[int, ...], record: Record) -> dict[str, float]:
    """Measure the whole pipeline at three sizes."""
    seconds, found = [], 0.0
    for size in sizes:
        with scratch() as folder:
            command = [
                *("extract", *as_archive(folder), f"--limit={size - size // 6}"),
                *(f"--model={MODEL}", "--weights=random", f"--image-size={IMAGE_SIZE}"),
                *("--engine=openvino", "--batch-size=16", f"--features-dir={folder / 'features'}"),
            ]
            made = measured(command)
            store = Path(made["stdout"].strip().splitlines()[-1])
            seconds.append(made["seconds"])
            found = store.stat().st_size / size
    record.remark(f"stage one: {MODEL} at {IMAGE_SIZE} pixels, fp32, OpenVINO, whole pipeline")
    slope, fixed = checked("images", list(sizes), seconds, record)
    return {"image_seconds": slope, "fixed_seconds": fixed, "row_bytes": found}


def stage_two(sizes: tuple[int, ...], record: Record) -> dict[str, float]:
    """Measure a pass over the features in memory at three sizes."""
    seconds = [seconds_of_a_pass(size, CLASSES, WIDTH) for size in sizes]
    record.remark(f"stage two: a pass of one-vs-rest, {WIDTH} features, {CLASSES} classes")
    slope, fixed = checked("rows", list(sizes), seconds, record)
    return {"pass_row_seconds": slope, "pass_fixed_seconds": fixed}


def constants() -> dict[str, float]:
    """Measure what an image takes in the coordinator's memory, and the rate of SHA-256."""
    from data.images.arrays import FileImages, Split

    count = 100_000
    tracemalloc.start()
    names = tuple(f"{NAME[:-13]}{row:08}.JPEG" for row in range(count))
    split = Split(
        FileImages(Path("/"), names, digests=bytes(32 * count)),
        np.zeros(count, dtype=np.int64),
        names,
    )
    name_bytes = tracemalloc.get_traced_memory()[0] / len(split)
    tracemalloc.stop()
    block = bytes(64 << 20)
    start = time.perf_counter()
    hashlib.sha256(block).digest()
    rate = len(block) / (time.perf_counter() - start)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = shutil.disk_usage(".").free
    return {"name_bytes": name_bytes, "digest_rate": rate, "memory": memory, "disk": free}


def predict(facts: dict[str, Any], record: Record) -> None:
    """Print what the model says of larger data."""
    record.remark(
        "prediction; machines: of two cores, to end stage one in a day (network only); pass: of "
        f"stage two over {CLASSES} classes, from memory that holds the features; digests: of the "
        "features, once"
    )
    titles = ("images", "network", "fp32 engine", "machines", "bf16", "float32", "digests", "pass")
    table = Table(tuple(zip(titles, (10, 22, 14, 9, 9, 12, 9, 9), strict=True)))
    for title, count in TARGETS.items():
        for network in NETWORKS:
            size = 4 * network.width * count
            digests = size / facts["digest_rate"]
            of_a_pass = facts["pass_row_seconds"] * count * network.width / WIDTH
            machines = [count / rate / DAY for _, rate in (network.fp32, network.bf16)]
            table.row(
                *(title, network.name, network.fp32[0], *(f"{n:,.1f}" for n in machines)),
                *(amount(size), span(digests), span(of_a_pass)),
            )
            record.add(
                {"images": count, "network": network.name, "pixels": network.pixels}
                | {"machine_days": dict(zip(("fp32", "bf16"), machines, strict=True))}
                | {"feature_bytes": size, "digest_seconds": digests, "pass_seconds": of_a_pass}
            )


def limits(facts: dict[str, Any], record: Record) -> None:
    """Print at how many images each resource of this machine ends, the first one first."""
    ends = {
        "stage one takes more than a week on this machine": 7 * DAY / facts["image_seconds"],
        "the store does not fit on this disk": facts["disk"] / facts["row_bytes"],
        "features do not fit into half of this memory (then --memory reads them in blocks)": facts[
            "memory"
        ]
        / 2
        / (4 * WIDTH),
        "the coordinator's names do not fit into half of this memory": facts["memory"]
        / 2
        / facts["name_bytes"],
        f"a fit of {PASSES} passes takes more than a day": DAY / PASSES / facts["pass_row_seconds"],
        "opening a store takes more than an hour (digests)": 3600
        * facts["digest_rate"]
        / (4 * WIDTH),
    }
    record.remark(
        f"where it breaks, {MODEL} at {IMAGE_SIZE} pixels, {amount(facts['memory'])} of memory, "
        f"{amount(facts['disk'])} of free disk:"
    )
    for what, count in sorted(ends.items(), key=lambda pair: pair[1]):
        if count <= 0:  # the line falls: the machine was busy with something else
            record.remark(f"  not known, measure again on a quiet machine: {what}")
            continue
        record.remark(f"  {count:>16,.0f} images: {what}")
        record.add({"limit": what, "images": count})


def span(seconds: float) -> str:
    """Write a long time in its own unit."""
    for size, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return duration(seconds)
