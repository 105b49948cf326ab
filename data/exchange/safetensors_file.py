"""Files of safetensors: arrays by name, read in slices."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.exchange.arrays import parts_of
from data.exchange.records import Array, Entry, Held, Outgoing, Part, Reading, Sliced, refused
from data.exchange.torch_file import unpacked

OURS = "icebox"  # in the metadata of files that `write_safetensors` wrote: a JSON object
_KINDS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_TEXTS = "_utf8"


def read_safetensors(path: Path, reading: Reading) -> list[Part]:
    """Read the tensors of a file; types that NumPy has not are widened by stage one's torch."""
    from safetensors import SafetensorError, safe_open

    entries: dict[str, Entry] = {}
    with (
        refused(path, "safetensors", SafetensorError),
        safe_open(path, framework="numpy") as stored,
    ):
        metadata = dict(stored.metadata() or {})
        for name in stored.keys():  # noqa: SIM118 - it is no dict
            stated = stored.get_slice(name)
            kind = _KINDS.get(stated.get_dtype())
            if kind is None:  # bfloat16, and narrower ones
                entries = {}
                break
            entries[name] = _entry(path, name, tuple(stated.get_shape()), np.dtype(kind))
    if not entries:
        return parts_of(path.name, unpacked(path, reading), reading)
    return parts_of(path.name, _with_texts(path, entries, metadata), reading)


def _entry(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Entry:
    from safetensors import SafetensorError, safe_open

    @contextlib.contextmanager
    def opened() -> Iterator[Any]:
        with (
            refused(path, "safetensors", SafetensorError),
            safe_open(path, framework="numpy") as stored,
        ):
            yield stored.get_slice(name) if shape else np.asarray(stored.get_tensor(name))

    return Sliced(shape, dtype, opened)


def _with_texts(
    path: Path, entries: dict[str, Entry], metadata: Mapping[str, str]
) -> dict[str, Entry]:
    """Add the texts of files that `write_safetensors` wrote, whose format has none."""
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        if OURS in metadata and name.endswith(_TEXTS):
            found[name.removesuffix(_TEXTS)] = Held(_texts(path, entry.load()))
        else:
            found[name] = entry
    listed = metadata.get(OURS, metadata.get("class_names"))
    if listed is not None and "class_names" not in found:
        with refused(path, "safetensors whose metadata has names of classes"):
            names = json.loads(listed)
            names = names["class_names"] if OURS in metadata else names
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise ValueError("class_names is no list of names")
        found["class_names"] = Held(np.array(names, dtype=np.str_))
    return found


def _texts(path: Path, content: Array) -> Array:
    with refused(path, "safetensors of texts"):
        listed = content.astype(np.uint8).tobytes().decode("utf-8").split("\0")[:-1]
    return np.array(listed, dtype=np.str_)


def _bytes(texts: list[str]) -> Array:
    return np.frombuffer("".join(f"{text}\0" for text in texts).encode("utf-8"), np.uint8)


def write_safetensors(path: Path, out: Outgoing) -> None:
    """Write ``X_train``, ``y_train`` and so on; texts as bytes, each with a NUL after it."""
    from safetensors.numpy import save_file

    tensors: dict[str, Array] = {}
    for split in out.splits:
        name = split.short_name
        tensors[f"X_{name}"] = split.whole()
        tensors[f"y_{name}"] = np.asarray(split.labels, np.int64)
        columns = split.columns()
        tensors[f"ids_{name}{_TEXTS}"] = _bytes(columns["ids"])
        if "groups" in columns:
            tensors[f"groups_{name}{_TEXTS}"] = _bytes(columns["groups"])
        if "weights" in columns:
            tensors[f"weights_{name}"] = np.asarray(columns["weights"], np.float64)
    # One entry alone: the format has no order for several.
    metadata = {OURS: json.dumps({"class_names": list(out.class_names)})}
    if out.group_names:
        tensors[f"group_names{_TEXTS}"] = _bytes(list(out.group_names))
    save_file(tensors, path, metadata=metadata)
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)  # the library's files are for their owner alone
