"""``--to torch``: a folder with weights, a loader, `torch.export`'s program, a linear layer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data.common.cli import log
from data.common.errors import UserError
from data.common.files import write_bytes, write_json, write_text
from data.format.programs import HeadProgram
from extract.exporting.exported import run_exported, write_exported
from extract.exporting.loader import layers_of, loader_text, state_of
from extract.exporting.plain_timm import (
    NotTimmAloneError,
    PlainTimm,
    plain_timm,
    preprocessing_of_timm,
)
from extract.exporting.program import Program

CONFIG, STATE, LOADER = "config.json", "model.safetensors", "load.py"
PROGRAM, LINEAR = "program.pt2", "linear.safetensors"
FORMAT, FORMAT_VERSION = "icebox-torch", 1
Floats = npt.NDArray[np.float64]

# Between what the loader and the program answer.
LIMIT = 1e-4
_RUN_LOADER = Path(__file__).with_name("run_loader.py")


def write(program: Program, out: Path) -> None:
    """Write the folder, which is not there yet."""
    out.mkdir()
    plain, why_none = _plain(program)
    save(_state(program, plain), out / STATE)
    linear = _linear(program.head)
    if linear is not None:
        save(linear, out / LINEAR)
    if plain is not None:
        write_text(out / LOADER, loader_text(program.head, plain))
    else:
        log(f"no {LOADER}: {why_none}; {PROGRAM} has network and head all the same")
    write_exported(program, out / PROGRAM)
    files = {
        STATE: "the weights of network and head",
        PROGRAM: "torch.export: uint8 images (n, height, width, 3) of any size to probabilities "
        "(n, n_classes) and labels (n,)",
        LOADER: "model, transform, class_names = load(FOLDER)" if plain else f"none: {why_none}",
        LINEAR: "weight and bias of a torch.nn.Linear, features to scores"
        if linear is not None
        else f"none: the scores of {program.head.name} are not those of a linear layer alone",
    }
    write_json(out / CONFIG, _config(program, plain, files))


def answers(path: Path, images: Sequence[Path]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Run the program on image files, and the loader in a process that has no Icebox.

    A `UserError` says that the two differ.
    """
    probabilities, labels = run_exported(path / PROGRAM, images)
    # The program resizes small square images as stage one does, and the loader as Pillow.
    rows = [row for row, image in enumerate(images) if not _is_square(image)]
    if (path / LOADER).is_file() and rows:
        found = run_loader(path, [images[row] for row in rows])
        largest = float(np.abs(found - probabilities[rows]).max())
        if not largest <= LIMIT:
            raise UserError(
                f"{LOADER} answers otherwise than {PROGRAM}: a probability differs by "
                f"{largest:.2g}, and {LIMIT:g} is allowed; nothing was kept. Please report this, "
                "with the name of the network"
            )
    return probabilities, labels


def _is_square(image: Path) -> bool:
    from PIL import Image

    with Image.open(image) as opened:
        return opened.width == opened.height


def run_loader(path: Path, images: Sequence[Path]) -> Floats:
    """Run ``load.py`` of a folder on image files, in a process of its own without Icebox."""
    with tempfile.TemporaryDirectory(prefix="icebox-loader-") as folder:
        listing, out = Path(folder, "images.json"), Path(folder, "probabilities.npy")
        write_json(listing, [str(image) for image in images])
        words = [sys.executable, str(_RUN_LOADER), str(path), str(listing), str(out)]
        done = subprocess.run(words, capture_output=True, check=False, text=True)  # noqa: S603
        if done.returncode:
            raise UserError(
                f"{LOADER} does not run ({_last_line(done.stderr)}); nothing was kept. Please "
                "report this, with the name of the network"
            )
        found: Floats = np.load(out, allow_pickle=False).astype(np.float64)
    return found


def _plain(program: Program) -> tuple[PlainTimm | None, str]:
    """Say how the loader builds the network, or why there is none."""
    if len(program.networks) > 1:
        return None, "the head takes the features of several networks"
    if not layers_of(program.head):
        return None, f"the {program.head.name} head is not made of linear layers"
    try:
        preprocessing_of_timm(program.networks[0])
        return plain_timm(program.networks[0]), ""
    except NotTimmAloneError as error:
        return None, str(error)


def _state(program: Program, plain: PlainTimm | None) -> dict[str, torch.Tensor]:
    """Name the weights: ``backbone.`` as timm does, ``head.weight`` and ``head.bias``."""
    state: dict[str, torch.Tensor] = {}
    several = len(program.networks) > 1
    for number, backbone in enumerate(program.networks):
        start = f"backbones.{number}." if several else "backbone."
        state |= {start + name: value for name, value in backbone.module.state_dict().items()}
    layers = layers_of(program.head)
    arrays = dict(program.head.arrays)
    if layers:
        state |= {f"head.{name}": value for name, value in state_of(layers).items()}
        arrays = {"code": arrays["code"].astype(np.float32)} if "code" in arrays else {}
    # A code book is beside the layers, as the loader has it.
    start = "" if layers else "head."
    return state | {start + name: torch.from_numpy(np.array(arrays[name])) for name in arrays}


def _linear(head: HeadProgram) -> dict[str, torch.Tensor] | None:
    """Give the linear layer where it is all there is between features and scores of classes."""
    layers = layers_of(head)
    fits = head.coding in ("multinomial", "ovr") or head.n_classes == 2
    if len(layers) != 1 or not fits or head.normalize is not None:
        return None
    return state_of(layers)


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors, each with memory of its own, as safetensors wants them."""
    from safetensors.torch import save as to_bytes

    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        found = tensor.detach().contiguous()
        place = found.untyped_storage().data_ptr()
        own[name] = found.clone() if place in seen else found
        seen.add(place)
    # Not by ``save_file``, whose files nobody else may read.
    write_bytes(path, to_bytes(own, metadata={"format": "pt"}))


def _config(program: Program, plain: PlainTimm | None, files: dict[str, str]) -> dict[str, Any]:
    """Say everything of a program that is not a weight."""
    head = program.head
    described: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
    if plain is not None:
        described |= {
            "architecture": plain.architecture,
            "model_args": plain.args,
            "transform": preprocessing_of_timm(program.networks[0]),
        }
    described |= {
        "strategy": head.name,
        "coding": head.coding,
        "class_names": list(head.class_names),
        "temperature": head.temperature,
        "normalize": None if head.normalize is None else list(head.normalize),
        "networks": [
            {
                "name": backbone.name,
                "args": backbone.model_args,
                "weights": {"source": backbone.source.source, "digest": backbone.digest},
                "features": backbone.features,
                "n_features": backbone.width,
                "n_parameters": backbone.n_parameters,
                "preprocessing": backbone.preprocessing.to_spec(),
                "precision": order.spec["precision"],
            }
            for backbone, order in zip(program.networks, program.orders, strict=True)
        ],
        "store_key": program.store_key,
        "versions": dict(program.versions),
        "files": files,
    }
    return described


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"
