"""Finished runs on disk: found, read, and lined up by the test images they share."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from classify.analysis.resampling import Units, units_of
from classify.analysis.significance import with_current_method
from classify.results.file import FILE_NAME, load_json, read_run
from classify.results.names import backbone_name, dataset_name
from classify.wording import display_name, listed
from data.common.errors import UserError

HOW_TO_FIT = "make one with `make classify`, or `python -m classify fit FILE.h5`"


# Settings that do not tell runs of one store apart: heads are, each by itself.
NOT_TOLD_APART = (
    "strategies", "memory", "out_of_core", "few_shot", "validation", "weighted", "cost",
)  # fmt: skip
# Of runs of one store that differ in their heads so many are named.
HEADS_NAMED = 3


@dataclass(frozen=True)
class Run:
    """One finished run; `label` is what it is called beside others."""

    folder: Path
    results: dict[str, Any]
    label: str

    @property
    def dataset(self) -> str:
        """Name of the dataset, and of the classes where some were chosen."""
        return dataset_name(self.results)

    @property
    def started(self) -> tuple[str, str]:
        """When it started, for telling old from new; the folder's name decides within a second."""
        return str(self.results["timings"].get("started", "")), self.folder.name


@dataclass(frozen=True)
class Answers:
    """What a run's strategies answered on its test set, rows in the order of their ids.

    Shapes: labels, predictions, groups, weights (n_samples,).
    """

    labels: npt.NDArray[np.int64]
    predictions: dict[str, npt.NDArray[np.int64]]
    # Digest of class names, ids, labels and weights: equal for runs that share a test set.
    test_set: str
    groups: npt.NDArray[np.int64] | None = None
    weights: npt.NDArray[np.float64] | None = None


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
    """Leave out the heads that a newer run of the same store and settings has fitted again."""
    kept, heads = [], dict[str, dict[str, Path]]()  # of each store and settings: who has a head
    for run in sorted(runs, key=lambda run: run.started, reverse=True):
        results = run.results
        # What the machine had free, and what else was measured, has no part in the results.
        settings = {
            name: value
            for name, value in results["settings"].items()
            if name not in NOT_TOLD_APART
            # as of runs that do not say
            and (name, value) not in (("class_weight", "none"), ("classes", None))
        }
        same = json.dumps([results["store"]["key"], results["seed"], settings], sort_keys=True)
        taken = heads.setdefault(same, {})
        mine = list(results["strategies"])
        fresh = [name for name in mine if name not in taken]
        newer = next((taken[name] for name in mine if name in taken), None)
        if newer is not None:
            what = (
                "" if not fresh else f" of {listed([display_name(n) for n in mine if n in taken])}"
            )
            on_skip(
                f"left out{what}: {run.folder}, since {newer} is newer and has the same store and "
                "settings"
            )
        taken.update(dict.fromkeys(fresh, run.folder))
        if fresh:
            kept.append(run if len(fresh) == len(mine) else _restricted(run, fresh))
    return kept[::-1]


def _restricted(run: Run, heads: Sequence[str]) -> Run:
    """Leave out all heads of a run but some."""
    results = {
        **run.results,
        "strategies": {name: run.results["strategies"][name] for name in heads},
        "comparisons": [c for c in run.results["comparisons"] if {c["a"], c["b"]} <= set(heads)],
    }
    return replace(run, results=results)


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
        lambda run: f"{backbone_name(run.results['store']['spec'])} ({_heads_words(run)})",
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


def _heads_words(run: Run) -> str:
    """Name a run's heads, or count them."""
    names = list(run.results["strategies"])
    few = len(names) <= HEADS_NAMED
    return listed([display_name(name) for name in names]) if few else f"{len(names)} heads"


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
            groups = stored["groups"].astype(np.int64) if "groups" in stored else None
            weights = stored["weights"].astype(np.float64) if "weights" in stored else None
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; fit again to compare this run with others") from error
    except (OSError, ValueError, KeyError, BadZipFile, EOFError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); fit again to compare this run with others"
        ) from error
    columns = [labels, ids, *predictions.values(), *(c for c in (groups, weights) if c is not None)]
    shapes = {column.shape for column in columns}
    fits = shapes == {(run.results["n_test"],)} and names == run.results["class_names"]
    if not fits or any(
        not np.isclose(
            np.average(answer == labels, weights=weights), strategies[name]["test"]["accuracy"]
        )
        for name, answer in predictions.items()
    ):
        raise UserError(
            f"{path} does not agree with {FILE_NAME} beside it; fit again to compare this run"
        )
    if len(np.unique(ids)) != len(ids):
        raise UserError(f"{path} has test images of the same id, so its rows cannot be matched")
    # The order of two chosen classes says which one is positive; the test set is the same.
    place = np.argsort(np.argsort(names, kind="stable"), kind="stable")
    labels, predictions = place[labels], {name: place[p] for name, p in predictions.items()}
    order = np.argsort(ids, kind="stable")
    digest = hashlib.sha256(json.dumps(sorted(names)).encode())
    digest.update("\0".join(ids[order].tolist()).encode("utf-8", "surrogatepass"))
    digest.update(labels[order].tobytes())
    if weights is not None:
        digest.update(weights[order].tobytes())
    return Answers(
        labels[order],
        {name: answer[order] for name, answer in predictions.items()},
        digest.hexdigest(),
        None if groups is None else groups[order],
        None if weights is None else weights[order],
    )


def shared_units(answers: Sequence[Answers]) -> Units | None:
    """Make the units of a test set that several runs answered.

    Where runs have different groups, a test may tear none of them apart, so those that share a row
    are put together.
    """
    found: list[npt.NDArray[np.int64]] = []
    for one in answers:
        if one.groups is not None:
            codes = np.unique(one.groups, return_inverse=True)[1]
            if not any(_same_parts(codes, other) for other in found):
                found.append(codes)
    groups = found[0] if found else None
    for other in found[1:]:
        groups = _joined(groups, other)
    return units_of(groups, answers[0].weights, len(answers[0].labels))


def _same_parts(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Tell whether two codings put the same rows together."""
    n_pairs = len(np.unique(a * (int(b.max(initial=0)) + 1) + b))
    return n_pairs == len(np.unique(a)) == len(np.unique(b))


def _joined(a: Any, b: Any) -> npt.NDArray[np.int64]:
    """Put the groups of two codings together that have a row in common."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n_a, n_b = int(a.max()) + 1, int(b.max()) + 1
    links = coo_array((np.ones(len(a)), (a, n_a + b)), shape=(n_a + n_b, n_a + n_b))
    return np.asarray(connected_components(links, directed=False)[1][a], dtype=np.int64)
