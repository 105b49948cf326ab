"""Finished runs on disk: found, read, and lined up by the test images they share."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from classify.analysis.significance import with_current_method
from classify.results import FILE_NAME, backbone_name, load_json, read_run
from data.common.errors import UserError

HOW_TO_FIT = "make one with `make classify`, or `python -m classify fit FILE.h5`"


@dataclass(frozen=True)
class Run:
    """One finished run; `label` is what it is called beside others."""

    folder: Path
    results: dict[str, Any]
    label: str

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return str((self.results["store"]["spec"].get("dataset") or {}).get("name", "unknown"))

    @property
    def started(self) -> tuple[str, str]:
        """When it started, for telling old from new; the folder's name decides within a second."""
        return str(self.results["timings"].get("started", "")), self.folder.name


@dataclass(frozen=True)
class Answers:
    """What a run's strategies answered on its test set, rows in the order of their ids.

    Shapes: labels, predictions (n_samples,).
    """

    labels: npt.NDArray[np.int64]
    predictions: dict[str, npt.NDArray[np.int64]]
    test_set: str  # digest of class names, ids and labels: equal for runs that share a test set


def read_results(path: Path) -> dict[str, Any]:
    """Read a run; comparisons that an earlier procedure made are judged again from their counts."""
    return with_current_method(read_run(path))


def find_runs(
    given: Sequence[Path], reports_dir: Path, on_skip: Callable[[str], object]
) -> list[Run]:
    """Read the runs that were named, or all below the reports folder, with labels that differ.

    `on_skip` is told in a sentence what was left out: damaged files met while searching, and runs
    that a newer one with the same store and settings replaces.
    """
    if not given and not reports_dir.is_dir():
        raise UserError(f"there are no runs: {reports_dir} does not exist; {HOW_TO_FIT}")
    found: dict[Path, Run] = {}
    for path in given or [reports_dir]:
        folder = path.parent if path.is_file() else path
        if not folder.is_dir():
            raise UserError(f"{path} does not exist; give the folder of a run, or {HOW_TO_FIT}")
        named = (folder / FILE_NAME).is_file()
        below = [folder] if named else _search(folder)
        for place in below:
            try:
                if load_json(place / FILE_NAME).get("kind") != "comparison" or named:
                    found[place.resolve()] = Run(place, read_results(place / FILE_NAME), "")
            except UserError as error:
                if named:
                    raise
                on_skip(f"skipped: {error}")
        if given and not below:
            raise UserError(f"there is no run in {path} or below; {HOW_TO_FIT}")
    if not found:
        raise UserError(f"there are no runs below {reports_dir}; {HOW_TO_FIT}")
    return _labelled(_newest(list(found.values()), on_skip))


def _search(folder: Path) -> list[Path]:
    """Find folders with a results.json, hidden (unfinished) ones left out."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if FILE_NAME in files:
            found.append(Path(place))
    return found


def _newest(runs: Sequence[Run], on_skip: Callable[[str], object]) -> list[Run]:
    newest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.started):
        results = run.results
        # What the machine had free, and what else was measured, has no part in the results.
        settings = {
            name: value
            for name, value in results["settings"].items()
            if name not in ("memory", "out_of_core", "few_shot")
        }
        same = json.dumps([results["store"]["key"], results["seed"], settings], sort_keys=True)
        if same in newest:
            on_skip(
                f"left out: {newest[same].folder}, since {run.folder} is newer and has the same "
                "store and settings"
            )
        newest[same] = run
    return list(newest.values())


def _labelled(runs: Sequence[Run]) -> list[Run]:
    """Call each run by its backbone; where that is not enough, by what tells it apart."""
    runs = sorted(
        runs,
        key=lambda run: (run.dataset, backbone_name(run.results["store"]["spec"]), str(run.folder)),
    )
    candidates = [
        lambda run: backbone_name(run.results["store"]["spec"]),
        lambda run: f"{run.dataset}, {backbone_name(run.results['store']['spec'])}",
        lambda run: (
            f"{backbone_name(run.results['store']['spec'])} ({run.results['store']['key'][:8]})"
        ),
        lambda run: f"{backbone_name(run.results['store']['spec'])} ({run.folder.name})",
        lambda run: str(run.folder),
    ]
    for name in candidates[:-1]:
        labels = [name(run) for run in runs]
        if len(set(labels)) == len(labels):
            break
    else:
        labels = [candidates[-1](run) for run in runs]
    return [Run(run.folder, run.results, label) for run, label in zip(runs, labels, strict=True)]


def read_answers(run: Run) -> Answers:
    """Read a run's predictions.npz, rows sorted by id, and check it against its results.json."""
    path = run.folder / "predictions.npz"
    strategies = run.results["strategies"]
    try:
        with np.load(path, allow_pickle=False) as stored:
            ids = stored["ids"].astype(np.str_)
            labels = stored["labels"].astype(np.int64)
            names = [str(name) for name in stored["class_names"]]
            predictions = {
                name: stored[f"{name}_predictions"].astype(np.int64) for name in strategies
            }
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; fit again to compare this run with others") from error
    except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); fit again to compare this run with others"
        ) from error
    shapes = {labels.shape, ids.shape, *(answer.shape for answer in predictions.values())}
    fits = shapes == {(run.results["n_test"],)} and names == run.results["class_names"]
    if not fits or any(
        not np.isclose(np.mean(answer == labels), strategies[name]["test"]["accuracy"])
        for name, answer in predictions.items()
    ):
        raise UserError(
            f"{path} does not agree with {FILE_NAME} beside it; fit again to compare this run"
        )
    if len(np.unique(ids)) != len(ids):
        raise UserError(f"{path} has test images of the same id, so its rows cannot be matched")
    order = np.argsort(ids, kind="stable")
    digest = hashlib.sha256(json.dumps(names).encode())
    digest.update("\0".join(ids[order].tolist()).encode("utf-8", "surrogatepass"))
    digest.update(labels[order].tobytes())
    return Answers(
        labels[order],
        {name: answer[order] for name, answer in predictions.items()},
        digest.hexdigest(),
    )
