"""results.json: made safe for JSON when written, checked when read.

The report and the comparison read nothing but this file (and, for paired tests between runs, the
predictions beside it), so whatever they rely on is checked here once, and a damaged or foreign file
is refused with the place that is wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from classify.binary_shape import BINARY, binary_contradiction
from classify.wording import COUNTS
from data.common.errors import UserError
from data.common.shapes import mismatch
from data.format.spec import IMPORTED, PROVENANCE_SHAPE, SPEC_SHAPE, is_imported, specs_of

SCHEMA_VERSION = 1
FILE_NAME = "results.json"

_Number = (int, float)
_Maybe = (int, float, None)
_PER_CLASS = {"precision": _Number, "recall": _Number, "f1": _Number, "support": int}
_TEST = {
    "n": int,
    "accuracy": _Number,
    "accuracy_ci95": [_Number],
    "balanced_accuracy": _Number,
    "macro_f1": _Number,
    "log_loss": _Maybe,
    "brier": _Maybe,
    "ece": _Maybe,
    "top2_accuracy": _Number,
    "per_class": {"*": _PER_CLASS},
    "confusion_matrix": [[int]],
}
_JUDGED = {
    "log_loss": _Maybe,
    "ece": _Number,
    "bins": [{"n": int, "confidence": _Number, "accuracy": _Number}],
}
_EXAMPLE = {"row": int, "id": str, "truth": int, "answer": int, "margin": _Number}
_PAIR = {
    "a": int,
    "b": int,
    "accuracy": _Number,
    "n": int,
    "errors": int,
    "a_as_b": int,
    "b_as_a": int,
    "converged?": bool,
    "examples": [_EXAMPLE],
}
_SHARE = {"accuracy": _Number, "accuracy_ci95": [_Number], "converged?": bool}
# A question mark: what runs of before it do not have, or what makes no sense for some runs.
_CERTIFICATE = {"grad_norm": _Maybe, "objective": _Maybe, "gap_bound": _Maybe}
_STEP = {
    "C": _Maybe,
    "setting?": dict,
    "accuracy": _Maybe,
    "log_loss": _Maybe,
    "converged?": bool,
}
_STRATEGY = {
    "C": _Maybe,
    "setting?": dict,
    "n_problems": int,
    "fit_seconds": _Number,
    "predict_seconds?": _Number,
    "n_iter": (int, None),
    "converged": bool,
    "certificate": (dict, None),
    "notes?": {
        "curves?": {
            "loss": [_Number],
            "accuracy": [_Number],
            "validation_loss": [_Number],
            "validation_accuracy": [_Number],
        }
    },
    "saved?": {"file": str, "linear": bool, "bytes": int},
    "validation": [_STEP],
    "validation_not_visited": [_Number],
    "test": _TEST,
    "never_answered?": [str],
    "calibration?": {
        "temperature": _Maybe,
        "n_validation": int,
        "converged?": bool,
        "before": _JUDGED,
        "after?": _JUDGED,
    },
    "binary?": BINARY,
    "course?": {"classes": [int], "relative_gaps": [_Number]},
    "pairs?": {"classes": [int], "accuracy": [[_Maybe]], "hardest": [_PAIR]},
    "detection?": {
        "classes": [
            {"class": int, "auc": _Number, "average_precision": _Number, "converged?": bool}
        ],
        "false_alarms": [_Number],
        "curves": [[_Number]],
    },
}
_VIEW = {"points": [[_Number]], "explained": [_Number]}
_COMPARISON = {
    "a": str,
    "b": str,
    "accuracy_difference": _Number,
    "difference_ci95": [_Number],
    "mcnemar_p": _Number,
    "mcnemar_p_holm": _Number,
    "mcnemar_p_adjusted?": _Number,
    "n_tests?": int,
    "both_right": int,
    "only_a_right": int,
    "only_b_right": int,
    "both_wrong": int,
    "agreement": _Number,
    "detectable_difference": _Maybe,
    "test_rows_needed?": int,
    "n_groups?": (int, None),
    "group_differences?": [[_Number]],
    "significant": bool,
    "converged": bool,
    "verdict": str,
}
_POINT = {
    "per_class": (int, None),
    "n_train": int,
    "accuracies": [_Number],
    "converged?": [bool],
    "mean": _Number,
    "ci95": (list, None),
}
_SHARED = {"a": str, "b": str, "n": int, "n_rows": int, "first": [str]}
_PICTURE = {
    "id": str,
    "truth": str,
    "answers": {"*": {"class": str, "probability": _Number, "right": bool}},
}
_RUN = {
    "kind": str,
    "store": {"path": str, "key": str, "spec": dict, "provenance": dict},
    "seed": int,
    "command": str,
    "settings": dict,
    "class_names": [str],
    "n_train": int,
    "n_validation?": int,
    "n_test": int,
    "splits?": {
        "groups": ({"*": int}, None),
        "shared_groups": ([_SHARED], None),
        "shared_images": ([_SHARED], None),
    },
    "interval_method?": str,
    "n_features": int,
    "environment": dict,
    "strategies": {"*": _STRATEGY},
    "comparisons": [_COMPARISON],
    "comparison_method?": str,
    "one_problem?": bool,
    "majority?": {"class": str, "train_share": _Number, "test_accuracy": _Number},
    "verdict": str,
    "warnings": [str],
    "timings": dict,
    "class_order?": [int],
    "decoding?": [{"way": str, "temperature": _Maybe, "log_loss": _Maybe, **_SHARE}],
    "own_c?": {"*": {"C": [_Number], **_SHARE}},
    "views?": {
        "n_fitted": int,
        "rows": [int],
        "labels": [int],
        "pca": _VIEW,
        "lda": {"components": int, **_VIEW},
    },
    "few_shot?": {
        "draws": int,
        "level": _Number,
        "near": _Number,
        "curves": {"*": [_POINT]},
        "enough": {"*": (int, None)},
        "left_out": [int],
        "notes?": [str],
    },
    "numerics?": {
        "stored": str,
        "cases": [{"features": str, "against": str, "n": int, "flips": {"*": int}}],
    },
    "images?": {
        "disagreements": [_PICTURE],
        "confident_errors": [_PICTURE],
        "n_disagreements": int,
        "thumbnails": {"*": str},
        "missing": str,
    },
}


def json_ready(value: Any) -> Any:
    """Turn numpy values into plain ones and what JSON has no word for into null."""
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        kinds = set(map(type, value))
        # Long lists are of numbers: a million in the confusion matrix of a thousand classes.
        if kinds <= {int, str} or (kinds == {float} and all(map(math.isfinite, value))):
            return list(value)
        return [json_ready(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _inconsistency(results: dict[str, Any]) -> str:
    """Name the first contradiction between parts that each have the right shape."""
    n_classes = len(results["class_names"])
    if n_classes < 2 or not results["strategies"]:
        return "it holds no strategy or fewer than two classes"
    for name, shape in (("spec", SPEC_SHAPE), ("provenance", PROVENANCE_SHAPE)):
        if found := mismatch(results["store"][name], shape, f"store.{name}"):
            return found
    for name, entry in results["strategies"].items():
        test, where = entry["test"], f"strategies.{name}.test"
        matrix = test["confusion_matrix"]
        if len(matrix) != n_classes or any(len(row) != n_classes for row in matrix):
            return f"{where}.confusion_matrix is not {n_classes} x {n_classes}"
        if set(test["per_class"]) != set(results["class_names"]):
            return f"{where}.per_class does not name the classes of class_names"
        if len(test["accuracy_ci95"]) != 2:
            return f"{where}.accuracy_ci95 is not a pair"
        certificate = entry["certificate"]
        if certificate is not None and (
            found := mismatch(certificate, _CERTIFICATE, f"strategies.{name}.certificate")
        ):
            return found
    curves = (results.get("few_shot") or {}).get("curves", {})
    for name, curve in curves.items():
        counts = [[point["per_class"] for point in other] for other in curves.values()]
        if name not in results["strategies"] or not curve or counts.count(counts[0]) < len(counts):
            return f"few_shot.curves.{name} does not fit the others, or the strategies"
        for point in curve:
            ends = point.get("converged")
            if ends is not None and len(ends) != len(point["accuracies"]):
                return f"few_shot.curves.{name} has points with more or fewer fits than accuracies"
    images = results.get("images")
    if images and not images["missing"]:
        for entry in (*images["disagreements"], *images["confident_errors"]):
            if not images["thumbnails"].get(entry["id"], "").startswith("data:image/"):
                return f"images.thumbnails has no image {entry['id']}"
    for i, case in enumerate((results.get("numerics") or {}).get("cases", [])):
        if set(case["flips"]) != set(results["strategies"]):
            return f"numerics.cases[{i}].flips does not name the strategies"
    for i, comparison in enumerate(results["comparisons"]):
        if not {comparison["a"], comparison["b"]} <= set(results["strategies"]):
            return f"comparisons[{i}] names a strategy that is not in strategies"
        if len(comparison["difference_ci95"]) != 2:
            return f"comparisons[{i}].difference_ci95 is not a pair"
        for row in comparison.get("group_differences", []):
            if len(row) != 3 or not row[1] > 0 or not 0 < row[2] <= results["n_test"]:
                return f"comparisons[{i}].group_differences are not [difference, weight, count]"
        counted = [comparison[name] for name in COUNTS]
        if min(counted) < 0 or sum(counted) != results["n_test"] or not sum(counted):
            return f"comparisons[{i}] does not count the n_test test images"
    return _contradiction(results, n_classes)


def _contradiction(results: dict[str, Any], n_classes: int) -> str:
    """Name the first contradiction in the parts that a run may lack."""
    named: dict[str, list[int]] = {}  # class indices by where they are
    order = results.get("class_order")
    if order is not None and sorted(order) != list(range(n_classes)):
        return "class_order does not name every class once"
    for name, entry in results["strategies"].items():
        where = f"strategies.{name}"
        if course := entry.get("course"):
            named[f"{where}.course"] = course["classes"]
            if not course["relative_gaps"]:
                return f"{where}.course.relative_gaps is empty"
        if pairs := entry.get("pairs"):
            named[f"{where}.pairs"] = list(pairs["classes"])
            for pair in pairs["hardest"]:
                named[f"{where}.pairs"] += [pair["a"], pair["b"]]
                for example in pair["examples"]:
                    named[f"{where}.pairs"] += [example["truth"], example["answer"]]
            lengths = [len(row) for row in pairs["accuracy"]]
            if lengths != list(range(len(pairs["classes"]) - 1, 0, -1)):
                return f"{where}.pairs.accuracy is not a triangle"
        if binary := entry.get("binary"):
            named[f"{where}.binary"] = [binary["negative"], binary["positive"]]
            if problem := binary_contradiction(binary):
                return f"{where}.binary.{problem}"
        if detection := entry.get("detection"):
            named[f"{where}.detection"] = [item["class"] for item in detection["classes"]]
            if any(len(c) != len(detection["false_alarms"]) for c in detection["curves"]):
                return f"{where}.detection.curves have not the length of false_alarms"
    if views := results.get("views"):
        named["views"] = views["labels"]
        for kind in ("pca", "lda"):
            found = views[kind]["points"]
            if len(found) != len(views["labels"]) or any(len(point) != 2 for point in found):
                return f"views.{kind}.points are not a pair for each label"
    if not set(results.get("own_c") or {}) <= set(results["strategies"]):
        return "own_c names a strategy that is not in strategies"
    if results.get("decoding") and "ovo" not in results["strategies"]:
        return "decoding is there without ovo"
    for where, classes in named.items():
        if any(not 0 <= i < n_classes for i in classes):
            return f"{where} names a class that is not in class_names"
    return ""


def load_json(path: Path) -> dict[str, Any]:
    """Read a results.json of any kind, a run's or a comparison's, checking only its version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; give a folder that `classify fit` wrote"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({error}); it is damaged or not ours: fit again, or remove it"
        ) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise UserError(
            f"{path} has no schema_version, so `classify fit` did not write it; "
            "give the folder of a run"
        )
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, newer than {SCHEMA_VERSION}, the newest that "
            "this Icebox reads; update Icebox, or fit again with this one"
        )
    return content


