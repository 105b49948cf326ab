"""``python -m extract tensors``: what torch alone can read, as NumPy files that others map."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.common.errors import UserError
from data.common.files import check_writable, write_json

INDEX = "index.json"
_DEPTH = 4  # containers within containers
_ROWS = 8192


def unpack(path: Path, folder: Path) -> Path:
    """Write the tensors and lists of a file as NumPy files, with an index of their names.

    Parameters
    ----------
    path : Path
        A file of ``torch.save``, or of safetensors with types that NumPy has not.
    folder : Path
        For the files. The index has each name, with slashes between levels, and the file of it;
        a tensor that is alone has the empty name.

    Returns
    -------
    Path
        The index.

    Raises
    ------
    UserError
        If the file is damaged, or holds more than tensors and plain containers.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a file that torch.save wrote")
    check_writable(folder)
    found: dict[str, Any] = {}
    _collect(_load(path), "", found, 0)
    if not found:
        raise UserError(
            f"{path} holds no tensors; save them by name: "
            "torch.save({'X_train': ..., 'y_train': ...}, FILE)"
        )
    index = {}
    for number, (name, value) in enumerate(found.items()):
        file = f"{number}.npy"
        _save(folder / file, value)
        index[name] = file
    write_json(folder / INDEX, index)
    return folder / INDEX


def _load(path: Path) -> Any:
    import torch

    from extract.model.silence import silenced

    if path.suffix.lower() == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path, device="cpu")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read as safetensors ({error})") from error
    try:
        with open(path, "rb") as stream:
            archive = stream.read(4) == b"PK\x03\x04"  # which can be mapped into memory
        with silenced("torch"):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except MemoryError as error:
        raise UserError(f"{path} does not fit into the memory that is free") from error
    except Exception as error:  # a damaged pickle can make its reader raise anything
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    """Say whether a pickle is refused for what it wants to call, or damaged."""
    text = str(error)
    wanted = re.search(r"(?:GLOBAL|Unsupported class) (\S+)", text)
    if wanted is not None:
        return UserError(
            f"{path} is refused, because it holds more than tensors ({wanted[1]}), and to open "
            "such a pickle can run code; if you trust whoever made it, load it yourself and save "
            "the tensors alone: torch.save({'X_train': ..., 'y_train': ...}, FILE)"
        )
    inner = re.search(r"error:\s+(.+)", text)
    reason = (inner[1] if inner else text.strip() or type(error).__name__).splitlines()[0][:200]
    return UserError(
        f"{path} cannot be read as a file of torch.save ({reason}); it is damaged, cut off or "
        "something else: write it again"
    )


def _collect(value: Any, name: str, found: dict[str, Any], depth: int) -> None:
    """Gather tensors and lists of numbers or texts, by the names that lead to them."""
    import torch

    if isinstance(value, torch.Tensor):
        found[name] = value.detach()
    elif isinstance(value, Mapping) and depth < _DEPTH:
        for key, item in value.items():
            if isinstance(key, str):
                _collect(item, f"{name}/{key}" if name else key, found, depth + 1)
    elif isinstance(value, list | tuple) and value:
        if all(isinstance(item, str) for item in value):
            found[name] = np.array(value, dtype=np.str_)
        elif all(isinstance(item, int | float) for item in value):
            found[name] = np.array(value)
        elif len(value) == 2 and all(isinstance(item, torch.Tensor) for item in value):
            for item, called in zip(value, ("X", "y"), strict=True):  # (features, labels)
                _collect(item, f"{name}/{called}" if name else called, found, depth + 1)


def _save(path: Path, value: Any) -> None:
    import torch

    if not isinstance(value, torch.Tensor):
        np.save(path, value, allow_pickle=False)
        return
    if value.is_sparse:
        value = value.to_dense()
    kind = torch.float32 if _has_no_numpy_type(value) else value.dtype
    dtype = torch.empty(0, dtype=kind).numpy().dtype
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=tuple(value.shape))
    if not value.ndim:
        out[...] = value.to(kind).numpy()
    for start in range(0, len(value) if value.ndim else 0, _ROWS):
        out[start : start + _ROWS] = value[start : start + _ROWS].to(kind).numpy()
    out.flush()


def _has_no_numpy_type(value: Any) -> bool:
    import torch

    try:
        torch.empty(0, dtype=value.dtype).numpy()
    except (TypeError, RuntimeError):
        return True
    return False
