"""The report of a run: reads results.json, and nothing else, and shows what is in it.

``report.html`` is one file that opens without a network; ``report.md`` says the same with links to
``figures/*.svg``.
"""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from classify.report.figures import accuracy as figures_accuracy
from classify.report.figures import binary as figures_binary
from classify.report.figures import calibration as figures_calibration
from classify.report.figures import classes as figures_classes
from classify.report.figures import course as figures_made
from classify.report.figures import decoding as figures_decoding
from classify.report.figures import few_shot as figures_few_shot
from classify.report.figures import pairs as figures_pairs
from classify.report.figures import training as figures_training
from classify.report.figures import validation as figures_validation
from classify.report.figures import views as figures_views
from classify.report.figures.style import PALETTE
from classify.report.heads import heads_context
from classify.report.pages import TEMPLATES, render_html, render_markdown, write_pages
from classify.report.runs import read_results
from classify.report.split_words import (
    chosen_words,
    given,
    interval_words,
    split_sentences,
    splits_of,
)
from classify.report.two_classes import metrics_columns, two_classes
from classify.results.file import FILE_NAME
from classify.results.names import backbone_name, dataset_name, has_random_weights
from classify.wording import (
    decoding_sentence,
    display_name,
    labels_sentence,
    procedure,
    setting_of,
    setting_words,
)
from data.common.cli import progress
from data.common.files import write_text
from data.format.spec import IMPORTED, is_imported

# In the order of the page; each has a function `draw`, from results to SVG documents by name.
FIGURES = (
    figures_accuracy,
    figures_binary,
    figures_classes,
    figures_pairs,
    figures_calibration,
    figures_decoding,
    figures_validation,
    figures_few_shot,
    figures_training,
    figures_views,
    figures_made,
)
# The parts of the page, in the order of the numbers in their file names.
SECTIONS = sorted(
    path.name.removesuffix(".html.j2") for path in (TEMPLATES / "report").glob("[0-9]*.html.j2")
)
CONFUSED_SHOWN = 10
# Tables with a row for each of more classes than this are folded.
LONG = 50


def write_report(folder: Path) -> Path:
    """Write report.html, report.md, metrics.csv and figures/ from the results.json of a run."""
    results = read_results(folder / FILE_NAME)
    figures = draw_figures(results)
    context = report_context(results)
    write_metrics(folder / "metrics.csv", results)
    write_pages(
        folder,
        render_html("report.html.j2", figures, **context),
        render_markdown("report.md.j2", figures, **context),
        figures,
    )
    return folder / "report.html"


