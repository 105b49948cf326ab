"""Whether what was written answers as ``predict`` does, on a few photographs of many shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError

LIMIT = 1e-4  # of probabilities
# Sides of the pieces of photographs, height and width: larger and smaller than network inputs,
# square and not, and the whole of one.
SIZES = ((427, 640), (300, 300), (240, 131), (64, 97), (32, 32), (1, 1))

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def write_images(folder: Path, *, squares: bool = True) -> list[str]:
    """Write pieces of scikit-learn's two photographs as PNG files; returns their names.

    Without squares where Pillow resizes them: `predict` has small ones resized in batches, which
    rounds a pixel in a thousand to the next grey level.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs, found = load_sample_images().images, []
    for number, (height, width) in enumerate(SIZES):
        if height == width and not squares:
            continue
        photograph = photographs[number % 2]
        top, left = (photograph.shape[0] - height) // 2, (photograph.shape[1] - width) // 2
        path = folder / f"{number}-{height}x{width}.png"
        Image.fromarray(photograph[top : top + height, left : left + width]).save(path)
        found.append(str(path))
    return found


def compare(
    expected: tuple[Floats, Labels],
    found: tuple[Floats, Labels],
    images: Sequence[str],
) -> float:
    """Compare probabilities (n, n_classes) and labels (n,) with ``predict``'s.

    Returns the largest difference; a `UserError` says that it is too large, or that a label
    differs and the two probabilities at stake do not.
    """
    probabilities, labels = expected
    if found[0].shape != probabilities.shape:
        raise UserError(
            f"the program gives probabilities of shape {found[0].shape}, and predict "
            f"{probabilities.shape}; nothing was written: please report this"
        )
    apart = np.abs(found[0] - probabilities)
    largest = float(apart.max())  # NaN stays one
    if not largest <= LIMIT:
        worst = Path(images[int(np.nanargmax(np.nan_to_num(apart, nan=2.0).max(axis=1)))]).name
        raise UserError(
            f"what was written answers otherwise than predict: a probability of the check image "
            f"{worst} differs by {largest:.2g}, and {LIMIT:g} is allowed; nothing was kept. "
            "Please report this, with the name of the network"
        )
    rows = np.arange(len(labels))
    close = np.abs(probabilities[rows, labels] - probabilities[rows, found[1]]) <= 2 * LIMIT
    if not np.all(close | (labels == found[1])):
        worst = Path(images[int(np.flatnonzero(~close & (labels != found[1]))[0])]).name
        raise UserError(
            f"what was written answers otherwise than predict: the check image {worst} has another "
            "label; nothing was kept. Please report this, with the name of the network"
        )
    return largest
