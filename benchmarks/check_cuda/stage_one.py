"""Stage one: a device's rows against the CPU's, and its rate against the network's own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.check_cuda import inputs
from benchmarks.check_cuda.rows import Context, Row, synchronize
from benchmarks.check_cuda.sizes import Network

if TYPE_CHECKING:
    import torch

    from extract.engines.embed import Embedder
    from extract.model.backbone import Backbone

Rows = npt.NDArray[np.float32]

GOAL = 0.9
# Batches of the network alone in one measurement, and how many images rows of batches of one need.
ALONE_BATCHES = 20
FEW = 64


def network_of(context: Context, name: str) -> Network:
    """Find a network of the sizes by its name."""
    return next(network for network in context.sizes.networks if network.name == name)


def load(network: Network) -> Backbone:
    """Load a network with random weights."""
    from extract.model.backbone import BackboneRequest, load_backbone

    return load_backbone(BackboneRequest(network.name, "random", image_size=network.size))


def rows(context: Context, name: str) -> Iterator[Row]:
    """Compare rows in fp32 and in the device's precision with the CPU's in fp32; then batches."""
    import torch

    from extract.engines.build import default_engine
    from extract.engines.device import EngineError

    network, sizes = network_of(context, name), context.sizes
    images, labels = inputs.digits(sizes.rows)
    backbone = load(network)
    engine = default_engine(backbone)
    torch.set_num_threads(context.threads)
    batch = min(FEW, sizes.rows)
    start = time.perf_counter()
    on_cpu = embedded(_embedder(backbone, torch.device("cpu"), "fp32", engine, batch), images)
    cpu_seconds = time.perf_counter() - start
    judge = Flips(on_cpu, labels)
    kinds = [("fp32", engine), (sizes.precision, engine), (sizes.precision, sizes.engine)]
    for precision, kind in dict.fromkeys(kinds):
        facts: dict[str, Any] = {"precision": precision, "engine": kind, "cpu_seconds": cpu_seconds}
        # The batch that rates are measured at, so that what is compiled here is found again there.
        size = sizes.rate_batch if kind == sizes.engine else batch
        try:
            made = _embedder(backbone, context.device, precision, kind, size)
        except _NotHereError as error:
            yield Row(f"{precision}, {kind}, against the CPU", str(error))
            continue
        except EngineError as error:
            yield Row(f"{precision}, {kind}, against the CPU", str(error), "it runs", False)
            continue
        found = embedded(made, images)
        again = embedded(made, images)
        yield compared(f"{precision}, {kind}, against the CPU", found, on_cpu, precision,
                       facts | judge.count(found))  # fmt: skip
        yield Row(f"{precision}, {kind}, the same again", "same bits" if _same(found, again) else
                  "other bits", "same bits", _same(found, again))  # fmt: skip
    yield from batches(context, backbone, engine, images)


def batches(context: Context, backbone: Backbone, engine: str, images: Any) -> Iterator[Row]:
    """Compare the rows of small and large batches, in fp32 and in the device's precision."""
    few = images[: min(FEW, len(images))]
    for precision in dict.fromkeys(("fp32", context.sizes.precision)):
        found = {
            size: embedded(_embedder(backbone, context.device, precision, engine, size), few)
            for size in context.sizes.batches
        }
        largest = max(found)
        worst = min((size for size in found if size != largest),
                    key=lambda size: _lowest_cosine(found[size], found[largest]))  # fmt: skip
        sizes = ", ".join(map(str, found))
        yield compared(
            f"{precision}, batches of {sizes}", found[worst], found[largest], precision,
            {"furthest": worst, "from": largest},
        )  # fmt: skip


class Flips:
    """A classifier trained on half of the CPU's rows: how many of its answers change."""

    def __init__(self, on_cpu: Rows, labels: npt.NDArray[np.int64]) -> None:
        from classify import MultinomialLogistic

        half = len(on_cpu) // 2
        self._head = MultinomialLogistic(0.1, standardize=True).fit(on_cpu[:half], labels[:half])
        self._half = half
        self._expected = self._head.predict(on_cpu[half:])
        self._right = int((self._expected == labels[half:]).sum())

    def count(self, found: Rows) -> dict[str, int]:
        """Count the answers that differ."""
        flips = int((self._head.predict(found[self._half :]) != self._expected).sum())
        return {"flips": flips, "answers": len(self._expected), "right_on_cpu": self._right}


