"""What stage two hands to stage one to make one program of a head and its backbones.

An order is a folder: ``order.json`` has the head's names and settings, and each backbone's spec and
weights file; ``arrays.safetensors`` the head's arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_ORDER, _ARRAYS = "order.json", "arrays.safetensors"


@dataclass(frozen=True)
class HeadProgram:
    """A trained head as numbers: raw embeddings in, calibrated probabilities and a label out."""

    name: str  # as in the registry of heads
    coding: str  # how scores become answers: multinomial, ovr, ovo, ecoc; or mlp, cosine
    class_names: tuple[str, ...]
    # ``coef`` (n_problems, n_features) and ``intercept`` (n_problems,), float32; or of sums of rows
    # ``span``, ``shift``, ``starts``, ``duals`` and ``offset``; of ecoc with three classes or more
    # ``code`` (n_classes, n_problems); of mlp ``mean`` and ``scale`` (n_features,), and of each
    # layer ``weight_0`` (n_in, n_out), ``bias_0`` (n_out,), ``weight_1``, ...; of cosine, float64,
    # ``centre`` (n_features,), ``directions`` (n_classes, n_features), ``offsets`` (n_classes,) and
    # ``sharpness`` (1,).
    arrays: Mapping[str, npt.NDArray[Any]]
    temperature: float | None = None  # the logarithms of probabilities are divided by it
    # Widths of the parts of a row that are divided by their norms; None where none is.
    normalize: tuple[int, ...] | None = None

    @property
    def n_classes(self) -> int:
        """Return how many classes there are."""
        return len(self.class_names)

    @property
    def is_softmax(self) -> bool:
        """Tell whether the probabilities are the softmax of one linear layer, as timm's are.

        Of two classes every coding's are, of a score of zero and its one score.
        """
        coded = self.coding == "multinomial" or self.n_classes == 2
        return "coef" in self.arrays and coded and self.normalize is None


@dataclass(frozen=True)
class NetworkOrder:
    """A backbone of the head, in the order of its columns."""

    spec: dict[str, Any]  # of the store that the head was fitted to, or of a part of it
    weights_file: str | None
    n_features: int


@dataclass(frozen=True)
class Order:
    """A head and the backbones that it takes the features of."""

    head: HeadProgram
    networks: tuple[NetworkOrder, ...]
    store_key: str
    versions: Mapping[str, str]  # of what made it


def write_order(folder: Path, order: Order) -> None:
    """Write an order into a folder that exists."""
    from safetensors.numpy import save_file

    head = order.head
    content = {
        "head": {
            "name": head.name,
            "coding": head.coding,
            "class_names": list(head.class_names),
            "temperature": head.temperature,
            "normalize": None if head.normalize is None else list(head.normalize),
        },
        "networks": [vars(network) for network in order.networks],
        "store_key": order.store_key,
        "versions": dict(order.versions),
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in head.arrays.items()}
    save_file(arrays, folder / _ARRAYS)
    (folder / _ORDER).write_text(json.dumps(content), encoding="utf-8")


def read_order(folder: Path) -> Order:
    """Read what `write_order` wrote, in this version of Icebox."""
    from safetensors.numpy import load_file

    content = json.loads((folder / _ORDER).read_text(encoding="utf-8"))
    head = content["head"]
    normalize = head["normalize"]
    return Order(
        head=HeadProgram(
            name=head["name"],
            coding=head["coding"],
            class_names=tuple(head["class_names"]),
            arrays=load_file(folder / _ARRAYS),
            temperature=head["temperature"],
            normalize=None if normalize is None else tuple(normalize),
        ),
        networks=tuple(NetworkOrder(**network) for network in content["networks"]),
        store_key=content["store_key"],
        versions=content["versions"],
    )
