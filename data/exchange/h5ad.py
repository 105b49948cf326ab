"""AnnData's ``.h5ad``: ``X`` or a table of ``obsm``, dense or sparse, with columns of ``obs``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.common.errors import UserError, nearest
from data.exchange.arrays import check_table, texts
from data.exchange.names import find_columns, listed
from data.exchange.records import (
    Array,
    Entry,
    Held,
    Outgoing,
    Part,
    Reading,
    Sliced,
    named,
    needs,
    refused,
)
from data.exchange.text import note_columns
from data.store import foreign_file


def _anndata(path: Path) -> Any:
    try:
        import anndata.io
    except ImportError as error:
        raise needs("anndata", "anndata", f"the AnnData file {path}") from error
    return anndata


def read_h5ad(path: Path, reading: Reading) -> list[Part]:
    """Read ``obs`` into memory, and leave the features where they are."""
    anndata = _anndata(path)
    with foreign_file(path) as file:
        if "obs" not in file:
            raise UserError(
                f"{path} is no AnnData file: it has {listed(file.keys())} and no obs; name "
                "another HDF5 file .h5, and give --features-path"
            )
        with refused(path, "an AnnData file", Exception):
            obs = anndata.io.read_elem(file["obs"])
            place = _place(path, file, reading)
            features = _features(path, file, place, anndata)
            names = _texts_of(file, anndata)
    found = find_columns(path.name, [str(name) for name in obs.columns], reading)
    found.pop("features", None)
    columns = {role: _values(obs[name]) for role, name in found.items()}
    if "ids" not in columns:
        columns["ids"] = np.array([str(name) for name in obs.index], dtype=object)
    note_columns(path.name, {"features": place, **found}, reading)
    check_table(f"{path.name}: {place}", features)
    unread = tuple(str(name) for name in obs.columns if name not in found.values())
    called = named(path.name, found)
    return [Part(path.name, None, features, columns, len(obs), called, unread, **names)]


def _place(path: Path, file: Any, reading: Reading) -> str:
    """Name the group or dataset of the features."""
    tables = list(file["obsm"]) if "obsm" in file else []
    if reading.obsm is not None:
        if reading.obsm not in tables:
            hint = nearest(reading.obsm, tables) or f"it has {listed(tables)}"
            raise UserError(f"--obsm {reading.obsm}: {path} has no such table in obsm; {hint}")
        return f"obsm/{reading.obsm}"
    if "X" not in file:
        raise UserError(f"{path} has no X; give --obsm, one of {listed(tables)}")
    return "X"


def _features(path: Path, file: Any, place: str, anndata: Any) -> Entry:
    node = file[place]
    kind = str(node.attrs.get("encoding-type", "array"))
    if kind in ("csr_matrix", "csc_matrix"):
        sparse = anndata.io.sparse_dataset(node)
        shape, dtype = tuple(map(int, sparse.shape)), np.dtype(sparse.dtype)
        if kind == "csc_matrix":  # by columns: rows cannot be read apart
            return _Sparse(path, shape, dtype, sparse.to_memory().tocsr())
        return Sliced(shape, dtype, _opened(path, place, anndata, sparse=True))
    if kind == "dataframe":
        return Held(anndata.io.read_elem(node).to_numpy())
    return Sliced(tuple(node.shape), np.dtype(node.dtype), _opened(path, place, anndata))


class _Sparse:
    """A sparse table in memory, made dense a block at a time."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], rows: Any) -> None:
        self.shape, self.dtype, self._rows = shape, dtype, rows
        self.path = path

    def blocks(self, wanted: Any) -> Iterator[tuple[int, Array]]:
        """Cut it."""
        sliced = Sliced(self.shape, self.dtype, lambda: contextlib.nullcontext(_Dense(self._rows)))
        yield from sliced.blocks(wanted)

    def load(self) -> Array:
        """Make all of it dense."""
        return np.asarray(self._rows.toarray())


class _Dense:
    """Rows of a sparse table, dense when they are asked for."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __getitem__(self, rows: slice) -> Array:
        return np.asarray(self._table[rows].toarray())


def _opened(path: Path, place: str, anndata: Any, *, sparse: bool = False) -> Any:
    @contextlib.contextmanager
    def opened() -> Iterator[Any]:
        with refused(path, "an AnnData file", Exception), foreign_file(path) as file:
            yield _Dense(anndata.io.sparse_dataset(file[place])) if sparse else file[place]

    return opened


def _values(column: Any) -> Array:
    """Give a column of ``obs``: categories as their names, None where a value is missing."""
    if str(column.dtype) == "category" or column.dtype == object or column.isna().any():
        values = column.astype(object).to_numpy(copy=True)
        values[column.isna().to_numpy()] = None
        return np.asarray(values, dtype=object)
    return np.asarray(column.to_numpy())


def _texts_of(file: Any, anndata: Any) -> dict[str, tuple[str, ...]]:
    """Read the order of classes and groups that `write_h5ad` kept."""
    found = {}
    for name in ("class_names", "group_names"):
        if f"uns/icebox/{name}" in file:
            values = texts(anndata.io.read_elem(file[f"uns/icebox/{name}"]))
            if values:
                found[name] = tuple(values)
    return found


def write_h5ad(path: Path, out: Outgoing) -> None:
    """Write one table of all splits, with id, split, label, group and weight in ``obs``."""
    anndata = _anndata(path)
    import pandas

    table = np.concatenate([split.whole() for split in out.splits])
    columns: dict[str, list[Any]] = {"id": [], "split": [], "label": [], "group": [], "weight": []}
    for split in out.splits:
        given = split.columns()
        none = [None] * split.n_rows
        columns["id"] += given["ids"]
        columns["split"] += [split.name] * split.n_rows
        for role, name in (("labels", "label"), ("groups", "group"), ("weights", "weight")):
            columns[name] += given.get(role, none)
    obs = pandas.DataFrame(
        {
            "id": columns["id"],
            "split": pandas.Categorical(columns["split"]),
            "label": pandas.Categorical(columns["label"], categories=list(out.class_names)),
        },
        index=[f"{s}/{i}" for s, i in zip(columns["split"], columns["id"], strict=True)],
    )
    if out.group_names:
        groups = pandas.Categorical(columns["group"], categories=list(out.group_names))
        obs["group"] = groups
    if out.has_weights:
        obs["weight"] = np.array(columns["weight"], dtype=np.float64)
    kept: Mapping[str, Any] = {
        "class_names": np.array(out.class_names, dtype=object),
        "group_names": np.array(out.group_names, dtype=object),
    }
    var = pandas.DataFrame(index=[f"feature_{number}" for number in range(out.width)])
    anndata.AnnData(X=table, obs=obs, var=var, uns={"icebox": kept}).write_h5ad(path)
