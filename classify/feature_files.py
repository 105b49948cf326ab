"""Rows to label that are features already: of any format that ``python -m data import`` reads."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.common.cli import log
from data.common.errors import UserError
from data.exchange.records import Part, Reading, converted
from data.exchange.registry import FEATURE_SUFFIXES, read_files
from data.exchange.rows import attached, ids_of
from data.format.records import StoreError
from data.reading import open_features, read_header

_STORE = ".h5"


def is_feature_file(name: str) -> bool:
    """Tell a file of features by its suffix."""
    return Path(name).suffix.lower() in FEATURE_SUFFIXES


def read_rows(files: Sequence[str], n_features: int) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Read the rows of files, with their names: ids, or the file and the number of the row.

    A store gives its rows without labels, or where it has none its test rows. A `UserError` says
    that a file cannot be read, or that its features have another width than the head takes.

    Shape: (n_rows, n_features).
    """
    paths = [Path(name) for name in dict.fromkeys(files)]
    stores = [path for path in paths if path.suffix.lower() == _STORE and _is_store(path)]
    names: list[str] = []
    blocks: list[npt.NDArray[np.float32]] = []
    for path in stores:
        found, rows = _of_store(path)
        _check_width(path.name, rows.shape[1], n_features)
        names += found
        blocks.append(rows)
    others = [path for path in paths if path not in stores]
    if others:
        with tempfile.TemporaryDirectory(prefix="icebox-features-") as folder:

            def scratch() -> Path:
                return Path(tempfile.mkdtemp(dir=folder))

            for part in attached(read_files(others, Reading(scratch=scratch))):
                assert part.features is not None
                _check_width(part.source, part.features.shape[1], n_features)
                names += ids_of(part)
                blocks += _of_part(part, names[len(names) - part.n_rows :])
    return names, np.concatenate(blocks)


def _of_part(part: Part, ids: Sequence[str]) -> list[npt.NDArray[np.float32]]:
    assert part.features is not None
    single = np.dtype(np.float32)
    return [
        converted(block, single, part, ids[start : start + len(block)])
        for start, block in part.features.blocks(np.ones(part.n_rows, np.bool_))
    ]


def _is_store(path: Path) -> bool:
    try:
        return bool(read_header(path).key)
    except StoreError:
        return False


def _of_store(path: Path) -> tuple[list[str], npt.NDArray[np.float32]]:
    store = open_features(path)
    name = "test" if store.unlabelled is None else "unlabelled"
    split = store.splits[name]
    if not len(split):
        raise UserError(f"{path} has neither rows without labels nor test rows to predict")
    log(f"{path}: the {len(split):,} {name} rows")
    return list(split.ids), np.asarray(split.features, dtype=np.float32)


def _check_width(source: str, width: int, n_features: int) -> None:
    if width != n_features:
        raise UserError(
            f"{source} has features {width:,} wide, and the head takes {n_features:,}; give "
            "features of the network that the head was fitted on, or a head that was fitted on "
            "features like these"
        )
