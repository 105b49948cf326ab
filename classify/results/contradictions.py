"""What parts of a results.json say of each other, where each has the right shape."""

from __future__ import annotations

from typing import Any

from classify.results.binary_shape import binary_contradiction
from classify.results.shape import CERTIFICATE
from classify.wording import COUNTS
from data.common.shapes import mismatch
from data.format.spec import PROVENANCE_SHAPE, SPEC_SHAPE


def first_contradiction(results: dict[str, Any]) -> str:
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
            found := mismatch(certificate, CERTIFICATE, f"strategies.{name}.certificate")
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
    return _in_optional_parts(results, n_classes)


def _in_optional_parts(results: dict[str, Any], n_classes: int) -> str:
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
