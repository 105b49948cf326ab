"""What a page and the terminal say of heads that tell two classes apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classify.heads.registry import distinct
from classify.report.figures.binary import drawn_heads, judged_heads
from classify.report.pages import cost_ends, cost_text, ends
from classify.wording import display_name, points, upper_first

_WHY = {
    "fixed": "",
    "false positive rate": "false positive rate at most {target}",
    "true positive rate": "true positive rate at least {target}",
    "F1": "largest F1",
    "cost": "least cost",
}


def two_classes(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Prepare what the section on two classes shows; None where there are not two."""
    heads = drawn_heads(results)
    if not heads:
        return None
    names, first = results["class_names"], next(iter(heads.values()))
    positive, negative = names[first["positive"]], names[first["negative"]]
    settings = results["settings"].get("cost")
    n_same = len(results["strategies"]) - len(distinct(results["strategies"], 2))
    return {
        "positive": positive,
        "negative": negative,
        "heads": heads,
        "every": judged_heads(results),
        "first": first,
        "alike": n_same > 0,
        "drawn": "groups, whole," if _grouped(results) else "images of each class",
        "resampled": results.get("interval_method", "Wilson") != "Wilson",
        "cost": settings and f"FP={settings['FP']:g}, FN={settings['FN']:g}",
        "cost_sentences": [cost_sentence(results, name) for name in heads] if settings else [],
        "against": {
            "half": "above 0.5, the more probable class",
            "probabilities": "above FP / (FP + FN), which calibrated probabilities call for",
            "always_negative": f"always {negative}",
            "always_positive": f"always {positive}",
        },
        "why": {name: [_why(row) for row in entry["thresholds"]] for name, entry in heads.items()},
    }


def _grouped(results: Mapping[str, Any]) -> bool:
    return results.get("interval_method") == "bootstrap of groups"


def _why(row: Mapping[str, Any]) -> str:
    target = "" if row["target"] is None else f"{points(row['target'], 0)} %"
    words = _WHY.get(row["kind"], row["kind"]).format(target=target)
    if row["kind"] == "cost" and row["chosen_on"] is None:
        return f"{words}, if probabilities are right"
    return words


def cost_sentence(results: Mapping[str, Any], name: str) -> str:
    """Say what the chosen threshold costs on the test images, and what other answers cost."""
    binary = results["strategies"][name]["binary"]
    cost, names = binary["cost"], results["class_names"]
    half = cost["against"]["half"]
    positive, negative = names[binary["positive"]], names[binary["negative"]]
    where = (
        f"chosen on {binary['n_validation']:,} validation images"
        if cost["chosen_on"]
        else "which is FP / (FP + FN), since no validation images could choose one"
    )
    always = min(("always_negative", "always_positive"), key=lambda k: cost["against"][k]["cost"])
    cheaper = cost["against"][always]
    answer = negative if always == "always_negative" else positive
    low, high = half["difference_ci95"]
    verdict = "cheaper" if high < 0 else "dearer" if low > 0 else "no detectable difference"
    return (
        f"{upper_first(display_name(name))}: {positive} where its probability is above "
        f"{cost['threshold']:.3g}, {where}, costs {cost_text(cost['cost'])} a test image (95 % "
        f"interval {cost_ends(cost['cost_ci95'])}). With the threshold "
        f"0.5 it costs {cost_text(half['cost'])}; the chosen one differs from that by "
        f"{cost_text(half['difference'])} ({cost_ends(half['difference_ci95'])}: {verdict}). "
        f"Always answering {answer} costs "
        f"{cost_text(cheaper['cost'])}. For such answers: predict --threshold "
        f"{cost['threshold']:.4g}."
    )


def terminal_lines(results: Mapping[str, Any]) -> list[str]:
    """Say in a line a head how it ranks, and what it costs."""
    told, names = [], results["class_names"]
    for name, binary in drawn_heads(results).items():
        pair = f"{names[binary['positive']]} against {names[binary['negative']]}"
        told.append(
            f"{upper_first(display_name(name))}, {pair}: area under the ROC curve "
            f"{binary['auc']:.3f} ({ends(binary['auc_ci95'])}), average precision "
            f"{binary['average_precision']:.3f} ({ends(binary['average_precision_ci95'])})"
        )
        if binary["cost"]:
            told.append(cost_sentence(results, name))
    return told


def metrics_columns(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Give what metrics.csv has of a head of two classes."""
    binary = entry.get("binary") or {}
    cost, area = binary.get("cost") or {}, binary.get("auc_ci95") or [None, None]
    return {
        "auc": binary.get("auc"),
        "auc_low": area[0],
        "auc_high": area[1],
        "average_precision": binary.get("average_precision"),
        "cost_threshold": cost.get("threshold"),
        "cost": cost.get("cost"),
    }
