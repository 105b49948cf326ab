"""What the page of a run shows of its heads: in which order, with which settings, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from classify.report.figures.classes import shown_heads
from classify.report.pages import bytes_text
from classify.wording import setting_of, setting_words

# More heads than this are rows of a table, best first, and not its columns.
MANY = 4


def heads_context(results: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare what pages show of heads: their order, settings and files, and the best's tests."""
    strategies = results["strategies"]
    ranked = sorted(
        strategies,
        key=lambda name: (-strategies[name]["test"]["accuracy"], not strategies[name]["converged"]),
    )
    many = len(strategies) > MANY
    others = {name: entry for name, entry in strategies.items() if entry["C"] is None}
    solved = {name: entry for name, entry in strategies.items() if name not in others}
    return {
        "ranked": ranked,
        "judged": {name: calibrated(entry) for name, entry in strategies.items()},
        "many": many,
        "others": bool(others),
        "solved": bool(solved),
        "settings": {name: setting_words(setting_of(entry)) for name, entry in strategies.items()},
        "sizes": {name: _file_words(entry.get("saved")) for name, entry in strategies.items()},
        "matrices": shown_heads(strategies),
        "best_pairs": best_pairs(results["comparisons"], ranked[0]) if many else [],
        "given_C": {name: entry for name, entry in solved.items() if not entry["validation"]},
        "tried": {name: _tried(entry) for name, entry in others.items() if entry["validation"]},
        "alone": [name for name, entry in others.items() if not entry["validation"]],
    }


def _file_words(saved: Mapping[str, Any] | None) -> str:
    """Say how large a head's file is, and whether it holds the weights of a linear head."""
    if saved is None:
        return bytes_text(None)
    return bytes_text(saved["bytes"]) + ("" if saved["linear"] else ", not linear")


def calibrated(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how far a head's probabilities can be believed, as `predict` gives them."""
    found: Mapping[str, Any] = (entry.get("calibration") or {}).get("after") or entry["test"]
    return found


def _tried(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the settings that a head's was chosen from."""
    chosen = setting_of(entry)
    return [
        {
            "words": setting_words(step["setting"]),
            "chosen": step["setting"] == chosen,
            "accuracy": step["accuracy"],
            "log_loss": step["log_loss"],
            "converged": step.get("converged", True),
        }
        for step in entry["validation"]
    ]


def best_pairs(comparisons: Sequence[Mapping[str, Any]], best: str) -> list[dict[str, Any]]:
    """Turn the comparisons of the best head so that each says how far another is behind."""
    found = []
    for c in comparisons:
        if best not in (c["a"], c["b"]):
            continue
        ahead = c["a"] == best
        low, high = c["difference_ci95"]
        words = "yes" if c["significant"] else "cannot be told"
        found.append(
            {
                "other": c["b"] if ahead else c["a"],
                "difference": c["accuracy_difference"] if ahead else -c["accuracy_difference"],
                "ci95": [low, high] if ahead else [-high, -low],
                "p": c["mcnemar_p_adjusted"],
                "words": words if c["converged"] else "not converged: no verdict",
            }
        )
    return sorted(found, key=lambda pair: pair["difference"])
