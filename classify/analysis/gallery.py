"""Section 10: which test images a report shows, and their thumbnails."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data.common.errors import UserError

if TYPE_CHECKING:
    from classify.records import Fitted
    from data.format.records import Features

# Images in each of the two parts.
SHOWN = 24
# Pairs of classes whose worst errors are shown, the hardest first.
PAIRS_SHOWN = 4
# Longest side of a thumbnail in pixels; what is smaller is kept as it is.
SIDE = 112
# Up to this side PNG is small enough, and shows every pixel as it is.
LOSSLESS_SIDE = 64
MEDIA = ("data:image/png;base64,", "data:image/jpeg;base64,")


def gallery(
    features: Features, fitted: Mapping[str, Fitted], data_dir: Path | None = None
) -> dict[str, Any]:
    """Choose the images that say most about the strategies, and fetch them."""
    labels = np.asarray(features.test.labels)
    predictions = {name: fit.predictions for name, fit in fitted.items()}
    probabilities = {name: fit.probabilities for name, fit in fitted.items()}
    apart = disagreements(predictions, probabilities)
    wrong = confident_errors(labels, predictions, probabilities)
    parts = {
        name: [
            answers_to(row, features.test.ids, labels, features.class_names, fitted) for row in rows
        ]
        for name, rows in (("disagreements", apart[:SHOWN]), ("confident_errors", wrong[:SHOWN]))
    }
    pairs = [
        pair for fit in fitted.values() for pair in fit.entry.get("pairs", {}).get("hardest", [])
    ]
    groups = [*parts.values(), *(pair["examples"] for pair in pairs[:PAIRS_SHOWN])]
    ids = list(dict.fromkeys(entry["id"] for entries in groups for entry in entries))
    images, missing = thumbnails(features, ids, data_dir)
    return {**parts, "n_disagreements": len(apart), "thumbnails": images, "missing": missing}


def disagreements(
    predictions: Mapping[str, npt.NDArray[np.int64]],
    probabilities: Mapping[str, npt.NDArray[np.float64]],
) -> npt.NDArray[np.intp]:
    """Find the rows that OvR and OvO answer differently, the surest of both first.

    Shapes: predictions (n_rows,); probabilities (n_rows, n_classes).
    """
    if not {"ovr", "ovo"} <= set(predictions):
        return np.array([], dtype=np.intp)
    rows = np.flatnonzero(predictions["ovr"] != predictions["ovo"])
    sure = sum(probabilities[name][rows, predictions[name][rows]] for name in ("ovr", "ovo"))
    return rows[np.argsort(-sure, kind="stable")]


def confident_errors(
    labels: npt.NDArray[np.int64],
    predictions: Mapping[str, npt.NDArray[np.int64]],
    probabilities: Mapping[str, npt.NDArray[np.float64]],
) -> npt.NDArray[np.intp]:
    """Find the rows that a strategy answers wrongly, those most sure of their error first.

    That is the mean over the strategies of the probability of a wrong answer, 0 where it is right.

    Shapes: labels, predictions (n_rows,); probabilities (n_rows, n_classes).
    """
    every = np.arange(len(labels))
    sure = np.mean(
        [
            np.where(answers != labels, probabilities[name][every, answers], 0.0)
            for name, answers in predictions.items()
        ],
        axis=0,
    )
    rows = np.flatnonzero(sure > 0)
    return rows[np.argsort(-sure[rows], kind="stable")]


def answers_to(
    row: int,
    ids: Sequence[str],
    labels: npt.NDArray[np.int64],
    class_names: Sequence[str],
    fitted: Mapping[str, Fitted],
) -> dict[str, Any]:
    """Say what an image is and what the strategies took it for.

    Shapes: labels (n_rows,).
    """
    return {
        "id": ids[row],
        "truth": class_names[labels[row]],
        "answers": {
            name: {
                "class": class_names[answer],
                "probability": float(fit.probabilities[row, answer]),
                "right": bool(answer == labels[row]),
            }
            for name, fit in fitted.items()
            for answer in [fit.predictions[row]]
        },
    }


def thumbnails(
    features: Features, ids: Sequence[str], data_dir: Path | None = None
) -> tuple[dict[str, str], str]:
    """Fetch test images and make them small: data URIs by id, and why there are none."""
    from data.images.decode import MAX_PIXELS, decode_image
    from data.images.lookup import find_pictures

    if not ids:
        return {}, ""
    why = ""
    # The stores of a sum are of the same images, and one that knows where they lie is enough.
    for store in [part.header for part in features.parts] or [features]:
        try:
            # What the store was made of may be looked at, too.
            limit = (store.provenance or {}).get("max_pixels", MAX_PIXELS)
            how = partial(decode_image, max_pixels=limit, wanted=thumbnail_size)
            origin = (store.provenance or {}).get("dataset")
            pictures = find_pictures(store.request or {}, ids, data_dir, how, origin)
        except (UserError, OSError) as error:
            why = why or str(error).split("\n")[0]
        else:
            return {name: data_uri(pixels) for name, pixels in zip(ids, pictures, strict=True)}, ""
    return {}, why


def thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """Give height and width of an image's thumbnail."""
    share = min(1.0, SIDE / max(height, width))
    return math.ceil(share * height), math.ceil(share * width)


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """Make a thumbnail that a page can hold.

    Shapes: pixels (height, width, 3).
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    lossless = max(image.size) <= LOSSLESS_SIDE
    if not lossless:
        image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    if lossless:
        image.save(stream, format="PNG", optimize=True)
    else:
        image.save(stream, format="JPEG", quality=82)
    return MEDIA[0 if lossless else 1] + base64.b64encode(stream.getvalue()).decode("ascii")
