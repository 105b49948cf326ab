"""Trained heads that are not linear, on disk: one skops file each, all that predicting needs.

The file holds a dict: ``format`` and its version, ``head``, the name that the registry has it
under; ``class_names``, ``spec`` and ``store_key`` of its store, ``setting``, ``temperature``,
``normalize``, ``weights_file`` and ``n_features`` as files of linear heads have them, and ``parts``
(format 2) where these do; and
``state``, what `TrainedHead.from_state` makes the head of. There are texts, numbers, lists, dicts
and arrays of numbers in it and nothing else: what a file holds beside these is refused before
anything of it is made, so that no code runs and no object of a stranger's choice is built. Heads
check the indices in their arrays.

A skops file is a zip archive of a JSON text and of numpy's arrays. Ours have the same bytes for the
same head: arrays are numbered in their order, and nothing tells the time.
"""

from __future__ import annotations

import io
import json
import math
import sys
import types
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from classify.codings import decisions
from classify.heads.classifier import answers_of_rows
from classify.heads.interface import HeadAnswers, TrainedHead
from classify.heads.registry import HEADS, head_kind, is_solved
from classify.saved.parts import HeadPart, norm_of_parts, parts_list, read_parts
from classify.solver.row_norms import Norm
from data.common.errors import UserError
from data.common.files import atomic_path
from data.common.memory import free_memory
from data.common.shapes import mismatch
from data.format.spec import SPEC_SHAPE

FORMAT = "icebox-head"
FORMAT_VERSION = 2
SUFFIX = ".skops"
_SCHEMA = "schema.json"
_WANTED = "give a file heads/NAME.skops from the folder of a run"
# What may be in a file: how skops reads it, and as what.
_PLAIN = {
    ("DictNode", "builtins.dict"),
    ("ListNode", "builtins.list"),
    ("JsonNode", "builtins.str"),  # a text, a number, true, false or null
    ("NdArrayNode", "numpy.ndarray"),
    ("TypeNode", "builtins.str"),  # of the names in a dict
}
_SHAPE = {
    "head": str,
    "class_names": [str],
    "spec": SPEC_SHAPE,
    "store_key": str,
    "setting": dict,
    "temperature": (int, float, None),
    "normalize": (str, None),
    "weights_file": (str, None),
    "n_features": int,
    "parts~": (list, None),
    "state": dict,
}