def write_metrics(path: Path, results: Mapping[str, Any]) -> None:
    """Write the numbers of section 2 as CSV, one row a strategy."""
    majority = results.get("majority")
    rows = [metrics_row(name, entry, majority) for name, entry in results["strategies"].items()]
    if two_classes(results):
        for row, entry in zip(rows, results["strategies"].values(), strict=True):
            row.update(metrics_columns(entry))
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, rows[0], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def metrics_row(
    name: str, entry: Mapping[str, Any], majority: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Flatten what is known of a strategy."""
    test, certificate = entry["test"], entry["certificate"] or {}
    calibration = entry.get("calibration") or {}
    after = calibration.get("after") or {}
    low, high = test["accuracy_ci95"]
    measured = ("balanced_accuracy", "macro_f1", "top2_accuracy", "log_loss", "brier", "ece")
    return {
        "strategy": name,
        "n_test": test["n"],
        "accuracy": test["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        **{key: test[key] for key in measured},
        "temperature": calibration.get("temperature"),
        "calibrated_log_loss": after.get("log_loss"),
        "calibrated_ece": after.get("ece"),
        "C": entry["C"],
        "setting": setting_words(setting_of(entry)),
        "n_problems": entry["n_problems"],
        "fit_seconds": entry["fit_seconds"],
        "predict_seconds": entry.get("predict_seconds"),
        "n_iter": entry["n_iter"],
        "converged": entry["converged"],
        "never_answered": len(entry["never_answered"]) if "never_answered" in entry else None,
        "majority_accuracy": None if majority is None else majority["test_accuracy"],
        **{key: certificate.get(key) for key in ("objective", "gap_bound", "relative_gap")},
    }


def draw_figures(results: Mapping[str, Any]) -> dict[str, str]:
    """Draw every figure of a run."""
    figures = {}
    with progress(len(FIGURES), "figures", "part") as bar:
        for module in FIGURES:
            figures.update(module.draw(results))
            bar.update(1)
    return figures


def most_confused(
    strategies: Mapping[str, Any], class_names: Sequence[str], n: int = CONFUSED_SHOWN
) -> list[dict[str, Any]]:
    """List the errors that are made most often, summed over the strategies."""
    matrices = [entry["test"]["confusion_matrix"] for entry in strategies.values()]
    support = [sum(row) for row in matrices[0]]
    errors = [
        (sum(counts), -i, -j, counts)
        for i in range(len(class_names))
        for j in range(len(class_names))
        if i != j and any(counts := [matrix[i][j] for matrix in matrices])
    ]
    return [
        {
            "truth": class_names[-i],
            "answer": class_names[-j],
            "support": support[-i],
            "counts": counts,
        }
        for _, i, j, counts in sorted(errors, reverse=True)[:n]
    ]


def extract_command(store: Mapping[str, Any]) -> str:
    """Rebuild the command that makes the store, from what it remembers of the request.

    Of stores side by side, the command of each, one after the other.
    """
    request = store.get("request") or {}
    parts = (store.get("spec") or {}).get("parts")
    if parts:
        requests = request.get("parts") or [{}] * len(parts)
        each = [
            extract_command({"request": asked, "spec": spec})
            for asked, spec in zip(requests, parts, strict=False)
        ]
        return " && ".join(each) if all(each) else ""
    options, files = request.get("options") or {}, request.get("files") or {}
    if is_imported(store.get("spec") or {}):
        return _import_command(options)
    if not options.get("model"):
        return ""
    words = ["python", "-m", "extract"]
    source = str((files.get("dataset") or {}).get("path", ""))
    dataset = str(options.get("dataset", ""))
    if dataset in ("cifar10", "cifar100"):
        words.append(f"--dataset={dataset}")
        if source:
            words.append(f"--data-dir={Path(source).parent}")
    else:
        words.append(f"--dataset={dataset if dataset == 'digits' else source or dataset}")
    weights = options.get("weights")
    if weights == "file":
        weights = (files.get("weights") or {}).get("path", "FILE.safetensors")
    words += [f"--model={options['model']}", f"--weights={weights}"]
    words += [
        f"--model-arg={key}={value}" for key, value in (options.get("model_args") or {}).items()
    ]
    usual = {"pool": "default", "precision": "auto", "store_dtype": "float32", "device": "auto"}
    done = {"dataset", "weights", "model", "model_args"}
    for key, value in options.items():
        if key in done or value is None or usual.get(key) == value:
            continue
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words.append(f"--{key.replace('_', '-')}={text}")
    return " ".join(shlex.quote(word) for word in words)


def _import_command(options: Mapping[str, Any]) -> str:
    """Rebuild the command that imported the features; the files are named as they were called."""
    words = ["python", "-m", "data", "import", *map(str, options.get(IMPORTED) or [])]
    names = {"labels": "label", "groups": "group", "weights": "weight", "ids": "id"}
    words += [f"--name={options.get('dataset')}"]
    words += [
        f"--{names.get(role, role)}-column={name}"
        for role, name in (options.get("columns") or {}).items()
    ]
    for key in ("features_path", "labels_path"):
        for split, name in options.get(key) or []:
            words.append(f"--{key.replace('_', '-')}={f'{split}=' if split else ''}{name}")
    for key in ("merge_classes", "drop_class"):
        words += [f"--{key.replace('_', '-')}={value}" for value in options.get(key) or []]
    usual = {"model": IMPORTED, "store_dtype": "auto"}
    for key in ("model", "obsm", "class_names", "test_fraction", "seed", "store_dtype"):
        if options.get(key) not in (None, usual.get(key)):
            words.append(f"--{key.replace('_', '-')}={options[key]}")
    return " ".join(shlex.quote(word) for word in words)


def provenance_rows(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten where the numbers come from into rows of a table."""
    store = results["store"]
    rows = [("store", store["path"]), ("key of the store", store["key"])]
    specs, parts = store["spec"].get("parts"), store["provenance"].get("parts") or []
    if specs and len(specs) == len(parts):
        for i, (spec, part) in enumerate(zip(specs, parts, strict=True), start=1):
            found = [("path", part["path"]), ("key", part["key"])]
            found += _store_rows(spec, part["provenance"])
            rows += [(f"store {i}: {what}", value) for what, value in found]
    else:
        rows += _store_rows(store["spec"], store["provenance"])
    rows += [
        (f"classification: {key}", _plain(value)) for key, value in results["environment"].items()
    ]
    rows += [(f"setting: {key}", _plain(value)) for key, value in results["settings"].items()]
    rows += [(f"timing: {key}", _plain(value)) for key, value in results["timings"].items()]
    return [(what.replace("_", " "), value) for what, value in rows]


def _store_rows(spec: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten what a store says of itself."""
    groups = ("dataset", "model", "preprocessing")
    rows = [
        (f"{group}: {key}", _plain(value))
        for group in groups
        for key, value in (spec.get(group) or {}).items()
    ]
    rows += [
        (key.replace("_", " "), _plain(value)) for key, value in spec.items() if key not in groups
    ]
    return rows + [(f"extraction: {key}", _plain(value)) for key, value in provenance.items()]


def _plain(value: Any) -> str:
    """Write a JSON value for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        if len(value) > 8:
            return f"{_plain(value[:3])}, ... {_plain(value[-1:])} ({len(value)} values)"
        return ", ".join(_plain(item) for item in value) or "none"
    return str(value)


def report_context(results: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare what the templates of a run show."""
    spec = results["store"]["spec"]
    strategies = results["strategies"]
    comparisons = results["comparisons"]
    question = [c for c in comparisons if {c["a"], c["b"]} == {"ovr", "ovo"}]
    few_shot = results.get("few_shot")
    n_groups = (splits_of(results)["groups"] or {}).get("test")
    return {
        "procedure": procedure(comparisons),
        "intervals": interval_words(results.get("interval_method"), n_groups),
        "chosen": chosen_words(results),
        "given": given(results),
        "split_sentences": split_sentences(results),
        "grouped": n_groups is not None,
        "headings": {
            name: display_name(name) + ("" if entry["converged"] else " (not converged)")
            for name, entry in strategies.items()
        },
        "majority": results.get("majority"),
        "never_answered": all("never_answered" in entry for entry in strategies.values()),
        **heads_context(results),
        "two": two_classes(results),
        "late": {
            name: late
            for name, entry in strategies.items()
            if entry["C"] is not None
            and (late := [s["C"] for s in entry["validation"] if not s.get("converged", True)])
        },
        "few_late": any(
            False in point.get("converged", ())
            for curve in (few_shot or {}).get("curves", {}).values()
            for point in curve
        ),
        "sections": SECTIONS,
        "results": results,
        "strategies": strategies,
        "dataset": dataset_name(results),
        "backbone": backbone_name(spec),
        "random_weights": has_random_weights(spec),
        "question": question[0] if question else None,
        "confused": most_confused(
            {name: strategies[name] for name in figures_classes.shown_heads(strategies)},
            results["class_names"],
        ),
        "names": results["class_names"],
        "wide": 12 < len(results["class_names"]) <= figures_classes.LEGIBLE_CLASSES,
        "coarse": len(results["class_names"]) > figures_classes.CELLS,
        "long": len(results["class_names"]) > LONG,
        "slopes": figures_classes.SLOPES,
        "detection_curves": figures_pairs.CURVES,
        "few": figures_calibration.FEW,
        "colours": len(PALETTE),
        "calibrated": {
            name: entry["calibration"]
            for name, entry in strategies.items()
            if entry.get("calibration")
        },
        "variants": bool(results.get("decoding")),
        "decoding_words": decoding_sentence(results),
        "legible": len(results["class_names"]) <= figures_classes.LEGIBLE_CLASSES,
        "numerics": results.get("numerics"),
        "few_shot": few_shot,
        "gallery": results.get("images"),
        "few_shot_rows": list(zip(*few_shot["curves"].values(), strict=True)) if few_shot else [],
        "labels_sentence": labels_sentence(few_shot) if few_shot else "",
        "extract_command": extract_command(results["store"]),
        "provenance": provenance_rows(results),
    }
