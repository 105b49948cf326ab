"""Trained heads that are not linear, on disk: one skops file each, all that predicting needs.

The file holds a dict: ``format`` and its version, ``head``, the name that the registry has it
under; ``class_names``, ``spec`` and ``store_key`` of its store, ``setting``, ``temperature``,
``normalize``, ``weights_file`` and ``n_features`` as files of linear heads have them, and ``parts``
(format 2) where these do; and
``state``, what `TrainedHead.from_state` makes the head of. There are texts, numbers, lists, dicts
and arrays of numbers in it and nothing else, see `classify.heads.skops_files`. Heads check the
indices in their arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.codings import decisions
from classify.heads.classifier import answers_of_rows
from classify.heads.interface import HeadAnswers, TrainedHead
from classify.heads.registry import HEADS, head_kind, is_solved
from classify.heads.skops_files import (
    SkopsFileError,
    damage_told,
    is_zip,
    plain,
    read_file,
    root_type,
    write_file,
)
from classify.saved.parts import HeadPart, norm_of_parts, parts_list, read_parts
from classify.solver.row_norms import Norm
from data.common.errors import UserError
from data.common.shapes import mismatch
from data.format.spec import SPEC_SHAPE

FORMAT = "icebox-head"
FORMAT_VERSION = 2
SUFFIX = ".skops"
WANTED = "give a file heads/NAME.skops from the folder of a run"
_SHAPE = {
    "head": str,
    "class_names": [str],
    "spec": SPEC_SHAPE,
    "store_key": str,
    "setting": dict,
    "temperature": (int, float, None),
    "normalize": (str, None),
    "weights_file": (str, None),
    "n_features": int,
    "parts~": (list, None),
    "state": dict,
}


@dataclass(frozen=True)
class SavedModel:
    """A head that is not linear, on the embeddings of one backbone, or of several side by side.

    All methods take raw embeddings.
    """

    strategy: str  # its name in the registry
    class_names: tuple[str, ...]  # in the order of the head's classes
    trained: TrainedHead
    spec: dict[str, Any]  # of the store it was trained on
    store_key: str
    weights_file: str | None = None  # where the backbone's weights lay, if they came from a file
    temperature: float | None = None  # of its probabilities; None where no row could tell
    normalize: Norm = None  # fitted to rows, or parts of rows, divided by their norms
    n_bytes: int | None = None  # of the file that it was read from
    parts: tuple[HeadPart, ...] = ()  # of stores side by side

    @property
    def n_features(self) -> int:
        """Return the width of the embeddings it takes."""
        return self.trained.n_features

    @property
    def setting(self) -> dict[str, Any]:
        """Return the setting that it was fitted with."""
        return self.trained.setting

    def answers(self, X: npt.NDArray[np.floating]) -> HeadAnswers:
        """Answer rows without its temperature."""
        return answers_of_rows(self.trained, X, self.normalize)

    def predict(self, X: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
        """Return the index (n_samples,) of each row's class, of the first of equal ones."""
        return self.answers(X).values.argmax(axis=1).astype(np.int64)

    def probabilities(self, X: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return class probabilities (n_samples, n_classes), calibrated by its temperature."""
        found = np.exp(self.answers(X).log_probabilities)
        return decisions.temper(found, self.temperature)


def save_model(path: Path, model: SavedModel) -> int:
    """Write a head under its final name, in a folder that exists, and return the file's bytes."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION if model.parts else 1,
        "head": model.strategy,
        "class_names": list(model.class_names),
        "spec": model.spec,
        "store_key": model.store_key,
        "setting": model.setting,
        "temperature": None if model.temperature is None else float(model.temperature),
        "normalize": "l2" if model.normalize else None,
        "weights_file": model.weights_file,
        "n_features": model.n_features,
        "state": model.trained.state(),
    }
    if model.parts:
        content["parts"] = parts_list(model.parts)
    return write_file(path, plain(content, "head"))


def is_model(path: Path) -> bool:
    """Tell whether a file is one of these, by its name or its first bytes."""
    return path.suffix == SUFFIX or is_zip(path)


def load_model(path: Path) -> SavedModel:
    """Read a head and check that its parts fit each other; a `UserError` says what does not."""
    if not path.is_file():
        raise UserError(
            f"no head at {path}; {WANTED} (`python -m classify fit --head NAME` writes them)"
        )
    try:
        with damage_told(path, WANTED):
            kind = root_type(path, WANTED)
            if kind.startswith("classify."):
                raise UserError(
                    f"{path} is an estimator, as `python -m classify export --to sklearn` writes "
                    f"them: in Python classify.load_head opens it; here {WANTED}"
                )
            content = read_file(path, WANTED)
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise UserError(f"{path} is a skops file but not a head of Icebox; {WANTED}")
            return _model(path, content)
    except MemoryError as error:
        raise _bad(path, "its arrays do not fit into the memory that is free") from error
    except SkopsFileError as error:
        raise _bad(path, str(error)) from error


def _model(path: Path, content: Mapping[str, Any]) -> SavedModel:
    version = content.get("format_version")
    if type(version) is not int:
        raise _bad(path, f"format_version is {version!r}, expected a number")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has head format {version}, newer than {FORMAT_VERSION}, the newest that this "
            "Icebox reads; update Icebox, or fit again with this one"
        )
    problem = mismatch({**content}, _SHAPE, "the head")
    if problem:
        raise _bad(path, problem)
    name = content["head"]
    if name not in HEADS or is_solved(name):
        raise UserError(
            f"{path} is a head called {name!r}, which this Icebox does not have; update Icebox, "
            "or fit again with this one"
        )
    names, temperature = content["class_names"], content["temperature"]
    if not all(text.strip() for text in names):
        raise _bad(path, "class_names holds an empty name")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise _bad(path, f"temperature is {temperature!r}, expected a positive number")
    if content["normalize"] not in (None, "l2"):
        raise _bad(path, f"normalize is {content['normalize']!r}, expected l2 or nothing")
    try:
        parts = read_parts(content.get("parts"), content["spec"], content["n_features"])
    except ValueError as error:
        raise _bad(path, str(error)) from error
    try:
        trained = head_kind(name).trained.from_state(content["state"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _bad(path, f"its state is not that of a {name} head ({error})") from error
    if trained.n_classes != len(names) or trained.n_features != content["n_features"]:
        raise _bad(
            path,
            f"its state is of {trained.n_classes} classes and {trained.n_features} features, but "
            f"it names {len(names)} classes and {content['n_features']} features",
        )
    return SavedModel(
        strategy=name,
        class_names=tuple(names),
        trained=trained,
        spec=content["spec"],
        store_key=content["store_key"],
        weights_file=content["weights_file"],
        temperature=temperature,
        normalize=norm_of_parts(content["normalize"], parts),
        parts=parts,
        n_bytes=path.stat().st_size,
    )


def _bad(path: Path, what: str) -> UserError:
    return UserError(f"{path} is not a usable head: {what}; fit again to get a new one")