def compared(what: str, found: Rows, expected: Rows, precision: str, facts: dict[str, Any]) -> Row:
    """Judge rows by the lowest cosine that an engine may have in a precision."""
    from extract.engines.constants import FP32_TOLERANCE, LOWEST_COSINE

    cosine = _lowest_cosine(found, expected)
    error = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    finite = bool(np.isfinite(found).all())
    ok = finite and cosine >= LOWEST_COSINE[precision]
    goal = f"cosine {LOWEST_COSINE[precision]:g}"
    if precision == "fp32":
        ok, goal = ok and error <= FP32_TOLERANCE, f"{goal}, error {FP32_TOLERANCE:g}"
    text = f"cosine {cosine:.6f}, error {error:.1e}"
    if "flips" in facts:
        text += f", {facts['flips']} of {facts['answers']} flip"
    return Row(what, text, goal, ok, facts={**facts, "lowest_cosine": cosine, "error": error})


def _lowest_cosine(found: Rows, expected: Rows) -> float:
    a, b = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(lengths, 1e-300)).min())


def _same(a: Rows, b: Rows) -> bool:
    return a.tobytes() == b.tobytes()


class _NotHereError(Exception):
    """An engine cannot run on this machine."""


def _embedder(
    backbone: Backbone, device: torch.device, precision: str, engine: str, batch: int
) -> Embedder:
    from extract.engines.build import why_not
    from extract.engines.embed import Embedder

    reason = why_not(engine, device, precision)
    if reason is not None:
        raise _NotHereError(f"not here: {reason}")
    return Embedder(backbone, device, precision, engine, batch)


def embedded(embedder: Embedder, images: Any) -> Rows:
    """Embed images as a run does, batch by batch, with the host ahead of the device."""
    from extract.shards.stream import embed_batches

    size = embedder.batch_size
    spans = [slice(low, low + size) for low in range(0, len(images), size)]
    parts = embed_batches(embedder, ((None, images[span]) for span in spans))
    return np.concatenate([part for _, part in parts])


def rates(context: Context, name: str) -> Iterator[Row]:
    """Time a whole run, writing included, and then the very network that it ran, alone."""
    from data.reading import read_header
    from extract.engines.build import default_engine, why_not

    network, sizes = network_of(context, name), context.sizes
    engine, note = sizes.engine, ""
    reason = why_not(engine, context.device, sizes.precision)
    if reason is not None:
        engine, note = default_engine(load(network)), f" ({reason})"
    words = [
        *inputs.dataset_words(sizes.dataset, network.images, context.folder),
        f"--model={name}", "--weights=random", f"--image-size={network.size}",
        f"--device={context.device.type}", f"--precision={sizes.precision}", f"--engine={engine}",
        f"--batch-size={sizes.rate_batch}", f"--features-dir={context.folder / 'features'}",
    ]  # fmt: skip
    run = watched_run(words)
    embedder = run["embedder"]
    alone = network_alone(embedder, network.size, sizes.repeats)
    provenance = read_header(only_store(context.folder / "features")).provenance
    rate = float(provenance["images_per_second"])
    images = run["images"]
    facts = {
        "images": images, "engine": embedder.engine, "batch": embedder.batch_size,
        "network": alone, "embedding": rate, "to_the_store": images / run["seconds"],
        "seconds_before_the_first_image": run["before"],
        "peak_device_bytes": peak_bytes(context.device),
    }  # fmt: skip
    what = f"{sizes.precision}, {embedder.engine}{note}"
    yield Row(f"{what}, the network alone", f"{alone:,.0f} images/s", facts=facts)
    yield Row(f"{what}, shards written", f"{rate:,.0f} images/s, {rate / alone:.0%}",
              f"{GOAL:.0%}", rate >= GOAL * alone, must=False)  # fmt: skip
    whole = images / run["seconds"]
    yield Row(f"{what}, to the verified store", f"{whole:,.0f} images/s, {whole / alone:.0%}")


