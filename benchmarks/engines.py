"""Part ``engines``: stage one's whole pipeline on this CPU next to the usual loop.

Ours reads the image files, resizes, normalises, embeds, writes shards, joins them and verifies
every checksum; its time runs from the first image to the verified store. What comes before,
loading, measuring engines and compiling, is listed apart: a run pays it once. The usual loop
(`benchmarks.usual_loop`) reads files of the same kind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import ROOT, Failed, scratch
from benchmarks.record import Record, Table
from benchmarks.settings import Settings

USUAL_BATCH = 256
# Side of the product that gives the matrix peak; how often and how long a candidate is timed.
MATRIX = 4096
ROUNDS = 3
ROUND_SECONDS = 0.5
SHARE_OF_BEST = 0.97
SHARE_RESIZING = 0.05


@dataclass(frozen=True)
class Case:
    """A network, how many images of it are timed, and what is to be reached.

    Attributes
    ----------
    model : str
        timm's name.
    size : int
        Side of the network's input.
    ratio : float
        Goal: images a second against the usual loop's.
    images : int
        Of 32 x 32 pixels, for ours.
    usual_images : int
        For the usual loop: whole batches.
    peak : float or None
        Goal: share of the matrix peak.
    precision : str
        Of ours; the usual loop is in fp32.
    """

    model: str
    size: int
    ratio: float
    images: int
    usual_images: int = USUAL_BATCH
    peak: float | None = None
    precision: str = "fp32"


CASES = {
    "mobilenetv2_100": Case("mobilenetv2_100", 128, 8.0, 4096, 512, 0.8),
    "resnet50": Case("resnet50", 224, 1.7, 320, peak=0.8),
    "resnet50-bf16": Case("resnet50", 224, 4.0, 512, precision="bf16"),
    "convnext_tiny": Case("convnext_tiny", 224, 1.7, 256),
    "vit_small_patch16_224": Case("vit_small_patch16_224", 224, 1.25, 256),
}


def run(settings: Settings) -> Record:
    """Run the part.

    Parameters
    ----------
    settings : Settings
        ``networks`` names the cases.

    Returns
    -------
    Record
        What was written.
    """
    record = Record(settings.results, "engines", settings.record())
    record.remark(
        "images/s from files of 32 x 32 pixels; the usual loop: timm, DataLoader, inference_mode, "
        f"batches of {USUAL_BATCH}, fp32"
    )
    titles = ("network", "usual", "ours", "ratio", "goal", "engine", "net", "of best", "of peak")
    widths = (22, 7, 7, 6, 5, 17, 7, 7, 7, 8, 7)
    table = Table(tuple(zip((*titles, "resizing", "before"), widths, strict=True)))
    usual: dict[str, dict[str, Any]] = {}
    with scratch() as folder:
        for name in settings.networks:
            case = CASES[name]
            if case.model not in usual:
                usual[case.model] = _usual(case, folder)
            result = _judged(name, case, _ours(case, folder), usual[case.model])
            record.add(result)
            table.row(*_cells(result))
    record.remark_missed("network")
    record.finish()
    return record


def made_images(root: Path, train: int, test: int = 0) -> Path:
    """Write PNG files of 32 x 32 pixels, smooth ones, the same each time; return their folder."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for row in range(count):
            place = root / split / f"class{row % 2}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize((32, 32), Image.Resampling.BICUBIC).save(place / f"{row:06d}.png")
    return root


def _process(module: str, *words: object) -> None:
    """Run a module of this package, and say what went wrong where it did."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Failed(f"benchmarks.{module} ended with {done.returncode}: {done.stderr[-2000:]}")


def _usual(case: Case, folder: Path) -> dict[str, Any]:
    images = made_images(folder / f"usual-{case.usual_images}", case.usual_images)
    out = folder / "usual.json"
    _process("usual_loop", case.model, case.size, USUAL_BATCH, images, out)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def _ours(case: Case, folder: Path) -> dict[str, Any]:
    test = max(case.images // 8, 2)
    job = {
        "model": case.model,
        "size": case.size,
        "precision": case.precision,
        "images": str(made_images(folder / f"ours-{case.images}", case.images - test, test)),
        "matrix": MATRIX,
        "rounds": ROUNDS,
        "round_seconds": ROUND_SECONDS,
        "features": str(folder / f"features-{case.model}-{case.precision}"),
    }
    told, out = folder / "job.json", folder / "ours.json"
    told.write_text(json.dumps(job))
    _process("whole_pipeline", told, out)
    found: dict[str, Any] = json.loads(out.read_text())
    return {**found, "images": case.images}


def _judged(name: str, case: Case, ours: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """Compare with the goals."""
    rate, usual_rate = ours["images"] / ours["seconds"], usual["images"] / usual["seconds"]
    reached = {
        f"{case.ratio:g} times the usual loop": rate >= case.ratio * usual_rate,
        f"{SHARE_OF_BEST:.0%} of the best candidate": ours["share_of_best"] >= SHARE_OF_BEST,
        f"{SHARE_RESIZING:.0%} for resizing": ours["share_resizing"] <= SHARE_RESIZING,
    }
    if case.peak is not None:
        reached[f"{case.peak:.0%} of the matrix peak"] = ours["share_of_peak"] >= case.peak
    return {
        "network": name,
        "case": asdict(case),
        "rate": rate,
        "usual_rate": usual_rate,
        "ratio": rate / usual_rate,
        "reached": reached,
        "ours": ours,
        "usual": usual,
    }


def _cells(result: dict[str, Any]) -> tuple[str, ...]:
    ours = result["ours"]
    return (
        result["network"],
        f"{result['usual_rate']:.3g}",
        f"{result['rate']:.3g}",
        f"{result['ratio']:.2f}",
        f"{result['case']['ratio']:g}",
        f"{ours['engine']} @{ours['batch_size']}",
        f"{ours['net_rates'][ours['engine']]:.3g}",
        f"{ours['share_of_best']:.0%}",
        f"{ours['share_of_peak']:.0%}",
        f"{ours['share_resizing']:.1%}",
        f"{ours['chosen_in_seconds']:.0f} s",
    )
