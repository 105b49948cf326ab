"""Files of weights: found in a folder, read without running anything, and unwrapped.

Safetensors are read as they are. Pickles of torch go through ``torch.load(weights_only=True)``
alone, whose unpickler builds tensors and plain containers and calls no other code.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.common.errors import UserError

if TYPE_CHECKING:
    import torch

# Tensors by name, as a model's `state_dict` returns them.
Tensors = Mapping[str, "torch.Tensor"]

# What timm itself looks for in a folder, in its order.
PREFERRED = (
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
_PICKLES = frozenset(SUFFIXES[1:])
# How the files of `torch.save` begin: a zip archive, or the pickle of versions before 1.6.
_MAGIC = (b"PK\x03\x04", b"\x80\x02")
_DEPTH = 4  # wrappers within wrappers


def find_weights_file(path: Path, option: str = "--weights") -> Path:
    """Give the weights file that a path names: the path itself, or the one in that folder."""
    if not path.is_dir():
        return path
    for name in PREFERRED:
        if (path / name).is_file():
            return path / name
    found = sorted(p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if len(found) == 1:
        return path / found[0]
    what = f"holds {', '.join(found[:5])}" if found else "holds no weights"
    raise UserError(
        f"{option} {path}: the folder {what}; expected {PREFERRED[0]} or {PREFERRED[1]} in it, or "
        "give the path of the file with --weights"
    )


def is_pickle(path: Path) -> bool:
    """Tell torch's pickles from safetensors, by their first bytes or else by their suffix."""
    with open(path, "rb") as stream:
        start = stream.read(4)
    if path.suffix.lower() == ".safetensors":
        return False
    return start.startswith(_MAGIC) or path.suffix.lower() in _PICKLES


def can_be_opened_by_name(path: Path) -> bool:
    """Tell whether safetensors and torch's own readers take a name: it must be UTF-8."""
    try:
        return bool(str(path).encode("utf-8"))
    except UnicodeEncodeError:
        return False


def read_networks(path: Path) -> dict[str, Tensors]:
    """Read the tensors of a checked file; a pickle may hold several networks, under their names.

    A plain file is one network, under the empty name.
    """
    if is_pickle(path):
        return read_pickle(path)
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        if not can_be_opened_by_name(path):
            return {"": load(path.read_bytes())}
        return {"": load_file(path, device="cpu")}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"--weights {path}: not a safetensors file ({error}); get it again"
        ) from error


def read_pickle(path: Path) -> dict[str, Tensors]:
    """Read a file of `torch.save` with torch's restricted unpickler, and unwrap it."""
    import torch

    from extract.model.silence import silenced

    try:
        # timm's and many other training scripts put their options beside the weights.
        allowed = torch.serialization.safe_globals([argparse.Namespace])
        with silenced("torch"), allowed, open(path, "rb") as stream:
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except MemoryError as error:
        raise UserError(f"--weights {path}: does not fit into the memory that is free") from error
    except Exception as error:  # a damaged pickle can make its reader raise anything
        raise _unreadable(path, error) from error
    found = _unwrapped(content)
    if not found:
        raise UserError(
            f"--weights {path}: holds no tensors by name (it is a {type(content).__name__}); give "
            "what torch.save(model.state_dict(), FILE) writes"
        )
    return found


def _unreadable(path: Path, error: Exception) -> UserError:
    """Say whether a pickle is refused for what it wants to run, or damaged."""
    text = str(error)
    if "weights_only" not in text and "Weights only" not in text:
        reason = (text.strip() or type(error).__name__).splitlines()[0][:200]
        return UserError(
            f"--weights {path}: cannot be read as a file of torch.save ({reason}); get it again"
        )
    return UserError(
        f"--weights {path}: refused, because it holds more than tensors{_wanted(path)}, and to "
        "open such a pickle can run code; only what torch.load(weights_only=True) takes is read.\n"
        "If you trust whoever made it, load it yourself once and save the plain tensors: "
        "safetensors.torch.save_file(model.state_dict(), 'FILE.safetensors')"
    )


def _wanted(path: Path) -> str:
    """Name what a refused pickle asks for, where torch can tell."""
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # TorchScript, the form before torch 1.6, or damage: nothing to name
        return ""
    return f" ({', '.join(sorted(names)[:3])})" if names else ""


def _unwrapped(content: Any) -> dict[str, Tensors]:
    """Find the mappings from names to tensors in a checkpoint, by the path that leads to them."""
    import torch

    found: dict[str, Tensors] = {}

    def look(value: Mapping[Any, Any], path: str, depth: int) -> None:
        named = {name: item for name, item in value.items() if isinstance(name, str)}
        tensors = {name: t.detach() for name, t in named.items() if isinstance(t, torch.Tensor)}
        if tensors:
            found[path] = tensors
        for name, item in named.items():
            if isinstance(item, Mapping) and depth < _DEPTH:
                look(item, f"{path}.{name}" if path else name, depth + 1)

    if isinstance(content, Mapping):
        look(content, "", 0)
    return found
