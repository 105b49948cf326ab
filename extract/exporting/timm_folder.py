"""``--to timm``: a folder that `timm.create_model` opens as a classifier.

The softmax of its logits is the calibrated probabilities, so the weights are divided by the
temperature. It is written by timm's own function where that writes what timm reads again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from data.common.errors import UserError
from data.format.programs import HeadProgram
from extract.exporting.plain_timm import (
    TIMM_ERRORS,
    NotTimmAloneError,
    PlainTimm,
    create,
    images_of,
    plain_timm,
    preprocessing_of_timm,
    same,
    vectors_of,
)
from extract.exporting.program import Program
from extract.exporting.torch_folder import CONFIG, STATE, save
from extract.exporting.tracing import first_line
from extract.model.backbone import Backbone
from extract.model.features.choice import DEFAULT
from extract.model.silence import silenced

_ADVICE = "give --to torch or --to onnx, which take every head and network"
# What is known of where a network's own weights lie, and of how they were tested: not of these.
_NOT_OURS = frozenset(
    ("url", "file", "state_dict", "source", "hf_hub_id", "hf_hub_filename", "custom_load")
)
_NOT_OURS |= {"test_input_size", "test_crop_pct", "test_pool_size", "pool_size", "label_offset"}
_NOT_OURS |= {"label_names", "label_descriptions", "num_classes"}


def write(program: Program, out: Path) -> None:
    """Write the folder, which is not there yet; a `UserError` says why timm has no such model."""
    from timm.models._hub import save_config_for_hf

    if len(program.networks) > 1:
        raise _refused("the head takes the features of several networks, and timm builds one")
    weight, bias = softmax_layer(program.head)
    backbone = program.networks[0]
    try:
        plain = plain_timm(backbone)
        model, args = _classifier(backbone, plain, weight, bias)
    except NotTimmAloneError as error:
        raise _refused(str(error)) from error
    out.mkdir()
    save(model.state_dict(), out / STATE)
    names = list(program.head.class_names)
    described = {
        "num_classes": len(names),
        "label_names": names,
        "label_descriptions": {name: name for name in names},
    }
    with silenced("timm"):
        save_config_for_hf(model, str(out / CONFIG), model_config=described, model_args=args)


def answers(
    path: Path, images: Sequence[Path]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Have timm open the folder, prepare image files and answer them."""
    import timm
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    with silenced("timm"):
        model: Any = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)
    rows = []
    with torch.inference_mode():
        for name in images:
            with Image.open(name) as opened:
                rows.append(model(transform(opened.convert("RGB"))[None]).softmax(dim=1))
    probabilities = torch.cat(rows).numpy().astype(np.float64)
    return probabilities, probabilities.argmax(axis=1).astype(np.int64)


def _refused(reason: str) -> UserError:
    return UserError(f"--to timm: {reason}; {_ADVICE}")


def softmax_layer(head: HeadProgram) -> tuple[torch.Tensor, torch.Tensor]:
    """Give weight (n_classes, n_features) and bias whose softmax is the head's probabilities."""
    if not head.is_softmax:
        raise _refused(
            f"the probabilities of this {head.name} head are no softmax of linear scores"
        )
    coef = np.asarray(head.arrays["coef"], dtype=np.float64) / (head.temperature or 1.0)
    intercept = np.asarray(head.arrays["intercept"], dtype=np.float64) / (head.temperature or 1.0)
    if len(coef) == 1:
        coef = np.concatenate([np.zeros_like(coef), coef])
        intercept = np.concatenate([np.zeros_like(intercept), intercept])
    return torch.from_numpy(coef.astype(np.float32)), torch.from_numpy(intercept.astype(np.float32))


def _classifier(
    backbone: Backbone, plain: PlainTimm, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[nn.Module, dict[str, Any]]:
    """Build timm's model with the head as its classifier, and give its constructor's arguments."""
    args = dict(plain.args)
    if plain.pool != DEFAULT:
        args["global_pool"] = plain.pool
    own: Any = backbone.network.pretrained_cfg
    config = {key: value for key, value in own.items() if key not in _NOT_OURS}
    config |= {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in preprocessing_of_timm(backbone).items()
    }
    config["num_classes"] = len(weight)
    try:
        model: Any = create(
            plain.architecture, num_classes=len(weight), pretrained_cfg=config, **args
        )
        missing, unexpected = model.load_state_dict(backbone.module.state_dict(), strict=False)
    except TIMM_ERRORS as error:
        raise NotTimmAloneError(
            f"timm does not build {backbone.name} with a classifier ({first_line(error)})"
        ) from error
    names = own.get("classifier") or ()
    layers = [model.get_submodule(name) for name in _listed(names)]
    if not layers or not all(_fill(layer, weight, bias) for layer in layers):
        raise NotTimmAloneError(f"the classifier of {backbone.name} is no linear layer")
    if unexpected:
        raise NotTimmAloneError(
            f"{backbone.name} with a classifier is another network than the one without, which "
            f"gave the features ({backbone.features})"
        )
    known = {f"{name}.{part}" for name in _listed(names) for part in ("weight", "bias")}
    others = [name for name in missing if name not in known]
    if others:
        raise NotTimmAloneError(
            f"the classifier of {backbone.name} is more than a linear layer ({', '.join(others)})"
        )
    images = images_of(backbone)
    with torch.inference_mode():
        found = model(images.clone())
    if not same(found, vectors_of(backbone, images) @ weight.T + bias):
        raise NotTimmAloneError(
            f"the classifier of {backbone.name} does not see the features ({backbone.features})"
        )
    return model, args


def _listed(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _fill(layer: Any, weight: torch.Tensor, bias: torch.Tensor) -> bool:
    """Give a classifier its weights; False where it is not one linear layer."""
    pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
    if not (isinstance(layer, nn.Linear) or pointwise) or layer.bias is None:
        return False
    if layer.weight.numel() != weight.numel():
        return False
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        layer.bias.copy_(bias)
    return True
