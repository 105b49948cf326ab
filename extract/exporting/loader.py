"""The text of ``load.py``: a trained head on a network of timm, read with torch and timm alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from data.format.programs import HeadProgram
from extract.exporting.plain_timm import PlainTimm
from extract.model.features.choice import DEFAULT

# As in `classify.coupling`: from so many classes on, pairs are coupled to the exact minimum.
_MANY_CLASSES = 64

_PAIRS = """\
def couple(scores, k):  # pairs' probabilities to those of classes: Wu, Lin and Weng (2004)
    i, j = torch.triu_indices(k, k, 1)
    r = scores.new_zeros(len(scores), k, k)
    first = torch.sigmoid(-scores).clamp(1e-7, 1 - 1e-7)
    r[:, i, j], r[:, j, i] = first, 1 - first
    q = torch.diag_embed(r.square().sum(1)) - r * r.mT
"""
# The steps, and the rule by which they end, are LIBSVM's.
_STEPS = """\
    p = scores.new_full((len(scores), k, 1), 1 / k)
    for step in range(max(100, k) * k):
        t, gap = step % k, p.mT @ q @ p - q @ p
        busy = gap.abs().amax(1) >= 0.005 / k if t == 0 else busy
        if not busy.any():
            break
        p[:, t] += busy * gap[:, t] / q[:, t, t, None]
        p = p / p.sum(1, keepdim=True)
    return p[:, :, 0]
"""
_SOLVED = """\
    p = torch.linalg.solve(q + 1, scores.new_ones(len(scores), k, 1))[:, :, 0].clamp(min=0)
    return p / p.sum(1, keepdim=True)
"""

_TEXT = '''\
"""A trained classifier, read with torch and timm alone.

    model, transform, class_names = load("this folder")
    model(transform(picture)[None])  # the probability of each class, of an upright RGB picture
"""

import json

import timm
import torch


{couple}class Classifier(torch.nn.ModuleDict):
    def forward(self, images):
        scores = self.head({features}).double()
{coded}        return torch.softmax({logits}{cooled}, 1)


def load(folder):
    with open(f"{{folder}}/config.json", encoding="utf-8") as file:
        config = json.load(file)
    backbone = timm.create_model(config["architecture"], num_classes=0, **config["model_args"])
{pool}{head}    model = Classifier({{"backbone": backbone, "head": {module}}}).eval()
{code}    timm.models.load_checkpoint(model, f"{{folder}}/model.safetensors")
    return model, timm.data.create_transform(**config["transform"]), config["class_names"]
'''


def loader_text(head: HeadProgram, plain: PlainTimm) -> str:
    """Write the loader of a head of one layer or more.

    No text of the head's file, which somebody else may have made, gets into the program.
    """
    k = head.n_classes
    layers = layers_of(head)
    coupled = head.coding == "ovo" and k > 2
    couple = ""
    if coupled:
        couple = _PAIRS + (_STEPS if k < _MANY_CLASSES else _SOLVED) + "\n\n"
    features = plain.call.replace("backbone", "self.backbone")
    if head.normalize is not None:
        features = f"torch.nn.functional.normalize({features})"
    code = coded = ""
    if "code" in head.arrays:
        coded = "        scores = scores[:, None] * self.code\n"
        code = f'    model.register_buffer("code", torch.zeros({k}, {len(layers[0].bias)}))\n'
    several = f"    head = {module_words(layers)}\n" if len(layers) > 1 else ""
    return _TEXT.format(
        couple=couple,
        features=features,
        coded=coded,
        logits=_logits(head),
        cooled="" if head.temperature is None else f" / {head.temperature!r}",
        pool="" if plain.pool == DEFAULT else f'    backbone.reset_classifier(0, "{plain.pool}")\n',
        head=several,
        module="head" if several else layers[0].words,
        code=code,
    )


def _logits(head: HeadProgram) -> str:
    """Write what makes logarithms of probabilities, up to a constant, of the scores."""
    if head.n_classes == 2:
        return "torch.nn.functional.pad(scores, (1, 0))"
    return {
        "multinomial": "scores",
        "mlp": "scores",
        "ovr": "torch.nn.functional.logsigmoid(scores)",
        "ovo": f"couple(scores, {head.n_classes}).log()",
        "ecoc": "torch.nn.functional.logsigmoid(scores).sum(2)",
    }[head.coding]


class Layer(NamedTuple):
    """The weights of a `torch.nn.Linear`."""

    weight: torch.Tensor  # (n_out, n_in)
    bias: torch.Tensor

    @property
    def words(self) -> str:
        """Write the layer as Python makes it."""
        n_out, n_in = self.weight.shape
        return f"torch.nn.Linear({n_in}, {n_out})"


def layers_of(head: HeadProgram) -> list[Layer]:
    """Give the layers from features to scores, with a ReLU between two; none of other heads."""
    arrays = head.arrays
    if "coef" in arrays:
        return [_layer(arrays["coef"], arrays["intercept"])]
    if head.coding != "mlp":
        return []
    # The first layer takes standardised features, which is a linear map as well.
    first = arrays["weight_0"].T.astype(np.float64) / arrays["scale"].astype(np.float64)
    found = [_layer(first, arrays["bias_0"] - first @ arrays["mean"])]
    while f"weight_{len(found)}" in arrays:
        number = len(found)
        found.append(_layer(arrays[f"weight_{number}"].T, arrays[f"bias_{number}"]))
    return found


def _layer(weight: np.ndarray, bias: np.ndarray) -> Layer:
    tensors = (torch.from_numpy(np.array(array, np.float32, order="C")) for array in (weight, bias))
    return Layer(*tensors)


def state_of(layers: list[Layer]) -> dict[str, torch.Tensor]:
    """Name the weights as a `torch.nn.Linear` does, or a `torch.nn.Sequential` of several."""
    if len(layers) == 1:
        return layers[0]._asdict()
    return {
        f"{2 * number}.{name}": tensor
        for number, layer in enumerate(layers)
        for name, tensor in layer._asdict().items()
    }


def module_words(layers: list[Layer]) -> str:
    """Write the module as Python makes it."""
    words = ", torch.nn.ReLU(), ".join(layer.words for layer in layers)
    return words if len(layers) == 1 else f"torch.nn.Sequential({words})"
