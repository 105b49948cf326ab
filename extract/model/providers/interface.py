"""What a provider of networks does for the rest of stage one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from extract.model.preprocessing import Preprocessing
from extract.model.sources import Named
from extract.model.weights import Weights

if TYPE_CHECKING:
    from torch import nn


class Asked(Protocol):
    """What of `extract.model.backbone.BackboneRequest` concerns a provider."""

    @property
    def model(self) -> str:
        """As the user has typed it, or the name in a store's ``spec``."""

    @property
    def weights(self) -> str:
        """What ``--weights`` says, or the source in a ``spec``, or a file."""

    @property
    def model_args(self) -> Mapping[str, Any] | None:
        """What ``--model-arg`` says."""

    @property
    def image_size(self) -> int | tuple[int, int] | None:
        """Of the input; None for the network's own."""

    @property
    def seed(self) -> int:
        """Of random weights."""

    @property
    def crop_pct(self) -> float | None:
        """None for the network's own, as all that follow."""

    @property
    def interpolation(self) -> str | None:
        """Pillow's name."""

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Of each channel."""

    @property
    def std(self) -> tuple[float, ...] | None:
        """Of each channel."""

    @property
    def config(self) -> Mapping[str, Any] | None:
        """What a ``spec`` has kept of the network; None for what the user has typed."""

    @property
    def trusted(self) -> bool:
        """Whether the user has typed the name, so that code of the user's may run."""


class Found(NamedTuple):
    """What is known of a network before its weights are loaded."""

    named: Named
    preprocessing: Preprocessing
    own: Any  # what the provider itself needs again


@dataclass(frozen=True)
class Loaded:
    """A network with its weights, in float32, that gives one vector an image."""

    named: Named
    module: nn.Module
    source: Weights
    digest: str
    # Files that decide the numbers and that only running the user's code tells; their digests.
    read: Mapping[str, str] = field(default_factory=dict)


class Row(NamedTuple):
    """A network in a list."""

    model: str
    width: int | None  # None where only building it tells
    input: str  # its size
    weights: str  # where they come from


class Provider(Protocol):
    """Where networks come from, other than timm."""

    # What a ``spec`` calls it.
    name: str

    def owns(self, model: str) -> bool:
        """Tell whether a value of ``--model`` names one of these networks."""

    def portable_name(self, model: str) -> str:
        """Name a network without the way to a folder of this machine."""

    def in_folder(self, model: str) -> bool:
        """Tell whether the weights are files of the user's, beside the network's configuration."""

    def files_of(self, model: str, choice: str) -> list[Path]:
        """List the files that decide the numbers and that are there; nothing is imported."""

    def versions(self) -> dict[str, str]:
        """Give the versions of the libraries that decide the numbers, beside torch and timm."""

    def check(self, model: str, choice: str) -> None:
        """Make sure of a name before any work."""

    def describe(self, asked: Asked) -> Found:
        """Find the network and its preprocessing."""

    def load(self, asked: Asked, found: Found) -> Loaded:
        """Build the network and load its weights."""

    def listed(self, pattern: str) -> list[Row] | None:
        """List the networks that match, without building them; None where a name is one network."""
