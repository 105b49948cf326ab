"""Stage one on a CUDA device, beside the same compiled network fed with tensors that lie there.

    make bench-cuda        # or: python -m benchmarks.cuda_stage_one [--images N] [--model NAME]

For each network, at 224 pixels in bf16 and compiled: the rate of the network alone, fed with one
batch of random numbers that lies on the device, and the rate of stage one from images of 32 x 32
pixels, resized and normalised there: once resident on the device, once from the host through pinned
memory, rows copied back in either case. The goal is 90 % of the former. Then the whole pipeline,
``python -m extract --compile on`` on made images: from the first image to the verified store.
Medians of the repeats after one that is not counted; the device is done before a clock is read.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engines import made_images
from benchmarks.processes import scratch
from benchmarks.record import machine, write_json

RESULTS = Path(__file__).parent / "results"
MODELS = ("resnet50", "vit_small_patch14_reg4_dinov2")
SIZE = 224
GOAL = 0.9


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Time something a few times, after a first time that loads kernels; the median."""
    found = []
    for repeat in range(repeats + 1):
        _finish(device)
        start = time.perf_counter()
        work()
        _finish(device)
        if repeat:
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    model: str, device: torch.device, precision: str, engine: str, n_images: int, batch: int,
    repeats: int, size: int = SIZE,
) -> dict[str, Any]:  # fmt: skip
    """Compare stage one with its own network on one device.

    Parameters
    ----------
    model : str
        timm's name; its weights are random.
    device : torch.device
        Where to compute.
    precision, engine : str
        As `extract.engines.embed.Embedder` takes them.
    n_images, batch : int
        Images, and how many of them in a batch.
    repeats : int
        Paired runs.
    size : int
        Side of the network's input.

    Returns
    -------
    dict
        Images a second: ``network``, ``resident``, ``streamed``; their shares of the first; and
        the seconds that preparing the engine took.
    """
    from extract.engines.embed import Embedder
    from extract.model.backbone import BackboneRequest, load_backbone
    from extract.shards.stream import embed_batches, resident

    backbone = load_backbone(BackboneRequest(model, "random", image_size=size))
    start = time.perf_counter()
    embedder = Embedder(backbone, device, precision, engine, batch)
    _finish(device)
    built = time.perf_counter() - start
    images = np.random.default_rng(0).integers(0, 256, (n_images, 32, 32, 3), dtype=np.uint8)
    noise = torch.randn(batch, 3, size, size, device=device)
    spans = [slice(low, low + batch) for low in range(0, n_images, batch)]

    def network_alone() -> None:
        with torch.inference_mode():
            for _ in spans:
                embedder.network(noise)

    def pipeline(pixels: Any) -> None:
        for _ in embed_batches(embedder, ((None, pixels[span]) for span in spans)):
            pass

    rates = {
        "network": len(spans) * batch / seconds_of(network_alone, device, repeats),
        "resident": n_images
        / seconds_of(lambda: pipeline(resident(images, device)), device, repeats),
        "streamed": n_images / seconds_of(lambda: pipeline(images), device, repeats),
    }
    shares = {name: rates[name] / rates["network"] for name in ("resident", "streamed")}
    return {"model": model, "build_seconds": built, "rates": rates, "shares": shares}


def whole_run(model: str, folder: Path, batch: int) -> float:
    """Run ``python -m extract`` on a folder: images a second from the first to the store."""
    from benchmarks.whole_pipeline import timed_run

    words = [
        f"--dataset={folder / 'images'}", f"--model={model}", "--weights=random", "--device=cuda",
        f"--image-size={SIZE}", "--precision=bf16", "--compile=on", f"--batch-size={batch}",
        f"--features-dir={folder / 'features'}",
    ]  # fmt: skip
    return timed_run(words)["seconds"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--images", type=int, default=50_000, help="(%(default)s)")
    parser.add_argument("--files", type=int, default=10_000, help="of the whole run (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=256, help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            f"error: there is no CUDA device (torch {torch.__version__} finds none), and this "
            "benchmark measures one; `make bench PARTS=engines` measures the CPU",
            file=sys.stderr,
        )
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    gpu, results = torch.cuda.get_device_name(device), []
    print(f"{gpu}, torch {torch.__version__}, bf16, compiled, batches of {options.batch_size}")
    for model in options.model or MODELS:
        row = measure(
            model, device, "bf16", "compiled", options.images, options.batch_size, options.repeats
        )
        with scratch() as folder:
            test = max(options.files // 10, 2)
            made_images(folder / "images", options.files - test, test)
            row["whole_run"] = options.files / whole_run(model, folder, options.batch_size)
        row["reached"] = {name: share >= GOAL for name, share in row["shares"].items()}
        results.append(row)
        rates, shares = row["rates"], row["shares"]
        print(
            f"{model:<30} network {rates['network']:,.0f} images/s; resident "
            f"{rates['resident']:,.0f} ({shares['resident']:.0%}), streamed "
            f"{rates['streamed']:,.0f} ({shares['streamed']:.0%}), goal {GOAL:.0%}; from files to "
            f"the store {row['whole_run']:,.0f}; compiled in {row['build_seconds']:.0f} s",
            flush=True,
        )
    path = RESULTS / "cuda-stage-one.json"
    write_json(
        path, {"device": gpu, "machine": machine(), "options": vars(options), "results": results}
    )
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
