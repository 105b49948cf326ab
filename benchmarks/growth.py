"""Part ``growth``: peak memory and seconds of stage one at three numbers of images.

Made images of CIFAR's size, as a folder of files and as CIFAR-10's unpacked archive, through a
light network on small inputs: what grows with the number of images shows best where nothing else
is large.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import ROOT, measured, scratch
from benchmarks.record import Record, Table, amount, duration
from benchmarks.settings import Settings

MODEL, IMAGE_SIZE, BATCH = "test_efficientnet", 32, 16
ENGINE = "openvino" if find_spec("openvino") else "channels-last"
ALLOWED = 0.05
FOUND_SECONDS = 0.5
KINDS = ("folder", "archive")
HEAVY = ("torch", "timm", "PIL", "sklearn", "scipy")


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "growth", settings.record())
    sizes = settings.growth_images
    record.remark(
        f"python -m extract, {MODEL} (random weights) at {IMAGE_SIZE} pixels, {ENGINE}, batches of "
        f"{BATCH}; "
        f"the same command again finds the store (limit {FOUND_SECONDS:g} s)"
    )
    titles = ("images", "kind", "seconds", "ms/image", "peak", "of the least", "found in")
    table = Table(tuple(zip(titles, (8, 8, 9, 9, 9, 12, 9), strict=True)))
    for kind in KINDS:
        found: list[dict[str, Any]] = []
        for size in sizes:
            with scratch() as folder:
                row: dict[str, Any] = {"kind": kind, "images": size} | one(kind, size, folder)
            found.append(row)
            least = min(other["peak_bytes"] for other in found)
            table.row(
                *(f"{size:,}", kind, duration(row["seconds"])),
                *(f"{1e3 * row['seconds'] / size:.2f}", amount(row["peak_bytes"])),
                *(f"{row['peak_bytes'] / least:.3f}", duration(row["found_seconds"])),
            )
            record.add(row)
        record.add({"kind": kind} | judge(found))
        record.remark(verdict(kind, found))
    record.finish()
    return record


def one(kind: str, size: int, folder: Path) -> dict[str, Any]:
    """Embed so many made images, and find the store again.

    Parameters
    ----------
    kind : {'folder', 'archive'}
        How the images lie.
    size : int
        How many; a sixth of them for testing.
    folder : Path
        For everything.

    Returns
    -------
    dict
        ``seconds``, ``peak_bytes``, ``images_per_second``, ``store_bytes``; ``found_seconds`` and
        the ``heavy`` modules that finding the store has imported.
    """
    data = as_folder(folder, size) if kind == "folder" else as_archive(folder)
    command = [
        *("extract", *data, f"--features-dir={folder / 'features'}", f"--model={MODEL}"),
        *("--weights=random", f"--image-size={IMAGE_SIZE}", f"--batch-size={BATCH}"),
        *(f"--engine={ENGINE}", "--device=cpu", "--jobs=2"),
    ]
    if kind == "archive":
        command.append(f"--limit={size - size // 6}")
    made = measured(command)
    store = Path(made["stdout"].strip().splitlines()[-1])
    again = min(measured(command)["seconds"] for _ in range(5))
    return {
        "seconds": made["seconds"],
        "peak_bytes": made["peak_bytes"],
        "images_per_second": size / made["seconds"],
        "store_bytes": store.stat().st_size,
        "found_seconds": again,
        "heavy": heavy_modules(command[1:]),
    }


def heavy_modules(words: list[str]) -> list[str]:
    """Name the large libraries that a command of stage one imports."""
    code = (
        "import sys\nfrom extract.__main__ import main\nmain(sys.argv[1:])\n"
        f"print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1].split() if done.stdout.strip() else []


def judge(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare memory and time at several sizes.

    Parameters
    ----------
    found : list of dict
        Of one kind, smallest first.

    Returns
    -------
    dict
        ``memory_growth`` from the first to the last, ``seconds_per_image`` and ``fixed_seconds``
        of the line of least squares through the times, and ``off_the_line``: the largest
        distance from it, as a share of the time.
    """
    images = np.array([row["images"] for row in found], dtype=np.float64)
    seconds = np.array([row["seconds"] for row in found])
    slope, fixed = np.polyfit(images, seconds, 1)
    off = np.abs(seconds - (fixed + slope * images)) / seconds
    return {
        "memory_growth": found[-1]["peak_bytes"] / found[0]["peak_bytes"] - 1,
        "seconds_per_image": float(slope),
        "fixed_seconds": float(fixed),
        "off_the_line": float(off.max()),
    }


def verdict(kind: str, found: list[dict[str, Any]]) -> str:
    """Say in a line what `judge` found."""
    facts = judge(found)
    within = "within" if facts["memory_growth"] <= ALLOWED else "NOT within"
    slowest = max(row["found_seconds"] for row in found)
    soon = "within" if slowest < FOUND_SECONDS else "NOT within"
    heavy = sorted({name for row in found for name in row["heavy"]})
    return (
        f"{kind}: memory grows by {facts['memory_growth']:+.1%} from {found[0]['images']:,} to "
        f"{found[-1]['images']:,} images ({within} {ALLOWED:.0%}); time is "
        f"{facts['fixed_seconds']:.1f} s + {1e3 * facts['seconds_per_image']:.3f} ms an image, no "
        f"size more than {facts['off_the_line']:.1%} off; the finished store is found in "
        f"{slowest:.2f} s ({soon} {FOUND_SECONDS:g} s), importing "
        f"{', '.join(heavy) or 'none of ' + ', '.join(HEAVY)}"
    )


def as_folder(folder: Path, size: int) -> list[str]:
    """Write so many made images as files; return the options that name them."""
    from PIL import Image

    rng = np.random.default_rng(0)
    root = folder / "images"
    for split, count in (("train", size - size // 6), ("test", size // 6)):
        for number in range(10):
            (root / split / f"class{number}").mkdir(parents=True)
        for row in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            image = Image.fromarray(pixels)
            image.save(root / split / f"class{row % 10}" / f"{row:06}.bmp")
    return [f"--dataset={root}"]


def as_archive(folder: Path) -> list[str]:
    """Write the members of a CIFAR-10 archive with made images; return the options."""
    rng = np.random.default_rng(0)
    root = folder / "raw" / "cifar-10-batches-bin"
    root.mkdir(parents=True)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    for name in names:
        records = rng.integers(0, 256, (10_000, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(10_000) % 10
        records.tofile(root / name)
    classes = "airplane automobile bird cat deer dog frog horse ship truck"
    (root / "batches.meta.txt").write_text("\n".join(classes.split()) + "\n\n")
    return ["--dataset=cifar10", f"--data-dir={root.parent}"]