def watched_run(words: Sequence[str]) -> dict[str, Any]:
    """Run ``python -m extract`` here: seconds before and from its first image, its embedder."""
    from extract.__main__ import main as command
    from extract.shards import fill

    original = fill.fill
    seen: dict[str, Any] = {}

    def watched(job: Any, plan: Any, embedder: Any) -> Any:
        seen.update(embedder=embedder, begun=time.perf_counter(), images=sum(job.sizes.values()))
        return original(job, plan, embedder)

    fill.fill = watched
    start = time.perf_counter()
    try:
        command(list(words))
    finally:
        fill.fill = original
    begun = seen.pop("begun")
    return {**seen, "seconds": time.perf_counter() - begun, "before": begun - start}


def network_alone(embedder: Embedder, size: int, repeats: int) -> float:
    """Feed a network with one batch that lies on its device: images a second, the best of a few."""
    import torch

    device, batch = embedder.device, embedder.batch_size
    noise = torch.randn(batch, 3, size, size, device=device)
    if embedder.backbone.is_convolutional:
        noise = noise.contiguous(memory_format=torch.channels_last)
    found = []
    for repeat in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        with embedder.translated_errors(), torch.inference_mode():
            for _ in range(ALONE_BATCHES):
                embedder.network(noise)
        synchronize(device)
        if repeat:
            found.append(ALONE_BATCHES * batch / (time.perf_counter() - start))
    return statistics.median(found)


def peak_bytes(device: torch.device) -> int | None:
    """Say what torch had on the device at most."""
    import torch

    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def jpegs(context: Context, _: str) -> Iterator[Row]:
    """Decode JPEG files on the device, with Pillow, and compare grey levels."""
    import torch
    from PIL import Image

    files = inputs.photographs(context.sizes.jpegs)
    start = time.perf_counter()
    with_pillow = [_pillow(file) for file in files]
    pillow = len(files) / (time.perf_counter() - start)
    yield Row(f"Pillow {Image.__version__}, one core, 500 x 375", f"{pillow:,.0f} images/s",
              facts={"images_per_second": pillow})  # fmt: skip
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError as error:
        yield Row("torchvision on the device", f"not here: {error}")
        return
    raw = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]

    def decode() -> list[torch.Tensor]:
        options = {"mode": ImageReadMode.RGB, "device": str(context.device)}
        return [image for low in range(0, len(raw), FEW)
                for image in decode_jpeg(raw[low : low + FEW], **options)]  # fmt: skip

    try:
        decode()  # loads nvJPEG
    except RuntimeError as error:
        yield Row("torchvision on the device", f"not here: {str(error).splitlines()[0]}")
        return
    synchronize(context.device)
    start = time.perf_counter()
    found = decode()
    synchronize(context.device)
    rate = len(files) / (time.perf_counter() - start)
    apart = [
        np.abs(image.cpu().numpy().transpose(1, 2, 0).astype(int) - expected.astype(int))
        for image, expected in zip(found, with_pillow, strict=True)
    ]
    mean, largest = float(np.mean([part.mean() for part in apart])), int(max(map(np.max, apart)))
    facts = {"images_per_second": rate, "mean_difference": mean, "largest_difference": largest}
    yield Row("torchvision on the device", f"{rate:,.0f} images/s, {rate / pillow:.1f} times",
              facts=facts)  # fmt: skip
    yield Row("its grey levels against Pillow's", f"{mean:.2f} on average, {largest} at most",
              "2 on average", mean <= 2.0, must=False)  # fmt: skip


def _pillow(file: bytes) -> npt.NDArray[np.uint8]:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


def only_store(folder: Path) -> Path:
    """Find the one finished store below a folder."""
    (found,) = [path for path in folder.rglob("*.h5") if ".work" not in path.parts]
    return found
