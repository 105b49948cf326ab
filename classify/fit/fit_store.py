"""Fit, choose C, evaluate and write down: one store in, one folder of results out.

The test rows are looked at once, after every choice has been made. Nothing is written until
everything is there: the folder is filled under a hidden name beside its place and then renamed, so
an interrupted fit leaves nothing half-made.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classify.analysis.evaluate import majority
from classify.analysis.few_shot import few_shot, unconverged_warnings
from classify.analysis.gallery import gallery
from classify.analysis.precision import numerics
from classify.analysis.resampling import interval_method, units_of
from classify.analysis.run_all import analyse
from classify.analysis.splits import describe_splits, split_warnings
from classify.fit.class_weights import read_class_weights
from classify.fit.cluster import Spread
from classify.fit.memory_budget import open_store
from classify.fit.output import (
    check_room,
    disk_full_as_user_error,
    environment,
    run_folder,
    write_run,
)
from classify.fit.strategy import fit_strategy
from classify.fit.training_rows import check_classes, norm_of, training_rows, usable
from classify.fit.two_classes import suited
from classify.heads.registry import distinct, is_solved
from classify.records import FitInputs, FitOptions, Fitted, TrainingRows
from classify.results.file import SCHEMA_VERSION, json_ready
from classify.wording import (
    answer_warnings,
    display_name,
    headline,
    setting_words,
    simpler_warnings,
    upper_first,
)
from data.common.cli import progress
from data.common.files import check_writable
from data.common.memory import default_memory, peak_memory_mb
from data.format.spec import KEY_DIGITS, TWICE, cropped_twice
from data.reading import read_header

if TYPE_CHECKING:
    from data.format.records import Features

# Letters of a folder's name: sums of many stores have long ones.
LONGEST_NAME = 200


def fit_store(
    path: Path, options: FitOptions, spread: Spread = nullcontext
) -> tuple[Path, dict[str, Any]]:
    """Train, evaluate and compare the strategies on a store; return the folder and its results.

    `spread`, from `classify.fit.cluster.on_cluster`, runs the few-shot fits. A `UserError` says why
    the store cannot be used, or the reports folder cannot be written.
    """
    begun, started = time.perf_counter(), datetime.now(timezone.utc)
    check_writable(options.reports_dir)
    inputs = _open_inputs(path, options)
    features = inputs.features
    load_seconds = time.perf_counter() - begun
    fitted = _fit_all(inputs)
    clock = time.perf_counter()
    more = analyse(inputs, fitted)
    analyse_seconds = time.perf_counter() - clock
    results = _results(inputs, fitted, more)
    results["numerics"] = numerics(features, inputs.X_test, fitted)
    results["timings"] = {
        "started": started.isoformat(timespec="seconds"),
        "load": load_seconds,
        **{
            step: {name: fit.seconds[step] for name, fit in fitted.items()}
            for step in ("select", "fit", "evaluate")
        },
        "analyse": analyse_seconds,
        # With the timings, since it depends on what was free at the time.
        "memory": inputs.room.memory,
        "peak_memory_mb": peak_memory_mb(),
    }
    results["images"] = gallery(features, fitted, options.data_dir)
    if options.data_dir and results["images"]["missing"]:
        results["warnings"].append(
            f"The report shows no images: --data-dir: {results['images']['missing']}."
        )
    if options.few_shot:
        _add_few_shot(results, inputs, fitted, spread)
    folder = options.reports_dir / store_name(features)
    with (
        disk_full_as_user_error(options.reports_dir, features, fitted),
        run_folder(folder, started) as (partial, place),
    ):
        write_run(partial, features, results, fitted, begun)
        final = place()
    return final, results


def _open_inputs(path: Path, options: FitOptions) -> FitInputs:
    """Open a store within its share of the memory, and refuse one that cannot be fitted."""
    memory = (options.memory or default_memory()) // options.share
    features, room = open_store(
        path, options.strategies, memory, options.jobs, options.normalize is not None,
        options.classes,
    )  # fmt: skip
    options = replace(options, normalize=norm_of(features, options.normalize))
    check_classes(features)
    options = suited(options, features)
    check_room(options.reports_dir, features, options.strategies)
    test = features.test
    return FitInputs(
        features,
        training_rows(features),
        usable(test.features),
        options,
        room,
        read_class_weights(
            options.class_weight, features.class_names, read_header(path).class_names
        ),
        units_of(test.groups, test.weights, len(test)),
    )


def _add_few_shot(
    results: dict[str, Any], inputs: FitInputs, fitted: Mapping[str, Fitted], spread: Spread
) -> None:
    """Measure accuracy against labelled images per class, with its warnings and its seconds."""
    clock = time.perf_counter()
    with spread():
        results["few_shot"] = few_shot(
            inputs.features,
            {name: fit.estimator for name, fit in fitted.items()},
            device=inputs.options.device,
            seed=inputs.options.seed,
            jobs=inputs.options.jobs,
            memory=inputs.room.solver,
            class_weight=inputs.class_weight,
            whole={name: fit.entry["test"]["accuracy"] for name, fit in fitted.items()},
        )
    results["timings"]["few_shot"] = time.perf_counter() - clock
    results["warnings"] += unconverged_warnings(results["few_shot"])
    results["warnings"] += results["few_shot"]["notes"]


def store_name(features: Features) -> str:
    """Name the folder of a store's runs, such as ``digits-test_efficientnet-64px-1a2b3c4d``."""
    dataset = str((features.spec.get("dataset") or {}).get("name", "dataset"))
    stores = [part.header.path for part in features.parts] or [Path(features.path)]
    name = re.sub(r"[^\w.-]+", "_", f"{dataset}-{'+'.join(path.stem for path in stores)}").lstrip(
        "."
    )
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{features.key[:KEY_DIGITS]}"


