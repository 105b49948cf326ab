"""What providers share: wrappers, checks of what a network gives, tensors of files."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.common.errors import UserError
from data.common.packages import install_extra
from extract.model.checkpoints import Tensors, read_networks
from extract.model.preprocessing import Preprocessing, check_settings, size_text
from extract.model.providers.interface import Asked
from extract.model.weights import check_weights_file
from extract.model.weights_fit import KEYS_SHOWN

if TYPE_CHECKING:
    import torch
    from torch import nn

_WRAPPERS = ("module.", "_orig_mod.", "model.")
# Images that a network is tried with: two show whether there is one vector for each.
_TRIED = 2


def check_installed(module: str, model: str, extra: str) -> None:
    """Make sure that the library of an extra is there, without importing it."""
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"--model {model}: {extra} is not installed; {install_extra(extra)}, or give a "
            "model of timm (python -m extract list)"
        )


def refuse_pool(asked: Any) -> None:
    """Refuse another pooling or layer than the network's own."""
    layer = getattr(asked, "layer", None)
    for option, value in (("pool", asked.pool), ("layer", layer)):
        if value not in (None, "default"):
            raise UserError(
                f"--{option} {value}: is for models of timm; of --model {asked.model} the vector "
                f"is the one that the network gives. Leave --{option} out"
            )


def one_line(error: BaseException) -> str:
    """Shorten an error of somebody else's code to its kind and its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()[:300]}" if lines else type(error).__name__


def overridden(preprocessing: Preprocessing, asked: Asked) -> Preprocessing:
    """Put what the user gives in place of the network's own preprocessing."""
    given = {
        name: getattr(asked, name)
        for name in ("image_size", "crop_pct", "interpolation", "mean", "std")
    }
    settings = replace(
        preprocessing, **{name: value for name, value in given.items() if value is not None}
    )
    check_settings(settings)
    return settings


def crop_pct_of(crop: int, resized: int) -> float:
    """Give the share whose ``floor(crop / share)`` is the size that an image is resized to."""
    share = crop / resized
    while math.floor(crop / share) < resized:
        share = math.nextafter(share, 0.0)
    while math.floor(crop / share) > resized:
        share = math.nextafter(share, math.inf)
    return share


def check_vectors(module: nn.Module, model: str, size: tuple[int, int], advice: str) -> None:
    """Run blank images through a network: it must give a vector for each."""
    import torch

    try:
        with torch.inference_mode():
            output = module(torch.zeros(_TRIED, 3, *size))
    except Exception as error:  # whatever the network's own code raises
        raise UserError(
            f"--model {model}: cannot embed images of {size_text(size)} pixels "
            f"({one_line(error)}); {advice}"
        ) from error
    if isinstance(output, torch.Tensor):
        shape = tuple(output.shape)
        good = len(shape) == 2 and shape[0] == _TRIED and shape[1] > 0
        found = f"a tensor of shape {shape}"
        if good and not output.is_floating_point():
            good, found = False, f"whole numbers ({output.dtype})"
    else:
        good, found = False, f"{type(output).__name__}"
    if not good:
        raise UserError(
            f"--model {model}: gives {found} for {_TRIED} images, expected one vector for each: "
            f"({_TRIED}, width); {advice}"
        )


def read_tensors(path: Path, model: str, wanted: Collection[str] | None) -> dict[str, torch.Tensor]:
    """Read the tensors of a file under the network's own names.

    Of several networks in a file, and of names with a prefix, the one reading is taken that has
    all that are `wanted`; without these, the file must hold one network.
    """
    networks = read_networks(check_weights_file(path))
    readings = list(_readings(networks))
    if wanted is not None:
        fitting = [reading for reading in readings if set(wanted) <= reading[1].keys()]
        if len(fitting) > 1:  # plain and averaged weights, or the same names twice
            names = ", ".join(f"'{name or 'no prefix'}'" for name, _ in fitting)
            raise UserError(
                f"{path} holds several networks that fit {model}: {names}\n"
                "save the one that is meant to a file of its own, and give that with --weights"
            )
        return (fitting or readings)[0][1]
    if len(networks) > 1:
        raise UserError(
            f"{path} holds several networks ({', '.join(sorted(networks))}); save the one that is "
            "meant to a file of its own, and give that with --weights"
        )
    return readings[0][1]


def _readings(networks: Mapping[str, Tensors]) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """List the networks of a file, also with a wrapper's prefix stripped from all names."""
    found = []
    for network, tensors in networks.items():
        found.append((network, dict(tensors)))
        for prefix in _WRAPPERS:
            if all(name.startswith(prefix) for name in tensors):
                stripped = {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
                found.append((f"{network}.{prefix}".strip("."), stripped))
    return found


def fill(module: nn.Module, tensors: Mapping[str, torch.Tensor], model: str, path: object) -> None:
    """Load tensors that must be exactly those of the network."""
    own = module.state_dict()
    problems = [
        f"{len(names)} {kind}: {some(names)}"
        for kind, names in (
            ("missing from the file", sorted(own.keys() - tensors.keys())),
            ("not in the network", sorted(tensors.keys() - own.keys())),
            ("of another shape", _other_shapes(own, tensors)),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"{path} does not fit {model}: {'; '.join(problems)}\n"
            "give the weights of this very network with --weights, or another --model"
        )
    module.load_state_dict(dict(tensors))


def _other_shapes(own: Mapping[str, Any], tensors: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]


def some(names: Collection[str]) -> str:
    """Name the first of many."""
    more = f", ... ({len(names) - KEYS_SHOWN} more)" if len(names) > KEYS_SHOWN else ""
    return ", ".join(list(names)[:KEYS_SHOWN]) + more


def seeded(seed: int, build: Callable[[], Any]) -> Any:
    """Call what draws weights with torch's generator at a seed, and put the generator back."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
