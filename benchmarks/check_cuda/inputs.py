"""Inputs made on the machine from a seed: features, images, photographs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

SEED = 0
# Rows of features that are made at a time.
CHUNK = 1 << 16
# The deviations of the columns fall from the first of these to the second.
SPREAD = (2.0, 0.2)


def features(
    shape: tuple[int, int, int], device: torch.device
) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
    """Make overlapping classes: a normal cloud around each centre, columns of unequal scale.

    Shapes: `shape` (rows, columns, classes); returns float32 (rows, columns) on the device, and
    labels (rows,) on the host.
    """
    import torch

    n, d, k = shape
    generator = torch.Generator(device=device).manual_seed(SEED)
    # Centres so far apart that a nearest-centre rule among k classes errs now and then.
    distance = 1.2 * np.sqrt(2 * np.log(k) / d)
    centres = distance * torch.randn(k, d, generator=generator, device=device)
    first, last = (float(np.log10(value)) for value in SPREAD)
    scale = torch.logspace(first, last, d, device=device)
    y = np.random.default_rng(SEED).permutation(np.arange(n) % k)
    X = torch.empty(n, d, device=device)
    for low in range(0, n, CHUNK):
        labels = torch.from_numpy(y[low : low + CHUNK]).to(device)
        noise = torch.randn(len(labels), d, generator=generator, device=device)
        X[low : low + CHUNK] = (noise + centres[labels]) * scale
    return X, y.astype(np.int64)


def digits(count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Give some of scikit-learn's digits as images: real classes, which random weights tell apart.

    Shapes: returns uint8 (count, 8, 8, 3) and labels (count,).
    """
    from data.dataset import load_dataset

    split = load_dataset("digits", data_dir=Path(".")).train
    images: Any = split.images
    return np.ascontiguousarray(images.rows(0, count)), np.asarray(split.labels[:count])


def photographs(count: int, size: tuple[int, int] = (500, 375)) -> list[bytes]:
    """Cut JPEG files from scikit-learn's two photographs, scaled and compressed again."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(SEED)
    sources = [Image.fromarray(image) for image in load_sample_images().images]
    files = []
    for number in range(count):
        source = sources[number % len(sources)]
        width = int(rng.integers(source.width // 2, source.width + 1))
        height = min(source.height, width * size[1] // size[0])
        left = int(rng.integers(0, source.width - width + 1))
        top = int(rng.integers(0, source.height - height + 1))
        cut = source.crop((left, top, left + width, top + height))
        stream = io.BytesIO()
        cut.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def dataset_words(dataset: str, images: int, folder: Path) -> list[str]:
    """Write what stage one is to embed; return the options that name it."""
    if dataset == "digits":
        return ["--dataset=digits", f"--limit={images}"]
    from benchmarks.growth import as_archive

    return [*as_archive(folder), f"--limit={images - images // 6}"]
