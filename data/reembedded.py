"""Test rows of a store, embedded again: what float32 by plain torch gives, and other precisions.

``python -m extract verify STORE.h5 --rows N`` leaves them beside the store, as ``STORE.again.npz``;
stage two reads them to count the predictions that a precision changes. The file is bound to the
store's key and to the bytes of the very rows, so that one of an older store is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.common.files import atomic_path

VERSION = 1
# The rows that exact decoding gives, of a store that was made with ``--decode fast``.
EXACTLY = "fp32, exact decoding"


@dataclass(frozen=True, eq=False)
class Rechecked:
    """Test rows in several precisions."""

    key: str
    rows: npt.NDArray[np.int64]  # (n,), which of the store's test rows, ascending
    digest: str  # of these rows as the store holds them; see `digest_of`
    plain: npt.NDArray[np.float32]  # (n, width), by plain torch in float32
    # (n, width), by other engines and precisions, such as ``openvino, bf16``
    others: dict[str, npt.NDArray[np.float32]]


def rechecked_path(store: str | os.PathLike[str]) -> Path:
    """Name the file that belongs to a store."""
    return Path(store).with_suffix(".again.npz")


def digest_of(stored: npt.NDArray[np.floating]) -> str:
    """Digest rows as a store holds them, whatever type they are read in."""
    return hashlib.sha256(np.ascontiguousarray(stored, dtype=np.float32).tobytes()).hexdigest()


def write_rechecked(store: str | os.PathLike[str], found: Rechecked) -> Path:
    """Keep rows beside their store."""
    path = rechecked_path(store)
    facts = {"version": VERSION, "key": found.key, "digest": found.digest}
    arrays = {f"other {number}": rows for number, rows in enumerate(found.others.values())}
    told = json.dumps({**facts, "others": list(found.others)})
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(
            stream, allow_pickle=False, told=np.array(told), rows=found.rows, plain=found.plain,
            **arrays,
        )  # fmt: skip
    return path


def read_rechecked(store: str | os.PathLike[str], key: str, width: int) -> Rechecked | None:
    """Read the rows that lie beside a store; None where there are none of it that can be read."""
    try:
        with np.load(rechecked_path(store), allow_pickle=False) as content:
            told = json.loads(str(content["told"]))
            rows, plain = content["rows"], content["plain"]
            others = {
                str(name): content[f"other {number}"] for number, name in enumerate(told["others"])
            }
        found = Rechecked(told["key"], rows, told["digest"], plain, others)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    shape = (len(rows), width)
    fits = rows.ndim == 1 and np.issubdtype(rows.dtype, np.integer) and len(rows)
    whole = all(block.shape == shape for block in (plain, *others.values()))
    return found if fits and whole and told["version"] == VERSION and found.key == key else None
