"""Stage one on one network: what it chooses, what each candidate does, and the whole pipeline.

``python -m benchmarks.whole_pipeline JOB.json OUT.json``: a process of its own, as a run is one.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Candidates that were at least so fast when the engine was chosen are timed again.
CLOSE = 0.5
# The run that engines are chosen for: the size of CIFAR-10.
RUN = 60_000
# What the matrix peak is measured in.
PEAK_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Choose an engine, time the candidates in turn, and run the pipeline.

    Parameters
    ----------
    job : dict
        ``model``, ``size``, ``precision``, ``images`` (a folder with ``train`` and ``test``),
        ``features`` (where the store goes), ``matrix`` (side of the product that gives the peak),
        ``rounds`` and ``round_seconds`` (how often and how long each candidate is timed).

    Returns
    -------
    dict
        JSON values.
    """
    import torch

    from data.common.memory import keep_pages, peak_memory_mb
    from data.dataset import load_dataset
    from data.images.arrays import FileImages
    from extract.engines import build as engines
    from extract.engines import measured, tuning
    from extract.model.backbone import BackboneRequest, load_backbone

    keep_pages()
    cpu = torch.device("cpu")
    backbone = load_backbone(BackboneRequest(job["model"], "random", image_size=job["size"]))
    split = load_dataset(job["images"], data_dir=Path(job["images"])).train
    assert isinstance(split.images, FileImages)
    images = [split.images.decode(row) for row in range(min(16, len(split.ids)))]
    subject = tuning.Subject(backbone, cpu, job["precision"], images)
    start = time.perf_counter()
    choice = tuning.choose(subject, RUN)
    chosen_in = time.perf_counter() - start
    known = measured.read(subject, subject.names())
    best: dict[str, int] = {choice.engine: choice.batch_size}
    trials = sorted(known.trials if known else [], key=lambda trial: -trial.rate)
    for trial in trials:
        if trial.rate > CLOSE * trials[0].rate:  # what is slower cannot be the best one
            best.setdefault(trial.engine, trial.batch_size)
    rates, peak, resizing = _rounds(subject, best, job)
    flops = _flops(backbone.module, job["size"])
    if job["precision"] == "fp32":
        reference = subject.embedder("torch", 4).embed(images[:4])
        rows = subject.embedder(choice.engine, choice.batch_size).embed(images[:4])
        error = float(engines.differences(rows, reference)[0].max())
    else:
        error = None
    del backbone, subject  # the run loads its own
    return {
        "engine": choice.engine,
        "batch_size": choice.batch_size,
        "chosen_in_seconds": chosen_in,
        "trials": [asdict(trial) for trial in trials],
        "net_rates": rates,
        "batch_sizes": best,
        "share_of_best": rates[choice.engine] / max(rates.values()),
        "peak_gflops": peak / 1e9,
        "flops_of_an_image": flops,
        "share_of_peak": rates[choice.engine] * flops / peak,
        "share_resizing": resizing[choice.engine],
        "error": error,
        **timed_run(
            [
                f"--dataset={job['images']}", f"--model={job['model']}", "--weights=random",
                f"--image-size={job['size']}", f"--precision={job['precision']}", "--device=cpu",
                f"--engine={choice.engine}", f"--batch-size={choice.batch_size}",
                f"--features-dir={job['features']}",
            ]
        ),
        "peak_memory_mb": peak_memory_mb(),
    }  # fmt: skip


def _rounds(
    subject: Any, best: dict[str, int], job: dict[str, Any]
) -> tuple[dict[str, float], float, dict[str, float]]:
    """Time every candidate, in turn: the best of some rounds is the least disturbed one."""
    import torch

    side, limit = job["matrix"], job["round_seconds"]
    square = torch.randn(side, side).to(getattr(torch, PEAK_DTYPES[job["precision"]]))
    rates, peak = dict.fromkeys(best, 0.0), 0.0
    resizing, whole = dict.fromkeys(best, float("inf")), dict.fromkeys(best, float("inf"))
    with torch.inference_mode():
        for _ in range(job["rounds"]):
            peak = max(peak, 2 * side**3 / _seconds(lambda: square @ square, limit))
            for engine, batch in best.items():
                network, levels, embed = _batch_seconds(subject, engine, batch, limit)
                rates[engine] = max(rates[engine], batch / network)
                resizing[engine] = min(resizing[engine], levels)
                whole[engine] = min(whole[engine], embed)
    return rates, peak, {engine: resizing[engine] / whole[engine] for engine in best}


def _batch_seconds(
    subject: Any, engine: str, batch: int, limit: float
) -> tuple[float, float, float]:
    """Time the network alone, the resizing alone, and all of a batch."""
    import torch

    size = subject.backbone.preprocessing.size
    # Made anew each time: engines put the module into memory formats of their own.
    embedder = subject.embedder(engine, batch)
    noise, images = torch.randn(batch, 3, *size), subject.batch(batch)
    return (
        _seconds(lambda: embedder.network(noise), limit),
        _seconds(lambda: embedder.levels(images), limit),
        _seconds(lambda: embedder.embed(images), limit),
    )


def _seconds(work: Callable[[], object], limit: float) -> float:
    """Time something for a while, after one call: the least disturbed call counts."""
    work()
    found: list[float] = []
    while len(found) < 2 or sum(found) < limit:
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def _flops(module: Any, size: int) -> int:
    """Count the floating-point operations of an image's products, two for a multiply-add."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from extract.model.backbone import embed_normalised

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        embed_normalised(module, torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops())


def timed_run(words: list[str]) -> dict[str, float]:
    """Run ``python -m extract`` in this process.

    Parameters
    ----------
    words : list of str
        Its arguments.

    Returns
    -------
    dict
        ``seconds`` from the first image read to the verified store, and ``start_seconds`` before.
    """
    from extract.__main__ import main as command
    from extract.shards import fill

    original, begun = fill.fill, []

    def noted(*arguments: Any, **more: Any) -> Any:
        begun.append(time.perf_counter())
        return original(*arguments, **more)

    fill.fill = noted
    start = time.perf_counter()
    try:
        command(words)
    finally:
        fill.fill = original
    return {"seconds": time.perf_counter() - begun[-1], "start_seconds": begun[-1] - start}


if __name__ == "__main__":
    os.environ.setdefault("XDG_CACHE_HOME", sys.argv[2] + ".cache")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `python -m extract` does for itself
    found = main(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2]).write_text(json.dumps(found))
