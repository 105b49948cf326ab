"""Label image files, or rows of features, with a stored head.

The backbone runs in a process of its own, ``python -m extract images``, so that stage two needs no
torch; it gets the head's spec, and hands back one row of features for each image.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from classify.feature_files import FEATURE_SUFFIXES, is_feature_file, read_rows
from classify.report.terminal import printable, table, wants_colour
from classify.results.names import backbone_name, has_random_weights
from classify.saved.heads import SavedHead
from classify.saved.models import SavedModel, is_model, load_model
from classify.saved.parts import Network, networks_of
from classify.saved.reading import load_head
from classify.solver.memory import show_bytes
from classify.stage_one import run_stage_one
from classify.wording import display_name
from data.common.cli import log
from data.common.errors import UserError
from data.format.spec import TWICE, check_decode, cropped_twice, is_imported
from data.format.sums import sum_parts
from data.images.decode import MAX_PIXELS, SUFFIXES
from data.images.left_out import HIDDEN_FOLDERS, LeftOut, kind_of

STDIN = "-"
AnyHead = SavedHead | SavedModel


@dataclass(frozen=True)
class Embedding:
    """How new images are embedded: what the head's spec leaves open."""

    # Where the backbones' weights lie, if they came from files that have moved: see `networks`
    weights: Sequence[str] = ()
    device: str = "auto"  # auto, cpu or cuda
    decode: str | None = None  # refused if it is not how the head's store was made
    max_pixels: int = MAX_PIXELS  # images with more are refused


def read_head(path: Path) -> AnyHead:
    """Read the file of a head, of either kind."""
    return load_model(path) if is_model(path) else load_head(path)


def predict(
    head_path: Path,
    images: Sequence[str],
    *,
    top: int = 3,
    how: Embedding = Embedding(),
    threshold: float | None = None,
) -> tuple[AnyHead, list[dict[str, Any]]]:
    """Label files of images or of features with a head that ``classify fit`` wrote.

    Files come from `find_images`. Returns the head, and for each image or row of features a dict
    with ``image``, ``label`` (the strategy's answer) and ``top``: ``class`` and ``probability`` of
    the `top` most probable classes; of two classes also ``positive``, the second class and its
    probability, which answers where it is above `threshold` if there is one.
    """
    head = read_head(head_path)
    if threshold is not None and len(head.class_names) != 2:
        raise UserError(
            f"--threshold is for heads of two classes, and {head_path} has "
            f"{len(head.class_names)}; leave it out, or fit two with --classes"
        )
    check_decode(how.decode, head.spec, f"the store of {head_path}")
    features = [name for name in images if is_feature_file(name)]
    if features and len(features) < len(images):
        image = next(name for name in images if name not in features)
        raise UserError(
            f"{features[0]} holds features and {image} is an image; give one kind at a time"
        )
    if features:
        names, rows = read_rows(features, head.n_features)
        return head, answers(head, names, rows, top=top, threshold=threshold)
    if is_imported(head.spec):
        raise UserError(
            f"{head_path} was fitted on features that were imported, and no model is known that "
            f"makes such features of {images[0]}; give files of features, made as those were "
            f"({', '.join(FEATURE_SUFFIXES)})"
        )
    X = embed(head, images, how)
    return head, answers(head, images, X, top=top, threshold=threshold)


def answers(
    head: AnyHead,
    images: Sequence[str],
    X: npt.NDArray[np.floating],
    *,
    top: int = 3,
    threshold: float | None = None,
) -> list[dict[str, Any]]:
    """Turn raw embeddings (n_images, n_features) into answers, as `predict` describes."""
    probabilities = head.probabilities(X)
    labels = head.predict(X)
    if threshold is not None:
        labels = (probabilities[:, 1] > threshold).astype(np.int64)
    two = len(head.class_names) == 2
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        {
            "image": image,
            "label": head.class_names[labels[row]],
            "top": [_of_class(head, i, probabilities[row, i]) for i in order[row]],
            **({"positive": _of_class(head, 1, probabilities[row, 1])} if two else {}),
        }
        for row, image in enumerate(images)
    ]


def _of_class(head: AnyHead, index: int, probability: float) -> dict[str, Any]:
    return {"class": head.class_names[index], "probability": float(probability)}