@dataclass(frozen=True)
class SavedModel:
    """A head that is not linear, on the embeddings of one backbone, or of several side by side.

    All methods take raw embeddings.
    """

    strategy: str  # its name in the registry
    class_names: tuple[str, ...]  # in the order of the head's classes
    trained: TrainedHead
    spec: dict[str, Any]  # of the store it was trained on
    store_key: str
    weights_file: str | None = None  # where the backbone's weights lay, if they came from a file
    temperature: float | None = None  # of its probabilities; None where no row could tell
    normalize: Norm = None  # fitted to rows, or parts of rows, divided by their norms
    n_bytes: int | None = None  # of the file that it was read from
    parts: tuple[HeadPart, ...] = ()  # of stores side by side

    @property
    def n_features(self) -> int:
        """Return the width of the embeddings it takes."""
        return self.trained.n_features

    @property
    def setting(self) -> dict[str, Any]:
        """Return the setting that it was fitted with."""
        return self.trained.setting

    def answers(self, X: npt.NDArray[np.floating]) -> HeadAnswers:
        """Answer rows without its temperature."""
        return answers_of_rows(self.trained, X, self.normalize)

    def predict(self, X: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
        """Return the index (n_samples,) of each row's class, of the first of equal ones."""
        return self.answers(X).values.argmax(axis=1).astype(np.int64)

    def probabilities(self, X: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return class probabilities (n_samples, n_classes), calibrated by its temperature."""
        found = np.exp(self.answers(X).log_probabilities)
        return found if self.temperature is None else decisions.temper(found, self.temperature)


def save_model(path: Path, model: SavedModel) -> int:
    """Write a head under its final name, in a folder that exists, and return the file's bytes."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION if model.parts else 1,
        "head": model.strategy,
        "class_names": list(model.class_names),
        "spec": model.spec,
        "store_key": model.store_key,
        "setting": model.setting,
        "temperature": None if model.temperature is None else float(model.temperature),
        "normalize": "l2" if model.normalize else None,
        "weights_file": model.weights_file,
        "n_features": model.n_features,
        "state": model.trained.state(),
    }
    if model.parts:
        content["parts"] = parts_list(model.parts)
    stored = io.BytesIO()
    with _skops() as skops:
        skops.dump(_plain(content, "head"), stored)
    with atomic_path(path) as temporary, zipfile.ZipFile(stored) as archive:
        _in_order(archive, temporary)
        return temporary.stat().st_size


def _plain(value: Any, where: str) -> Any:
    """Turn a state into what `_PLAIN` lists; a ``TypeError`` says what is something else."""
    if isinstance(value, Mapping) and all(type(name) is str for name in value):
        return {name: _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return np.ascontiguousarray(value)
    if isinstance(value, np.generic) and value.dtype.kind in "fiubU":
        return value.item()
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which no file of a head may hold")


def _in_order(archive: zipfile.ZipFile, path: Path) -> None:
    """Write what skops has written without addresses of memory and times, and compress it."""
    schema = json.loads(archive.read(_SCHEMA))
    names: dict[str, str] = {}
    for node in _nodes(schema):
        node.pop("__id__", None)  # where it lay in memory
        if "file" in node:
            node["file"] = names.setdefault(node["file"], f"{len(names)}.npy")
    text = json.dumps(schema, separators=(",", ":")).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as ordered:
        for old, new in names.items():
            with archive.open(old) as source, ordered.open(_member(new), "w") as target:
                while block := source.read(1 << 20):
                    target.write(block)
        ordered.writestr(_member(_SCHEMA), text)


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)  # of 1980
    member.compress_type = zipfile.ZIP_DEFLATED
    return member


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield everything that skops would make an object of, in the order of the text."""
    waiting = [schema]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "__loader__" in item or "__class__" in item:
                yield item
            waiting += reversed(list(item.values()))
        elif isinstance(item, list):
            waiting += reversed(item)


@contextmanager
def _skops() -> Iterator[Any]:
    """Import skops, which asks all of scikit-learn for its types, without torch.

    One of scikit-learn's modules loads torch, which takes seconds; nothing of it is needed here.
    """
    bridge = "sklearn.externals.array_api_compat.torch"
    absent = bridge not in sys.modules and "torch" not in sys.modules
    if absent:
        sys.modules[bridge] = types.ModuleType(bridge)
    try:
        import skops.io
    except ImportError as error:
        raise UserError(
            f"heads that are not linear are kept in skops files, and skops is missing ({error}); "
            "install it: pip install skops"
        ) from error
    finally:
        if absent:
            del sys.modules[bridge]
    yield skops.io


def is_model(path: Path) -> bool:
    """Tell whether a file is one of these, by its name or its first bytes."""
    if path.suffix == SUFFIX or not path.is_file():
        return path.suffix == SUFFIX
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def load_model(path: Path) -> SavedModel:
    """Read a head and check that its parts fit each other; a `UserError` says what does not."""
    if not path.is_file():
        raise UserError(
            f"no head at {path}; {_WANTED} (`python -m classify fit --head NAME` writes them)"
        )
    try:
        content = _read(path)
        return _model(path, content)
    except MemoryError as error:
        raise _bad(path, "its arrays do not fit into the memory that is free") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise UserError(
            f"{path} cannot be read as skops ({error}); it is damaged or something else: {_WANTED}"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        if _SCHEMA not in archive.namelist():
            raise UserError(f"{path} is a zip archive but not a skops file; {_WANTED}")
        needed, free = sum(member.file_size for member in archive.infolist()), free_memory()
        if 2 * needed > free:
            raise _bad(path, f"it needs {2 * needed:,} bytes of memory, and {free:,} are free")
        try:
            schema = json.loads(archive.read(_SCHEMA))
        except (ValueError, RecursionError) as error:
            raise _bad(path, f"its {_SCHEMA} is not JSON ({error})") from error
        _check_types(path, schema)
    with _skops() as skops:
        try:
            content = skops.load(path, trusted=[])
        except (MemoryError, OSError, zipfile.BadZipFile, zlib.error, EOFError):
            raise
        except Exception as error:  # what numpy and skops raise of a changed file has no list
            raise _bad(path, f"skops finds fault with it ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is a skops file but not a head of Icebox; {_WANTED}")
    return content


def _check_types(path: Path, schema: Any) -> None:
    """Refuse what a head does not hold before skops makes anything of the file."""
    if not isinstance(schema, dict):
        raise _bad(path, f"its {_SCHEMA} is no object")
    for node in _nodes(schema):
        kind = f"{node.get('__module__')}.{node.get('__class__')}"
        numbers = node.get("type") == "numpy" or node.get("__loader__") != "NdArrayNode"
        if (node.get("__loader__"), kind) not in _PLAIN or not numbers:
            raise UserError(
                f"{path} holds a {kind} ({node.get('__loader__')}), and heads of Icebox hold "
                "texts, numbers and arrays only; it was made by something else or changed, and "
                "nothing of it has been loaded: fit again to get a new one"
            )


def _model(path: Path, content: Mapping[str, Any]) -> SavedModel:
    version = content.get("format_version")
    if type(version) is not int:
        raise _bad(path, f"format_version is {version!r}, expected a number")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path} has head format {version}, newer than {FORMAT_VERSION}, the newest that this "
            "Icebox reads; update Icebox, or fit again with this one"
        )
    problem = mismatch({**content}, _SHAPE, "the head")
    if problem:
        raise _bad(path, problem)
    name = content["head"]
    if name not in HEADS or is_solved(name):
        raise UserError(
            f"{path} is a head called {name!r}, which this Icebox does not have; update Icebox, "
            "or fit again with this one"
        )
    names, temperature = content["class_names"], content["temperature"]
    if not all(text.strip() for text in names):
        raise _bad(path, "class_names holds an empty name")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise _bad(path, f"temperature is {temperature!r}, expected a positive number")
    if content["normalize"] not in (None, "l2"):
        raise _bad(path, f"normalize is {content['normalize']!r}, expected l2 or nothing")
    try:
        parts = read_parts(content.get("parts"), content["spec"], content["n_features"])
    except ValueError as error:
        raise _bad(path, str(error)) from error
    try:
        trained = head_kind(name).trained.from_state(content["state"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _bad(path, f"its state is not that of a {name} head ({error})") from error
    if trained.n_classes != len(names) or trained.n_features != content["n_features"]:
        raise _bad(
            path,
            f"its state is of {trained.n_classes} classes and {trained.n_features} features, but "
            f"it names {len(names)} classes and {content['n_features']} features",
        )
    return SavedModel(
        strategy=name,
        class_names=tuple(names),
        trained=trained,
        spec=content["spec"],
        store_key=content["store_key"],
        weights_file=content["weights_file"],
        temperature=temperature,
        normalize=norm_of_parts(content["normalize"], parts),
        parts=parts,
        n_bytes=path.stat().st_size,
    )


def _bad(path: Path, what: str) -> UserError:
    return UserError(f"{path} is not a usable head: {what}; fit again to get a new one")
