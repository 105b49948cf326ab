"""A trained head as the numbers that a program of it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from classify.heads.interface import TrainedHead
from classify.heads.linear import LinearTrained
from classify.heads.mlp.head import TrainedMlp
from classify.heads.nearest_mean import CosineMeans
from classify.predict import AnyHead
from classify.saved.heads import SavedHead
from classify.solver.row_norms import Norm
from classify.wording import display_name
from data.common.errors import UserError
from data.format.programs import HeadProgram

Arrays = Mapping[str, np.ndarray[Any, Any]]

# What heads that are no layers do, where they are no trees.
_NOT_LAYERS = {"knn": "looks for the nearest rows of the training set"}


def head_program(head: AnyHead) -> HeadProgram:
    """Give what a program needs of a head; a `UserError` says that no program holds such a head."""
    if isinstance(head, SavedHead):
        coding, arrays = head.coded, _linear_arrays(head)
    else:
        coding, arrays = _other_arrays(head.strategy, head.trained)
    return HeadProgram(
        name=head.strategy,
        coding=coding,
        class_names=head.class_names,
        arrays=arrays,
        temperature=head.temperature,
        normalize=_widths(head.normalize, head.n_features),
    )


def _linear_arrays(head: SavedHead) -> Arrays:
    if head.sums is not None:
        floats = ("span", "shift", "duals", "offset")
        found = {name: np.asarray(getattr(head.sums, name), np.float32) for name in floats}
        return {**found, "starts": head.sums.starts.astype(np.int64)}
    found = _weights(head.coef, head.intercept)
    return found if head.code is None else {**found, "code": head.code.astype(np.int64)}


def _other_arrays(name: str, trained: TrainedHead) -> tuple[str, Arrays]:
    """Return how a head answers that is not saved as a linear one, and its arrays."""
    if isinstance(trained, LinearTrained):
        return "multinomial", _weights(trained.head.coef, trained.head.intercept)
    if isinstance(trained, TrainedMlp):
        layers = trained.layers
        arrays = {"mean": layers.mean, "scale": layers.scale}
        for i, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
            arrays |= {f"weight_{i}": weight, f"bias_{i}": bias}
        return "mlp", arrays
    if isinstance(trained, CosineMeans):
        arrays = {key: getattr(trained, key) for key in ("centre", "directions", "offsets")}
        return "cosine", {**arrays, "sharpness": np.array([trained.sharpness])}
    how = _NOT_LAYERS.get(name, "goes through decision trees")
    raise UserError(
        f"a {display_name(name)} head {how}, and onnx, torch and timm programs hold layers of a "
        "network; give --to sklearn, or export another head (multinomial, ovr, ovo, svm-ovr, "
        "svm-ovo, ecoc, ridge, lda, nearest-mean, mlp)"
    )


def _weights(coef: Any, intercept: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Take weights as files of linear heads keep them."""
    return {"coef": np.asarray(coef, np.float32), "intercept": np.asarray(intercept, np.float32)}


def _widths(norm: Norm, n_features: int) -> tuple[int, ...] | None:
    if norm is None:
        return None
    return (n_features,) if isinstance(norm, str) else tuple(norm)