def _fit_all(inputs: FitInputs) -> dict[str, Fitted]:
    """Fit every strategy behind one progress bar; notes on the device become its warnings."""
    from classify.fit.other_heads import fit_other_head
    from classify.selection import C_GRID
    from classify.solver.backend import redirect_notes

    options = inputs.options
    grid = np.array(sorted(options.c_grid)) if options.c_grid else np.asarray(C_GRID)
    if options.c is not None:
        grid = np.array([options.c])
    n_fits = 1 + len(grid)  # of a head that the solver fits; others say how many they take
    fitted = {}
    notes: list[str] = []
    with (
        redirect_notes(notes.append),
        progress(len(options.strategies) * n_fits, "fit", "step") as bar,
    ):

        def on_fit(_: dict[str, Any]) -> None:
            bar.update(1)

        def on_total(n_steps: int) -> None:
            bar.total += n_steps - n_fits

        end = bar.total - len(options.strategies) * n_fits
        for strategy in options.strategies:
            bar.set_description(f"fit {display_name(strategy)}", refresh=False)
            before = bar.total
            if is_solved(strategy):
                fit = fit_strategy(strategy, inputs, grid, on_fit)
            else:
                fit = fit_other_head(strategy, inputs, on_total, bar.update)
            fitted[strategy] = replace(fit, warnings=(*fit.warnings, *notes))
            notes.clear()
            # A path that ended early made fewer fits than were planned.
            end += n_fits + bar.total - before
            bar.update(end - bar.n)
            if not bar.disable:
                bar.write(_line(strategy, fitted[strategy]), file=sys.stderr)
    return fitted


def _line(strategy: str, fit: Fitted) -> str:
    from classify.report.pages import percent, seconds, span

    entry = fit.entry
    tried = f" (of {len(entry['validation'])} tried)" if entry["validation"] else ""
    setting = f"{setting_words(entry['setting'])}{tried}, " if entry["setting"] else ""
    return (
        f"{upper_first(display_name(strategy))}: {setting}test accuracy "
        f"{percent(entry['test']['accuracy'])} % ({span(entry['test']['accuracy_ci95'])}), "
        f"choice {seconds(fit.seconds['select'])}, fit {seconds(fit.seconds['fit'])}"
    )


