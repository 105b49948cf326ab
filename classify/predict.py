"""Label image files with a stored head.

The backbone runs in a process of its own, ``python -m extract images``, so that stage two needs no
torch; it gets the head's spec, and hands back one row of features for each image.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.report.terminal import printable, table, wants_colour
from classify.results import has_random_weights
from classify.saved_heads import Head, load_head
from classify.wording import display_name
from data.common.cli import EXIT_INTERRUPTED, EXIT_USER, say
from data.common.errors import UserError
from data.format.spec import TWICE, cropped_twice


class StageOneRefused(SystemExit):
    """Stage one has told the user what is wrong; nothing is left to say but the exit code."""


def predict(
    head_path: Path,
    images: Sequence[str],
    *,
    top: int = 3,
    weights: str | None = None,
    device: str = "auto",
) -> tuple[Head, list[dict[str, Any]]]:
    """Label images.

    Parameters
    ----------
    head_path : Path
        A head that ``classify fit`` wrote.
    images : sequence of str
        Image files that exist, from `classify.sources.find_images`.
    top : int
        How many of the most probable classes to return.
    weights : str, optional
        Where the backbone's weights lie, if they came from a file and it has moved.
    device : str
        ``auto``, ``cpu`` or ``cuda``, for the backbone.

    Returns
    -------
    tuple
        The head, and for each image a dict with ``image``, ``label`` (the strategy's answer) and
        ``top``: ``class`` and ``probability``, the most probable first.

    Raises
    ------
    UserError
        If the head or an image cannot be used.
    """
    head = load_head(head_path)
    X = embed(head, images, weights=weights, device=device)
    return head, answers(head, images, X, top=top)


def answers(
    head: Head, images: Sequence[str], X: npt.NDArray[np.floating], *, top: int = 3
) -> list[dict[str, Any]]:
    """Turn features into answers.

    Parameters
    ----------
    head : Head
        A head.
    images : sequence of str
        Names of the rows.
    X : ndarray, shape (n_images, n_features)
        Raw embeddings.
    top : int
        How many classes at most.

    Returns
    -------
    list of dict
        As `predict` describes.
    """
    probabilities = head.probabilities(X)
    labels = head.predict(X)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        {
            "image": image,
            "label": head.class_names[labels[row]],
            "top": [
                {"class": head.class_names[i], "probability": float(probabilities[row, i])}
                for i in order[row]
            ],
        }
        for row, image in enumerate(images)
    ]


def embed(
    head: Head, images: Sequence[str], *, weights: str | None = None, device: str = "auto"
) -> npt.NDArray[np.float32]:
    """Run the head's backbone on images, in a process of its own.

    Parameters
    ----------
    head : Head
        Its spec says which backbone and which preprocessing.
    images : sequence of str
        Image files that exist.
    weights : str, optional
        A weights file.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    ndarray of float32, shape (n_images, n_features)
        One row for each image.

    Raises
    ------
    UserError
        If the weights file is needed and not at hand, or the features do not fit the head.
    StageOneRefused
        If stage one found fault with the input; it has said so on stderr.
    """
    weights = weights or _weights_file(head)
    with tempfile.TemporaryDirectory(prefix="icebox-predict-") as folder:
        spec, out = Path(folder, "spec.json"), Path(folder, "features.npy")
        # Thousands of names are more than a command line holds.
        listing = Path(folder, "images.json")
        listing.write_text(json.dumps(list(images)), encoding="utf-8")
        needed = {"spec": head.spec, "weights_file": weights}
        spec.write_text(json.dumps(needed), encoding="utf-8")
        command = [sys.executable, "-m", "extract", "images", f"--spec={spec}", f"--out={out}"]
        command += [f"--device={device}", f"--list={listing}"]
        _run(command)
        X = np.load(out, allow_pickle=False)
    if X.shape != (len(images), head.n_features):
        raise UserError(
            f"the backbone gave features of shape {X.shape} for {len(images)} images, but the head "
            f"takes {head.n_features}; the head belongs to another backbone or pooling"
        )
    return X.astype(np.float32, copy=False)


def _weights_file(head: Head) -> str | None:
    """Find the file that the backbone's weights came from; None where they came from elsewhere."""
    weights = (head.spec.get("model") or {}).get("weights") or {}
    if not isinstance(weights, dict) or weights.get("source") != "file":
        return None
    if head.weights_file and os.path.isfile(head.weights_file):
        return head.weights_file
    where = f", was at {head.weights_file}, which is gone" if head.weights_file else ""
    raise UserError(
        f"the backbone of this head needs its weights file (sha256 of the weights "
        f"{str(weights.get('digest'))[:16]}...{where}); give it with --weights FILE.safetensors"
    )


def _run(command: list[str]) -> None:
    # Its progress and its messages are for the person who waits; its result is a path we know.
    # Ctrl-C in a terminal reaches all processes of a session: this one ends the other, and says so.
    done = subprocess.run(  # noqa: S603
        command, stdout=subprocess.DEVNULL, check=False, start_new_session=True
    )
    if done.returncode == EXIT_USER:
        raise StageOneRefused(EXIT_USER)
    if done.returncode == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode:
        raise RuntimeError(f"stage one ended with code {done.returncode}: {' '.join(command)}")


def answers_csv(found: Sequence[Mapping[str, Any]]) -> str:
    """Write answers as CSV, one line an image.

    Parameters
    ----------
    found : sequence of mapping
        From `predict`.

    Returns
    -------
    str
        A line of heads (``image``, ``label``, ``class_1``, ``probability_1`` and so on), then the
        answers; without a line feed at the end.
    """
    n_top = max(len(answer["top"]) for answer in found)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    numbers = range(1, n_top + 1)
    ranks = [column for i in numbers for column in (f"class_{i}", f"probability_{i}")]
    writer.writerow(["image", "label", *ranks])
    for answer in found:
        cells = [cell for item in answer["top"] for cell in (item["class"], item["probability"])]
        writer.writerow([answer["image"], answer["label"], *cells])
    return stream.getvalue().rstrip("\n")


def show(head: Head, found: Sequence[Mapping[str, Any]], *, as_json: bool = False) -> str:
    """Write answers for people or for programs.

    Parameters
    ----------
    head : Head
        The head that gave them.
    found : sequence of mapping
        From `predict`.
    as_json : bool
        A JSON list instead of a table.

    Returns
    -------
    str
        Ready to print.
    """
    if as_json:
        return json.dumps(list(found), indent=2, ensure_ascii=False)
    n_top = max(len(answer["top"]) for answer in found)
    heads = ["image", "label", "most probable", *["then"] * (n_top - 1)]
    rows = [
        [
            answer["image"],
            answer["label"],
            *(f"{item['class']} {100 * item['probability']:.1f} %" for item in answer["top"]),
        ]
        for answer in found
    ]
    return table(heads, rows, left=len(heads), colour=wants_colour(sys.stdout))


def note(head: Head) -> None:
    """Say on stderr what answered, and what that is worth.

    Parameters
    ----------
    head : Head
        The head that answered.
    """
    model = (head.spec.get("model") or {}).get("name", "an unknown backbone")
    say(
        printable(f"{display_name(head.strategy)} head on {model}, {len(head.class_names)} classes")
    )
    if has_random_weights(head.spec):
        say("warning: this backbone's weights are random; the answers show the mechanism only")
    if cropped_twice(head.spec):
        say(
            f"warning: this head was trained on a store {TWICE}, and these images are cropped "
            "once: run make features again, then fit again"
        )