def embed(
    head: AnyHead, images: Sequence[str], how: Embedding = Embedding()
) -> npt.NDArray[np.float32]:
    """Run each backbone of the head on image files: (n_images, n_features).

    A `UserError` says that a weights file is needed and not at hand, or that the features do not
    fit the head; `StageOneRefused`, that stage one has found fault with the input.
    """
    return embed_by(networks(head, how.weights), images, how)


def embed_by(
    found: Sequence[Network], images: Sequence[str], how: Embedding
) -> npt.NDArray[np.float32]:
    """Run backbones on image files, and put their features side by side: (n_images, width)."""
    blocks = [_embed(network, images, how) for network in found]
    return blocks[0] if len(blocks) == 1 else np.hstack(blocks)


def _embed(network: Network, images: Sequence[str], how: Embedding) -> npt.NDArray[np.float32]:
    """Run a backbone on image files in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="icebox-predict-") as folder:
        spec, out = Path(folder, "spec.json"), Path(folder, "features.npy")
        # Thousands of names are more than a command line holds.
        listing = Path(folder, "images.json")
        listing.write_text(json.dumps(list(images)), encoding="utf-8")
        needed = {"spec": network.spec, "weights_file": network.weights_file}
        spec.write_text(json.dumps(needed), encoding="utf-8")
        words = ["images", f"--spec={spec}", f"--out={out}", f"--device={how.device}"]
        run_stage_one([*words, f"--list={listing}", f"--max-pixels={how.max_pixels}"])
        X = np.load(out, allow_pickle=False)
    if X.shape != (len(images), network.n_features):
        raise UserError(
            f"the backbone gave features of shape {X.shape} for {len(images)} images, but the head "
            f"takes {network.n_features}; the head belongs to another backbone or pooling"
        )
    return X.astype(np.float32, copy=False)


def networks(head: AnyHead, given: Sequence[str] = ()) -> list[Network]:
    """List the head's backbones with their weights files: those given, or where they were.

    Files are given for each backbone, or for each whose file is gone, in the order of the head.
    """
    found = networks_of(head.spec, head.weights_file, head.n_features, head.parts)
    lost = [i for i, network in enumerate(found) if _is_lost(network)]
    if not given and not lost:
        return found
    places = range(len(found)) if len(given) == len(found) else lost
    if len(given) != len(places):
        raise UserError(_weights_message(found, given, lost))
    for place, name in zip(places, given, strict=True):
        found[place] = found[place]._replace(weights_file=name)
    return found


def _weights_of(network: Network) -> dict[str, Any]:
    weights = (network.spec.get("model") or {}).get("weights")
    return weights if isinstance(weights, dict) else {}


def _is_lost(network: Network) -> bool:
    """Tell whether a backbone's weights came from a file that is not where it was."""
    if _weights_of(network).get("source") != "file":
        return False
    return not (network.weights_file and os.path.isfile(network.weights_file))


def _weights_message(found: Sequence[Network], given: Sequence[str], lost: Sequence[int]) -> str:
    if len(found) == 1 and given:
        return f"--weights was given {len(given)} times, and this head has one backbone; give one"
    if len(found) == 1:
        weights, old = _weights_of(found[0]), found[0].weights_file
        where = f", was at {old}, which is gone" if old else ""
        return (
            "the backbone of this head needs its weights file (sha256 of the weights "
            f"{str(weights.get('digest'))[:16]}...{where}); give it with --weights FILE.safetensors"
        )
    told = []
    for i, network in enumerate(found):
        weights = _weights_of(network)
        of = f"weights: {network.weights_file or weights.get('source', 'unknown')}"
        if i in lost:
            of += f", which is gone, sha256 of the weights {str(weights.get('digest'))[:16]}..."
        told.append(f"{i + 1}. {backbone_name(network.spec)} ({of})")
    times = f"--weights was given {len(given)} times, and " if given else ""
    also = f", or {len(lost)} for those that are gone" if 0 < len(lost) < len(found) else ""
    return (
        f"{times}this head takes features of {len(found)} backbones: {'; '.join(told)}. Give "
        f"--weights FILE.safetensors {len(found)} times{also}, in this order"
    )