def _results(
    inputs: FitInputs, fitted: Mapping[str, Fitted], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Assemble results.json, but for what needs the images or more fits."""
    from classify.analysis.significance import compare_strategies, method_of

    features, train, test = inputs.features, inputs.train, inputs.features.test
    options = inputs.options
    n_known = min(len(fit.estimator.classes_) for fit in fitted.values())
    # With two classes some heads are one problem, and a comparison would be with itself.
    compared = distinct(fitted, n_known)
    comparisons = compare_strategies(
        test.labels,
        {name: fitted[name].predictions for name in compared},
        {name: fitted[name].entry["converged"] for name in compared},
        units=inputs.units,
    )
    always = majority(train.labels, test.labels, features.class_names, train.weights, test.weights)
    held = _held_rows(fitted)
    splits = describe_splits(
        features, None if train.groups is None or train.n_validation else train.groups[held]
    )
    strategies = {name: fit.entry for name, fit in fitted.items()}
    results = {
        "schema_version": SCHEMA_VERSION,
        "kind": "run",
        "verdict": headline(strategies, comparisons),
        "command": options.command,
        "store": {
            "path": str(features.path),
            "key": features.key,
            "spec": features.spec,
            "provenance": features.provenance,
            "request": features.request,
        },
        "seed": options.seed,
        "settings": _settings(inputs),
        "class_names": list(features.class_names),
        "n_train": len(features.train.labels),
        "n_validation": len(held),
        "n_test": len(test.labels),
        "splits": splits,
        "interval_method": interval_method(inputs.units),
        "n_features": int(features.train.features.shape[1]),
        "environment": environment(
            options.jobs, [fit.estimator.device_ for fit in fitted.values() if fit.solved]
        ),
        "strategies": strategies,
        "comparisons": comparisons,
        "comparison_method": method_of(comparisons),
        "one_problem": len(compared) == 1 < len(fitted),
        "majority": always,
        **more,
        "warnings": [
            *(text for fit in fitted.values() for text in fit.warnings),
            *_data_warnings(features),
            *split_warnings(splits),
            *_held_out_warnings(features, train, held),
            *answer_warnings(strategies, always, set(_names(features, train.labels))),
            *simpler_warnings(strategies, comparisons),
        ],
    }
    return json_ready(results)


def _held_rows(fitted: Mapping[str, Fitted]) -> npt.NDArray[np.intp]:
    """Return the rows that C was chosen on: the most of any head, where some took fewer."""
    held = [fit.held_rows for fit in fitted.values() if fit.held_rows is not None]
    return max(held, key=len, default=np.array([], dtype=np.intp))


def _held_out_warnings(
    features: Features, train: TrainingRows, held: npt.NDArray[np.intp]
) -> list[str]:
    """Say which classes C was chosen without, where groups or the given split leave some out."""
    if not len(held) or (train.groups is None and not train.n_validation):
        return []
    labels = train.labels if train.weights is None else train.labels[train.weights > 0]
    without = np.setdiff1d(labels, train.labels[held])
    if not len(without):
        return []
    names = ", ".join(features.class_names[i] for i in without[:5])
    more = f" and {len(without) - 5} more" if len(without) > 5 else ""
    why = (
        "the validation split has none of its images"
        if train.n_validation
        else "no group of it could be held out"
    )
    return [f"C was chosen without the class {names}{more}: {why}."]


def _settings(inputs: FitInputs) -> dict[str, Any]:
    from classify.selection import C_GRID, VALIDATION_FRACTION

    options, room, features = inputs.options, inputs.room, inputs.features
    auto, given = options.c is None, inputs.train.n_validation > 0
    weights = (inputs.train.weights, features.test.weights)
    chosen = inputs.class_weight
    if isinstance(chosen, dict):
        chosen = {features.class_names[label]: weight for label, weight in chosen.items()}
    return {
        "strategies": list(options.strategies),
        "classes": list(features.kept_classes) or None,
        "cost": None
        if options.cost is None
        else dict(zip(("FP", "FN"), options.cost, strict=True)),
        "c": "auto" if auto else options.c,
        "c_grid": list(options.c_grid or C_GRID) if auto else [],
        "full_path": options.full_path,
        "validation": "given" if given else VALIDATION_FRACTION,
        "validation_fraction": VALIDATION_FRACTION if auto and not given else None,
        "class_weight": chosen or "none",
        "weighted": any(found is not None for found in weights),
        "standardize": True,
        "fit_intercept": options.fit_intercept,
        "normalize": "l2" if options.normalize else "none",
        "max_iter": options.max_iter,
        "memory": options.memory,
        "out_of_core": room.out_of_core,
        "device": options.device,
        "few_shot": options.few_shot,
    }


def _names(features: Features, labels: npt.NDArray[np.int64]) -> list[str]:
    return [features.class_names[i] for i in np.unique(labels)]


def _data_warnings(features: Features) -> list[str]:
    from data.quality import odd_rows

    found = odd_rows(features)
    for split, labels in (("training", features.train.labels), ("test", features.test.labels)):
        missing = np.setdiff1d(np.arange(len(features.class_names)), labels)
        if len(missing):
            names = ", ".join(features.class_names[i] for i in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            found.append(f"No {split} image has the class {names}{more}.")
    skipped = (features.provenance or {}).get("skipped_images") or []
    if skipped:
        found.append(f"Stage one left out {len(skipped)} images that could not be decoded.")
    if cropped_twice(features.spec):
        found.append(f"This store was {TWICE}: run make features again, then fit the new store.")
    return found
