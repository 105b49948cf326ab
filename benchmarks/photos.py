"""Part ``photos``: stage one on photographs: the decoder, the network, and both together.

Four made sets, cut from scikit-learn's two photographs, scaled and compressed again, from a seed:
JPEG of 500 x 375 pixels, JPEG of 12 megapixels, PNG of 300 x 300, and a folder of all kinds. Of
each: how many images a second the decoder alone does and the network alone, what the cores that
there are allow for both together (they share the processors), and what the whole does of that. For
the set that most users begin with, also a first run from the start of the process to the saved
vectors, beside the usual loop (`benchmarks.usual_loop`), with an empty cache of measurements.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import ROOT, Failed, measured, scratch
from benchmarks.record import Record, Table, amount, duration
from benchmarks.settings import Settings

MODEL = "tf_efficientnet_lite0"
USUAL_BATCH = 256
# Share of what the processors allow that the whole is to reach.
SHARE = 0.85
# How long the network alone is timed.
NETWORK_SECONDS = 3.0


@dataclass(frozen=True)
class Case:
    """A set of photographs, and what is to be reached on it."""

    kind: str  # a key of `MAKERS`
    images: int
    size: int  # side of the network's input
    ratio: float | None = None  # goal against the usual loop, from process start to vectors
    decode: str = "exact"


CASES = {
    "jpeg-500": Case("jpeg-500", 1000, 224, 3.0),
    "jpeg-500 at 128": Case("jpeg-500", 1000, 128, 2.0),
    "jpeg-12mp": Case("jpeg-12mp", 48, 224),
    "jpeg-12mp fast": Case("jpeg-12mp", 48, 224, decode="fast"),
    "png-300": Case("png-300", 400, 224),
    "mixed": Case("mixed", 300, 224),
}


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "photos", settings.record())
    record.remark(
        f"images/s, {MODEL} with random weights in fp32; allowed: cores / (CPU seconds of decoding "
        "an image + of embedding it); first run: from the start of the process to the saved "
        "vectors, nothing known of this machine; usual: timm, DataLoader, inference_mode, batches "
        f"of {USUAL_BATCH}"
    )
    titles = ("set", "decoder", "network", "allowed", "whole", "share", "engine")
    widths = (16, 8, 8, 8, 8, 6, 14)
    more = (("first run", 10), ("usual", 9), ("ratio", 6), ("goal", 5), ("peak", 9))
    table = Table((*zip(titles, widths, strict=True), *more))
    with scratch() as folder:
        for name, case in CASES.items():
            images = folder / f"{case.kind}-{case.images}"
            if not images.exists():
                make(images, case.kind, case.images)
            result = judged(name, case, measure(case, images, folder))
            record.add(result)
            table.row(*_cells(result))
    record.remark_missed("set")
    record.finish()
    return record


def measure(case: Case, images: Path, folder: Path) -> dict[str, Any]:
    """Measure the parts in a process of their own, and whole runs from outside."""
    found: dict[str, Any] = {}
    if case.ratio is not None:
        features, cache = folder / "first", folder / "empty"
        words = options(case, images, features)
        ours = measured(["extract", *words], XDG_CACHE_HOME=str(cache))
        for place in (cache, features):
            shutil.rmtree(place, ignore_errors=True)
        out = folder / "usual.json"
        usual = measured(
            [
                "benchmarks.usual_loop",
                MODEL,
                str(case.size),
                str(USUAL_BATCH),
                str(images),
                str(out),
            ]
        )
        found |= {"first": ours["seconds"], "usual": usual["seconds"]}
        found |= {"peak_bytes": ours["peak_bytes"], "usual_peak_bytes": usual["peak_bytes"]}
    told, out = folder / "job.json", folder / "parts.json"
    told.write_text(json.dumps({**asdict(case), "folder": str(images)}))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.photos", str(told), str(out)],
        cwd=ROOT,
        # As `python -m extract` sets it for itself.
        env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Failed(f"benchmarks.photos ended with {done.returncode}: {done.stderr[-2000:]}")
    return {**json.loads(out.read_text()), **found}


def options(case: Case, images: Path, features: Path) -> list[str]:
    """Give the options of a run of stage one."""
    return [
        f"--dataset={images}", f"--model={MODEL}", "--weights=random", f"--image-size={case.size}",
        f"--features-dir={features}", "--device=cpu", f"--decode={case.decode}",
    ]  # fmt: skip


def judged(name: str, case: Case, found: dict[str, Any]) -> dict[str, Any]:
    """Compare with the goals."""
    cores = found["cores"]
    allowed = cores / (found["decoder_cpu"] + found["network_cpu"])
    whole = case.images / found["whole_seconds"]
    reached = {f"{SHARE:.0%} of what the processors allow": whole >= SHARE * allowed}
    if case.ratio is not None:
        ratio = found["usual"] / found["first"]
        reached[f"{case.ratio:g} times the usual loop"] = ratio >= case.ratio
    return {
        "set": name,
        "case": asdict(case),
        "allowed": allowed,
        "whole": whole,
        "share": whole / allowed,
        "reached": reached,
        **found,
    }


def _cells(result: dict[str, Any]) -> tuple[str, ...]:
    first, usual = result.get("first"), result.get("usual")
    goal = result["case"]["ratio"]
    return (
        result["set"],
        *(f"{result[key]:.3g}" for key in ("decoder", "network", "allowed", "whole")),
        f"{result['share']:.0%}",
        f"{result['engine']} @{result['batch_size']}",
        duration(first),
        duration(usual),
        "-" if first is None or usual is None else f"{usual / first:.2f}",
        "-" if goal is None else f"{goal:g}",
        amount(result.get("peak_bytes", result["whole_peak_bytes"])),
    )


def parts(job: dict[str, Any]) -> dict[str, Any]:
    """Measure, in this process, the decoder alone, the network alone, and a run of both.

    Parameters
    ----------
    job : dict
        A `Case` as a dict, and ``folder`` with the images.

    Returns
    -------
    dict
        Images a second of ``decoder`` and ``network``, ``decoder_cpu`` and ``network_cpu`` in
        seconds of a processor for an image, ``whole_seconds`` from the first image asked for to
        the verified store, ``start_seconds`` before it.
    """
    import torch

    from data.common.memory import peak_memory_mb
    from data.dataset import load_dataset
    from data.reading import read_header
    from extract.engines.embed import Embedder
    from extract.model.backbone import BackboneRequest, load_backbone
    from extract.options import usable_cpus
    from extract.shards.job import decode_ahead

    case = Case(**{key: value for key, value in job.items() if key != "folder"})
    images = Path(job["folder"])
    with scratch() as features:
        path, whole, start = _run(options(case, images, features))
        made = read_header(path).provenance
    backbone = load_backbone(BackboneRequest(MODEL, "random", image_size=case.size))
    settings = replace(backbone.preprocessing, decode=case.decode)
    dataset = load_dataset(str(images), data_dir=images)
    rows = {"train": [range(len(dataset.train.ids))], "test": [range(len(dataset.test.ids))]}
    cores = usable_cpus()
    some: list[Any] = []

    def decode() -> None:
        with decode_ahead(dataset.splits, settings, rows, cores) as decoded:  # type: ignore[union-attr]
            for _ in range(case.images):
                (row,) = decoded.take(1)
                some[:] = [*some[:15], row.image]

    decoding, decoding_cpu = _timed(decode)
    batch = int(made["batch_size"])
    embedder = Embedder(backbone, torch.device("cpu"), "fp32", made["engine"], batch)
    inputs = [some[row % len(some)] for row in range(batch)]
    embedder.embed(inputs)
    count = 0

    def embed() -> None:
        nonlocal count
        until = time.perf_counter() + NETWORK_SECONDS
        while time.perf_counter() < until:
            embedder.embed(inputs)
            count += batch

    embedding, embedding_cpu = _timed(embed)
    return {
        "cores": cores,
        "engine": made["engine"],
        "batch_size": batch,
        "decoder": case.images / decoding,
        "decoder_cpu": decoding_cpu / case.images,
        "network": count / embedding,
        "network_cpu": embedding_cpu / count,
        "whole_seconds": whole,
        "start_seconds": start,
        "whole_peak_bytes": 1e6 * (peak_memory_mb() or 0.0),
    }


def _run(words: list[str]) -> tuple[Path, float, float]:
    """Run ``python -m extract`` here; the seconds from the first image to the store, and before.

    What was decoded while the network was prepared is thrown away: long runs are to be judged.
    """
    from extract.__main__ import main as command
    from extract.shards import fill

    original, begun, results = fill.fill, [], []

    def noted(job: Any, *arguments: Any) -> Any:
        job.close()
        begun.append(time.perf_counter())
        results.append(job.path)
        return original(job, *arguments)

    fill.fill = noted  # type: ignore[assignment]
    start = time.perf_counter()
    try:
        command(words)
    finally:
        fill.fill = original
    end = time.perf_counter()
    return results[-1], end - begun[-1], begun[-1] - start


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    """Give the seconds of some work, and those of processors, children included."""
    clock, before = time.perf_counter(), os.times()
    work()
    after = os.times()
    names = ("user", "system", "children_user", "children_system")
    cpu = sum(getattr(after, name) - getattr(before, name) for name in names)
    return time.perf_counter() - clock, cpu


def make(root: Path, kind: str, count: int) -> Path:
    """Write a set of photographs of two classes, a fifth of them for testing."""
    rng = np.random.default_rng(0)
    for row in range(count):
        place = root / ("test" if row % 5 == 0 else "train") / ("temple", "flower")[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        size, suffix, more = MAKERS[kind](row)
        _photograph(row % 2, size, rng).save(place / f"{row:05d}.{suffix}", **more)
    return root


def _photograph(which: int, size: tuple[int, int], rng: np.random.Generator) -> Any:
    """Cut a part out of one of the photographs and scale it."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    image = Image.fromarray(load_sample_images().images[which])
    width = int(image.width * rng.uniform(0.45, 0.95))
    height = min(width * size[1] // size[0], image.height)
    width = height * size[0] // size[1]
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    part = image.crop((left, top, left + width, top + height))
    return part.resize(size, Image.Resampling.LANCZOS)


def _mixed(row: int) -> tuple[tuple[int, int], str, dict[str, Any]]:
    kinds: list[tuple[tuple[int, int], str, dict[str, Any]]] = [
        ((500, 375), "jpg", {"quality": 88}),
        ((1600, 1200), "jpg", {"quality": 92}),
        ((1024, 768), "jpg", {"quality": 85, "progressive": True}),
        ((300, 300), "png", {}),
        ((375, 500), "webp", {"quality": 85}),
        ((224, 224), "jpg", {"quality": 80}),
    ]
    return kinds[row % len(kinds)]


# From a row to its width and height, its suffix, and how it is written.
MAKERS: dict[str, Callable[[int], tuple[tuple[int, int], str, dict[str, Any]]]] = {
    "jpeg-500": lambda row: ((500, 375), "jpg", {"quality": 88}),
    "jpeg-12mp": lambda row: ((4000, 3000), "jpg", {"quality": 88}),
    "png-300": lambda row: ((300, 300), "png", {}),
    "mixed": _mixed,
}


if __name__ == "__main__":
    answer = parts(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(answer))