def answers_csv(found: Sequence[Mapping[str, Any]]) -> str:
    """Write answers as CSV, one line an image, without a line feed at the end.

    The header is ``image``, ``label``, ``class_1``, ``probability_1`` and so on; of two classes
    ``positive`` and ``probability_positive`` end it.
    """
    n_top = max(len(answer["top"]) for answer in found)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    numbers = range(1, n_top + 1)
    ranks = [column for i in numbers for column in (f"class_{i}", f"probability_{i}")]
    two = "positive" in found[0]
    ends = ["positive", "probability_positive"] if two else []
    writer.writerow(["image", "label", *ranks, *ends])
    for answer in found:
        items = [*answer["top"], answer["positive"]] if two else answer["top"]
        cells = [cell for item in items for cell in (item["class"], item["probability"])]
        writer.writerow([answer["image"], answer["label"], *cells])
    return stream.getvalue().rstrip("\n")


def show(head: AnyHead, found: Sequence[Mapping[str, Any]], *, as_json: bool = False) -> str:
    """Write answers as a table, or for programs as a JSON list."""
    if as_json:
        return json.dumps(list(found), indent=2, ensure_ascii=False)
    if "positive" in found[0]:
        name = found[0]["positive"]["class"]
        shares = [f"{100 * answer['positive']['probability']:.1f} %" for answer in found]
        rows = [[a["image"], a["label"], share] for a, share in zip(found, shares, strict=True)]
        heads = ["image", "label", f"probability of {name}"]
        return table(heads, rows, left=len(heads), colour=wants_colour(sys.stdout))
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


def note(head: AnyHead) -> None:
    """Log what answered, and what that is worth."""
    model = (head.spec.get("model") or {}).get("name", "an unknown backbone")
    if head.parts or is_imported(head.spec):
        model = backbone_name(head.spec)
    kind = ""
    if isinstance(head, SavedModel):
        kind = f"; it is not linear, and its file is {show_bytes(head.n_bytes or 0)} large"
    n_classes = len(head.class_names)
    log(printable(f"{display_name(head.strategy)} head on {model}, {n_classes} classes{kind}"))
    if has_random_weights(head.spec):
        log("warning: this backbone's weights are random; the answers show the mechanism only")
    if cropped_twice(head.spec):
        log(
            f"warning: this head was trained on a store {TWICE}, and these images are cropped "
            "once: run stage one again (icebox features), then fit again"
        )


def find_images(given: Sequence[str], stdin: TextIO) -> list[str]:
    """Turn what was named into image files that exist, each of them once.

    Folders give their images at any depth in the order of their names, and what is left out is
    counted and named on stderr; ``-`` gives a list on `stdin`, one file or folder a line. A
    `UserError` says that a name does not exist, a folder holds no image, or the list is empty.
    """
    found: dict[str, None] = {}
    for name in given:
        if name != STDIN:
            found.update(dict.fromkeys(_files(name, "the image")))
            continue
        try:
            lines = [line.rstrip("\r\n") for line in stdin]
        except UnicodeDecodeError as error:
            raise UserError(
                f"the list on standard input is not text ({error}); give one file name a line"
            ) from error
        names = [line for line in lines if line.strip()]
        if not names:
            raise UserError(
                "the list of images on standard input is empty; give one file name a line, such "
                "as: find photos -name '*.jpg' | python -m classify predict HEAD.safetensors -"
            )
        for line in names:
            found.update(dict.fromkeys(_files(line, "standard input names")))
    return list(found)


def _files(name: str, what: str) -> list[str]:
    if os.path.isfile(name) or all(map(os.path.isfile, sum_parts(name))):
        return [name]
    if not os.path.isdir(name):
        raise UserError(f"{what} {name}: it does not exist; give image files or folders of them")
    found, left_out = [], LeftOut()
    for place, folders, files in os.walk(name):
        for folder in sorted(folder for folder in folders if folder.startswith(".")):
            left_out.add(HIDDEN_FOLDERS, os.path.relpath(os.path.join(place, folder), name))
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for file in sorted(files):
            path = os.path.join(place, file)
            if not file.startswith(".") and file.lower().endswith(SUFFIXES):
                found.append(path)
            else:
                left_out.add(kind_of(file), os.path.relpath(path, name))
    if left_out:
        log(left_out.sentence(name))
    if not found:
        raise UserError(f"the folder {name} holds no image ({', '.join(SUFFIXES)})")
    return found
