"""Part ``siblings``: several features from one reading of the images, next to one."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.record import Record, Table
from benchmarks.settings import Settings
from data.common.errors import UserError

GOAL = 0.9  # of the speed of one store


@dataclass(frozen=True)
class Case:
    """A network, what one store is, and what its siblings are."""

    name: str
    words: tuple[str, ...]
    one: tuple[str, ...]
    several: tuple[str, ...]
    photos: int = 0  # how many photographs are made and embedded; 0 for digits
    passes: int = 1  # over the network: of other image sizes each has its own


_FIXED = ("--device=cpu", "--precision=fp32", "--batch-size=16", "--weights=random")
_POOLS = ("--pool=default", "--pool=token+avg", "--pool=max")
CASES = (
    Case(
        "vit_tiny_patch16_224 at 96: default against default, token+avg, max",
        ("--model=vit_tiny_patch16_224", "--image-size=96", "--limit=200", "--engine=torch"),
        ("--pool=default",),
        _POOLS,
    ),
    Case(
        "the same of the last 4 layers",
        ("--model=vit_tiny_patch16_224", "--image-size=96", "--limit=200", "--engine=torch"),
        ("--pool=default", "--layer=last4"),
        (*_POOLS, "--layer=last4"),
    ),
    Case(
        "tf_efficientnet_lite0 at 128: default against default and max",
        ("--model=tf_efficientnet_lite0", "--image-size=128", "--limit=200", "--engine=openvino"),
        ("--pool=default",),
        ("--pool=default", "--pool=max"),
    ),
    Case(
        "photographs, test_efficientnet: 64 against 64, 96 and 128 pixels",
        ("--model=test_efficientnet", "--engine=channels-last"),
        ("--image-size=64",),
        ("--image-size=64", "--image-size=96", "--image-size=128"),
        photos=60,
        passes=3,
    ),
)
COLUMNS = (("case", 72), ("one", 12), ("several", 12), ("ratio", 7), ("CPU ratio", 9))


def run(settings: Settings) -> Record:
    """Run the part; see `benchmarks.one_c.run`."""
    record = Record(settings.results, "siblings", settings.record())
    record.remark(
        "images a second of the passes over the images, writing included: the fastest of "
        f"{settings.repeats} runs in turn; and the ratio of their seconds of the processors"
    )
    table, met = Table(COLUMNS), True
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            ratio = _measure(case, Path(folder), settings.repeats, table, record)
        met = met and (case.passes > 1 or ratio >= GOAL)
    record.remark(f"goal of {GOAL:.0%} of the speed of one store: {'met' if met else 'NOT met'}")
    record.finish()
    return record


def _measure(case: Case, folder: Path, repeats: int, table: Table, record: Record) -> float:
    """Time one store and several in turn; give the ratio of their rates."""
    source = _photographs(folder, case.photos) if case.photos else "digits"
    words = [f"--dataset={source}", *_FIXED, *case.words, f"--data-dir={folder}", "--force"]
    found: dict[str, list[tuple[float, float]]] = {"one": [], "several": []}
    for number in range(repeats + 1):
        for name, more in (("one", case.one), ("several", case.several)):
            timed = _timed([*words, *more, f"--features-dir={folder / name}"])
            if number:  # the first run of a process warms it up
                found[name].append(timed)
    # Other programs only ever make a run slower.
    rate = {name: max(seen for seen, _ in runs) for name, runs in found.items()}
    cpu = {name: min(spent for _, spent in runs) for name, runs in found.items()}
    ratio, cpu_ratio = rate["several"] / rate["one"], cpu["one"] / cpu["several"]
    table.row(
        case.name, f"{rate['one']:.0f}/s", f"{rate['several']:.0f}/s", f"{ratio:.2f}",
        f"{cpu_ratio:.2f}",
    )  # fmt: skip
    record.add(
        {"case": case.name, "words": words, "one": case.one, "several": case.several, "runs": found}
        | {"ratio": ratio, "cpu_ratio": cpu_ratio}
    )
    return ratio


def _timed(words: list[str]) -> tuple[float, float]:
    """Run stage one here: images a second of the passes, and seconds of the processors."""
    from data.common.cli import run as run_command
    from extract.__main__ import main
    from extract.shards import fill

    real = fill.fill_together
    seen: dict[str, float] = {}

    def timed(passes: Any) -> tuple[int, float]:
        for one in passes:
            one.job.close()  # what was decoded while the network was prepared is thrown away
        start, before = time.perf_counter(), os.times()
        done = real(passes)
        after = os.times()
        seconds = time.perf_counter() - start
        images = sum(passes[0].job.sizes.values())
        seen.update(rate=images / seconds, cpu=sum(after[:4]) - sum(before[:4]))
        return done

    said = StringIO()
    fill.fill_together = timed
    try:
        with redirect_stdout(said), redirect_stderr(said):
            code = run_command(main, words)
    finally:
        fill.fill_together = real
    if code:
        raise UserError(f"stage one ended with {code}: {said.getvalue().strip().splitlines()[-1]}")
    return seen["rate"], seen["cpu"]


def _photographs(folder: Path, count: int) -> Path:
    """Write one of scikit-learn's photographs at 500 x 375, in as many cuts as asked for."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image("china.jpg"))
    for number in range(count):
        split = "test" if number % 5 == 0 else "train"
        path = folder / "photos" / split / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        left, top = number % 130, number % 50
        image.crop((left, top, left + 500, top + 375)).save(path, quality=92)
    return folder / "photos"