def read_run(path: Path) -> dict[str, Any]:
    """Read a run's results.json and check everything that the report and comparison rely on."""
    results = load_json(path)
    problem = mismatch(results, _RUN, "it") or _inconsistency(results)
    if problem:
        raise UserError(
            f"{path} is not the results of a run: {problem.removeprefix('it.')}; "
            "it is damaged or not ours: fit again, or remove it"
        )
    return results


def backbone_name(spec: dict[str, Any]) -> str:
    """Name a store's backbone as people do: model, size, what of it; ``A + B`` of a sum."""
    if spec.get("parts"):
        return " + ".join(map(backbone_name, specs_of(spec)))
    model = spec.get("model") or {}
    if is_imported(spec):
        name = str(model.get("name", IMPORTED))
        return "imported features" if name == IMPORTED else f"{name}, imported"
    size = (spec.get("preprocessing") or {}).get("image_size")
    name = str(model.get("name", "unknown backbone"))
    if name == "pixels":  # of the image itself; see `extract.model.pixels`
        name = "raw pixels"
    if isinstance(size, (list, tuple)):
        size = "x".join(str(side) for side in size)
    if size is not None:
        name += f" {size} px"
    name += _feature_words(spec)
    if has_random_weights(spec):
        name += ", random weights"
    return name


def _feature_words(spec: Mapping[str, Any]) -> str:
    """Say which of a network's features they are; nothing of those that its own head takes."""
    pool, layer = str(spec.get("pool", "default")), spec.get("layer")
    words = [] if pool == "default" else [pool]
    if layer is not None:
        last = str(layer).removeprefix("last")
        words.append(f"layer {layer}" if last == layer else f"last {last} layers")
    return f", {' of '.join(words)}" if words else ""


def dataset_name(results: Mapping[str, Any]) -> str:
    """Name the data set of a run, with the classes where some were chosen."""
    name = str((results["store"]["spec"].get("dataset") or {}).get("name", "unknown dataset"))
    classes = results["settings"].get("classes")
    # The order of two says which one is positive, and the images are the same.
    return f"{name} ({', '.join(sorted(classes))})" if classes else name


def has_random_weights(spec: dict[str, Any]) -> bool:
    """Tell whether a store was made by a backbone that was never trained."""
    if spec.get("parts"):
        return any(map(has_random_weights, specs_of(spec)))
    weights = (spec.get("model") or {}).get("weights")
    return isinstance(weights, dict) and weights.get("source") == "random"
