"""What a fit leaves behind: a folder that appears whole, under its final name, or not at all."""

from __future__ import annotations

import errno
import io
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.heads.linear import LinearTrained
from classify.heads.registry import head_kind, is_solved
from classify.report.run_report import write_report
from classify.results.file import FILE_NAME
from classify.saved.heads import SavedHead, compact, save_head, weights_of
from classify.saved.models import SUFFIX, SavedModel, save_model
from classify.saved.parts import head_parts, weights_file_of
from classify.solver.backend import device_title
from classify.solver.few_rows import are_few
from classify.solver.strategies import strategy_of
from data.common.errors import UserError
from data.common.files import sync_folder, temporary_folder, write_bytes, write_json
from data.common.memory import peak_memory_mb
from data.common.raw_io import NO_ROOM, disk_trouble

if TYPE_CHECKING:
    from classify.records import Fitted
    from data.format.records import Features

# The pages, the figures and results.json of a run, generously.
PAGES_BYTES = 4 << 20


def environment(jobs: int | None, devices: Sequence[str] = ("cpu",)) -> dict[str, Any]:
    """Describe the software and the machine of a fit that was asked for `jobs` threads."""
    packages = ("icebox", "numpy", "scipy", "scikit-learn", "threadpoolctl")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in packages:
        with suppress(ImportError):  # a checkout that was never installed has no version
            found[package] = version(package)
    device = ", ".join(dict.fromkeys(device_title(device) for device in devices))
    return {**found, "device": device, "cpus": os.cpu_count(), "jobs": jobs or "all"}


@contextmanager
def run_folder(folder: Path, started: datetime) -> Iterator[tuple[Path, Callable[[], Path]]]:
    """Give a hidden folder beside the store's other runs, and a function that puts it in its place.

    That function names the folder by the time when the run started (``-2`` and so on is added where
    the name is taken) and returns the final path. Without that call nothing stays.
    """
    run = started.strftime("%Y%m%d-%H%M%S")

    def place(partial: Path) -> Path:
        for number in range(1, 1000):
            final = folder / (run if number == 1 else f"{run}-{number}")
            try:
                os.rename(partial, final)  # refuses a folder that has something in it
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            else:
                sync_folder(folder)
                return final
        raise UserError(f"{folder} holds too many runs of {run}; remove some and fit again")

    try:
        with temporary_folder(folder) as partial:
            yield partial, lambda: place(partial)
    finally:
        with suppress(OSError):  # not empty: there are other runs
            folder.rmdir()


@contextmanager
def disk_full_as_user_error(
    folder: Path, features: Features, fitted: Mapping[str, Fitted]
) -> Iterator[None]:
    """Turn a full disk into one message with the space that the run needs."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        needed = run_bytes(features, tuple(fitted)) + PAGES_BYTES
        raise UserError(disk_trouble(folder, error, needed)) from error


def run_bytes(features: Features, strategies: Sequence[str]) -> int:
    """Count the bytes of a run's heads and of its uncompressed answers on the test rows."""
    n_test = len(features.test.labels)
    answers = len(strategies) * 2 * 4 * n_test * len(features.class_names)
    known = len(np.unique(features.train.labels))
    return answers + sum(_head_bytes(name, known, features) for name in strategies)


def _head_bytes(strategy: str, known: int, features: Features) -> int:
    """Count the bytes of a head: written out, or as sums of few rows."""
    n_train, width = features.n_train + features.n_validation, features.n_features
    if not is_solved(strategy):
        return int(head_kind(strategy).saved_bytes(n_train, width, known))
    heads = strategy_of(strategy).n_heads(known)
    sizes = np.unique(features.train.labels, return_counts=True)[1]
    pairs = strategy_of(strategy).coding == "ovo" and known > 2
    if pairs and compact(heads, width) and are_few(sizes, width):
        return 4 * (n_train * (width + known) + heads) + 16 * heads
    return 4 * (width + 1) * heads


def check_room(folder: Path, features: Features, strategies: Sequence[str]) -> None:
    """Refuse to begin a fit whose heads and answers the disk has no room for."""
    needed = run_bytes(features, strategies)
    if shutil.disk_usage(folder).free < needed:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise UserError(disk_trouble(folder, full, needed))


def write_run(
    folder: Path,
    features: Features,
    results: dict[str, Any],
    fitted: Mapping[str, Fitted],
    begun: float,
) -> None:
    """Write heads, predictions, results.json and the report; the run `begun` by `perf_counter`."""
    clock = time.perf_counter()
    (folder / "heads").mkdir()
    for name, fit in fitted.items():
        written = _write_head(folder / "heads", name, features, fit)
        results["strategies"][name]["saved"] = {
            "file": f"heads/{written.name}",
            "linear": written.suffix == ".safetensors",
            "bytes": written.stat().st_size,
        }
    _write_predictions(folder / "predictions.npz", features, fitted)
    write_json(folder / FILE_NAME, results)
    write_report(folder)
    results["timings"]["report"] = time.perf_counter() - clock
    results["timings"]["total"] = time.perf_counter() - begun
    results["timings"]["peak_memory_mb"] = peak_memory_mb()
    write_json(folder / FILE_NAME, results)


def _write_head(folder: Path, name: str, features: Features, fit: Fitted) -> Path:
    """Write a head: the weights of a linear one, and what another kind is made again from."""
    estimator = fit.estimator
    common: dict[str, Any] = {
        "strategy": name,
        "class_names": tuple(features.class_names[i] for i in estimator.classes_),
        "spec": features.spec,
        "store_key": features.key,
        "weights_file": weights_file_of(features),
        "parts": head_parts(features),
        "temperature": fit.entry["calibration"]["temperature"],
        "normalize": estimator.normalize,
    }
    path = folder / f"{name}.safetensors"
    if fit.solved:
        more = {"C": fit.entry["C"], "fit_intercept": bool(estimator.fit_intercept)}
        more |= _coding_of(name, len(estimator.classes_), fit.entry)
        save_head(path, SavedHead(**common, **weights_of(estimator.head_), **more))
    elif isinstance(estimator.trained, LinearTrained):
        more = {"C": None, "coding": "multinomial", "setting": dict(estimator.trained.setting)}
        save_head(path, SavedHead(**common, **weights_of(estimator.trained.head), **more))
    else:
        path = path.with_suffix(SUFFIX)
        save_model(path, SavedModel(trained=estimator.trained, **common))
    return path


def _coding_of(name: str, n_classes: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Say how scores become answers, where the name of what the solver fitted does not."""
    strategy = strategy_of(name)
    if strategy.coding == name and name != "ecoc":
        return {}
    book = strategy.code_of(n_classes) if name == "ecoc" and n_classes > 2 else None
    return {"coding": strategy.coding, "setting": dict(entry["setting"]), "code": book}


def _write_predictions(path: Path, features: Features, fitted: Mapping[str, Fitted]) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {
        "ids": np.array(list(features.test.ids), dtype=np.str_),
        "labels": np.asarray(features.test.labels, dtype=np.int64),
        "class_names": np.array(list(features.class_names), dtype=np.str_),
    }
    if features.test.groups is not None:
        arrays["groups"] = features.test.groups
        arrays["group_names"] = np.array(list(features.group_names), dtype=np.str_)
    if features.test.weights is not None:
        arrays["weights"] = features.test.weights
    for name, fit in fitted.items():
        arrays[f"{name}_predictions"] = fit.predictions
        arrays[f"{name}_probabilities"] = fit.probabilities.astype(np.float32)
        arrays[f"{name}_scores"] = fit.scores.astype(np.float32)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    write_bytes(path, stream.getvalue())
