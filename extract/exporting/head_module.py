"""A trained head as a torch module: what stage two answers with numpy, for exported graphs.

The same numbers as stage two's ``SavedHead`` and ``SavedModel``: scores and probabilities are
float64 inside. Tests compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from data.format.programs import HeadProgram
from extract.exporting.coupling import Pairs, answer_pairs, float64
from extract.exporting.pair_scores import PairSums, WrittenPairs

Tensors = Mapping[str, torch.Tensor]
Answers = tuple[torch.Tensor, torch.Tensor]


class HeadModule(nn.Module):
    """From raw embeddings float32 (n, n_features) to probabilities (n, n_classes) and labels (n,).

    Probabilities are float32 and calibrated, labels int64. A head's numbers are kept as they are:
    its weights in ``linear``, an ``nn.Linear``, and what other heads have in ``code_book`` (a
    module that is exported has a ``code`` already), ``sums``, ``layers`` or ``cosine``.
    """

    code_book: torch.Tensor
    sums: PairSums | None

    def __init__(self, head: HeadProgram) -> None:
        super().__init__()
        self.coding, self.n_classes = head.coding, head.n_classes
        self.widths, self.temperature = head.normalize, head.temperature
        arrays = {name: torch.tensor(np.asarray(array)) for name, array in head.arrays.items()}
        self.sums = None
        if "coef" in arrays:
            self.linear = _linear(arrays["coef"], arrays["intercept"])
        if "code" in arrays:
            self.register_buffer("code_book", arrays["code"])
        if self.coding == "mlp":
            self.layers = _Layers(arrays)
        elif self.coding == "cosine":
            self.cosine = _Cosine(arrays)
        elif "span" in arrays:
            self.sums = PairSums(arrays)
        self.requires_grad_(False)

    def forward(self, features: torch.Tensor) -> Answers:
        """Answer embeddings."""
        rows = features.to(torch.float64)
        if self.widths is not None:
            rows = normalised(rows, self.widths)
        found, labels = self._answers(rows)
        if self.temperature is not None:
            least = float64(float(np.finfo(np.float64).tiny), found)
            logs = torch.log(torch.maximum(found, least))
            found = torch.softmax(logs / float64(self.temperature, found), dim=1)
        return found.to(torch.float32), labels

    def _answers(self, rows: torch.Tensor) -> Answers:
        """Return probabilities before they are calibrated, in float64, and labels."""
        if self.coding == "mlp":
            return _of_largest(self.layers(rows))
        if self.coding == "cosine":
            return self.cosine.answers(rows)
        if self.coding == "ovo" and self.n_classes > 2:
            pairs: Pairs | None = self.sums
            if pairs is None:
                pairs = WrittenPairs(self.linear, self.n_classes)
            return answer_pairs(pairs, rows, self.n_classes)
        scores = _scores(self.linear, rows)
        if self.n_classes == 2:  # one score in each coding, positive for the second class
            both = torch.cat([log_sigmoid(-scores), log_sigmoid(scores)], dim=1)
            return torch.exp(both), (scores[:, 0] > 0).to(torch.int64)
        if self.coding == "ecoc":
            return _of_largest(_log_likelihoods(self.code_book, scores))
        if self.coding == "ovr":
            return torch.softmax(log_sigmoid(scores), dim=1), torch.argmax(scores, dim=1)
        return _of_largest(scores)


class _Layers(nn.Module):
    """Standardisation and layers of the dense head, in float32 as they were trained."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, arrays: Tensors) -> None:
        super().__init__()
        self.register_buffer("mean", arrays["mean"])
        self.register_buffer("scale", arrays["scale"])
        n_layers = sum(name.startswith("weight") for name in arrays)
        self.linears = nn.ModuleList(
            _linear(arrays[f"weight_{i}"].T, arrays[f"bias_{i}"]) for i in range(n_layers)
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the last layer's values (n, n_classes), in float64."""
        values = (rows.to(torch.float32) - self.mean) / self.scale
        for i, linear in enumerate(self.linears):
            values = linear(functional.relu(values) if i else values)
        return values.to(torch.float64)


class _Cosine(nn.Module):
    """Class means by the angle between them and a row."""

    centre: torch.Tensor
    directions: torch.Tensor
    offsets: torch.Tensor
    sharpness: torch.Tensor

    def __init__(self, arrays: Tensors) -> None:
        super().__init__()
        for name in ("centre", "directions", "offsets", "sharpness"):
            self.register_buffer(name, arrays[name])

    def answers(self, rows: torch.Tensor) -> Answers:
        """Return probabilities (n, n_classes) and labels (n,)."""
        rows = rows.to(torch.float32).to(torch.float64) - self.centre  # float32 where normalised
        angles = normalised(rows, (len(self.centre),))
        values = torch.matmul(angles, self.directions.T) + self.offsets
        return torch.softmax(self.sharpness * values, dim=1), torch.argmax(values, dim=1)


def normalised(rows: torch.Tensor, widths: tuple[int, ...]) -> torch.Tensor:
    """Divide each part of a row by its Euclidean norm; a part of zeros stays as it is."""
    ends = [0, *accumulate(widths)]
    parts = [_normalised(rows[:, low:high]) for low, high in pairwise(ends)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _normalised(rows: torch.Tensor) -> torch.Tensor:
    # By their largest number first: squares neither overflow nor vanish.
    largest = rows.abs().amax(dim=1, keepdim=True)
    scaled = rows / torch.where(largest > 0, largest, torch.ones_like(largest))
    norm = (scaled * scaled).sum(dim=1, keepdim=True).sqrt()
    return scaled / torch.where(norm > 0, norm, torch.ones_like(norm))


def _scores(linear: nn.Linear, rows: torch.Tensor) -> torch.Tensor:
    """Score rows in float64, whatever the weights are kept in."""
    return functional.linear(rows, linear.weight.to(torch.float64), linear.bias.to(torch.float64))


def log_sigmoid(scores: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of ``1 / (1 + exp(-scores))``, which does not overflow."""
    return torch.minimum(scores, torch.zeros_like(scores)) - torch.log1p(torch.exp(-scores.abs()))


def _log_likelihoods(code: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return minus each class's sum of losses by its row of a code book (n_classes, n_problems)."""
    wide = code.T.to(torch.float64)
    sums = torch.matmul(log_sigmoid(scores), torch.relu(wide))
    sums = sums + torch.matmul(log_sigmoid(-scores), torch.relu(-wide))
    # A problem that a class is not in counts as one that is undecided.
    return sums - float64(float(np.log(2)), sums) * (wide == 0).to(torch.float64).sum(dim=0)


def _of_largest(values: torch.Tensor) -> Answers:
    return torch.softmax(values, dim=1), torch.argmax(values, dim=1)


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight.to(torch.float32), "bias": bias.to(torch.float32)})
    return layer
