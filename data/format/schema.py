"""What a store must hold, by schema version: checked before any array is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.common.shapes import mismatch
from data.format.loading import AGAIN, OpenFile, Stored
from data.format.records import Header, StoreError
from data.format.spec import PROVENANCE_SHAPE, REQUEST_SHAPE, SPEC_SHAPE, spec_key

SCHEMA_VERSION = 1
SPLITS = ("train", "test")
# Splits that a store may have beside them.
UNLABELLED = "unlabelled"
OPTIONAL_SPLITS = ("validation", UNLABELLED)
ALL_SPLITS = (*SPLITS, *OPTIONAL_SPLITS)
# What a split may hold beside features, labels and ids: the type of its elements, its width.
COLUMNS: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
    "groups": (np.dtype("<i8"), ()),
    "weights": (np.dtype("<f8"), ()),
    "image_sha256": (np.dtype("u1"), (32,)),
}
JSON_ATTRIBUTES: dict[str, type] = {
    "spec": dict,
    "provenance": dict,
    "request": dict,
    "class_names": list,
}
OPTIONAL_ATTRIBUTES: dict[str, type] = {"group_names": list}
FLOATS = (np.dtype("<f4"), np.dtype("<f2"))
INTEGER = np.dtype("<i8")
TEXT = np.dtype(object)
SHAPES = {"spec": SPEC_SHAPE, "provenance": PROVENANCE_SHAPE, "request": REQUEST_SHAPE}


Description = tuple[Header, dict[str, Stored]]


def describe(file: OpenFile) -> Description:
    """Check a store's structure, by the rules of its schema version."""
    path, version = file.path, file.version()
    if not isinstance(version, int | np.integer):
        raise StoreError(f"{path} is not a feature store: it has no schema_version. {AGAIN}")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} is of store schema {version}, and this Icebox reads up to {SCHEMA_VERSION}: "
            "upgrade Icebox, or extract the features again with this one"
        )
    if int(version) not in READERS:
        raise StoreError(f"{path} is of store schema {version}, which never existed. {AGAIN}")
    if file.foreign_seal:
        raise StoreError(f"{path} is damaged: its seal is of no version of that time. {AGAIN}")
    return READERS[int(version)](file)


def _describe_1(file: OpenFile) -> Description:
    path = file.path
    key = file.text("key")
    values = {name: _parse(path, name, file.text(name)) for name in JSON_ATTRIBUTES}
    if _key(values["spec"]) != key:
        raise StoreError(f"{path} is damaged: its key is not the digest of its spec. {AGAIN}")
    for name, shape in SHAPES.items():
        problem = mismatch(values[name], shape, name)
        if problem:
            raise StoreError(f"{path} is not a usable store: {problem}. {AGAIN}")
    names = tuple(values["class_names"])
    if not names or not all(isinstance(name, str) for name in names):
        raise StoreError(f"{path}: class_names is not a list of names. {AGAIN}")

    named = file.says("group_names")
    datasets: dict[str, Stored] = {}

    def need(name: str, shape: tuple[int, ...] | None, dtypes: Sequence[np.dtype[Any]]) -> Stored:
        found = datasets[name] = file.stored(name)
        if found.dtype not in dtypes:
            wanted = " or ".join("text" if dtype == TEXT else str(dtype) for dtype in dtypes)
            raise StoreError(f"{path}: {name} holds {found.dtype}, expected {wanted}. {AGAIN}")
        if shape is not None and found.shape != shape:
            raise StoreError(f"{path}: {name} has shape {found.shape}, expected {shape}. {AGAIN}")
        return found

    train = need("/train/features", None, FLOATS)
    test = need("/test/features", None, [train.dtype])
    if len(train.shape) != 2 or len(test.shape) != 2 or train.shape[1] != test.shape[1]:
        raise StoreError(
            f"{path}: the features have shapes {train.shape} (train) and {test.shape} (test), "
            f"expected two tables of one width. {AGAIN}"
        )
    rows = {"train": train.shape[0], "test": test.shape[0]}
    for split in OPTIONAL_SPLITS:
        if file.has(f"/{split}/features"):
            table = need(f"/{split}/features", None, [train.dtype])
            if len(table.shape) != 2 or table.shape[1] != train.shape[1]:
                raise StoreError(
                    f"{path}: /{split}/features has shape {table.shape}, expected a table as wide "
                    f"as {train.shape}. {AGAIN}"
                )
            rows[split] = table.shape[0]
    for split, count in rows.items():
        need(f"/{split}/labels", (count,), [INTEGER])
        need(f"/{split}/ids", (count,), [TEXT])
        for column, (dtype, width) in COLUMNS.items():
            if file.has(f"/{split}/{column}"):
                need(f"/{split}/{column}", (count, *width), [dtype])
    groups = tuple(_parse(path, "group_names", file.text("group_names"))) if named else ()
    if not all(isinstance(name, str) for name in groups):
        raise StoreError(f"{path}: group_names is not a list of names. {AGAIN}")
    header = Header(
        path=path,
        schema_version=1,
        key=key,
        spec=values["spec"],
        provenance=values["provenance"],
        request=values["request"],
        class_names=names,
        n_train=train.shape[0],
        n_test=test.shape[0],
        n_features=train.shape[1],
        dtype=str(train.dtype),
        n_validation=rows.get("validation", 0),
        n_unlabelled=rows.get("unlabelled", 0),
        group_names=groups,
    )
    return header, datasets


def _parse(path: Path, name: str, text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: {name} is not JSON ({error}). {AGAIN}") from error
    kind = (JSON_ATTRIBUTES | OPTIONAL_ATTRIBUTES)[name]
    if not isinstance(value, kind):
        raise StoreError(f"{path}: {name} is not a JSON {kind.__name__}. {AGAIN}")
    return value


def _key(spec: dict[str, Any]) -> str | None:
    try:
        return spec_key(spec)
    except ValueError:  # NaN, which Python's parser lets through
        return None


# One function for each schema that was ever released; tests/archives holds a file of each.
READERS: dict[int, Callable[[OpenFile], Description]] = {1: _describe_1}
