"""Numbers and verdicts in plain words, the same on the terminal, in the report and in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

NAMES = {"multinomial": "multinomial", "ovr": "OvR", "ovo": "OvO"}
# The one line of a page that says how its paired tests were done.
PROCEDURE = (
    "Exact McNemar tests and PropImp intervals (Newcombe 2011), all of a page adjusted together in "
    "a single step (Bonferroni; Dunn 1961): an interval excludes 0 exactly when the adjusted p is "
    "below 0.05."
)


def display_name(strategy: str) -> str:
    """How a strategy is called in text for people.

    Parameters
    ----------
    strategy : str
        The name that commands and files use.

    Returns
    -------
    str
        ``OvR`` for ``ovr`` and so on; unknown names stay as they are.
    """
    return NAMES.get(strategy, strategy)


def upper_first(text: str) -> str:
    """Capitalise the first letter and leave the rest alone (``ovR`` is not ``Ovr``).

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        The same with an upper-case first letter.
    """
    return text[:1].upper() + text[1:]


def points(share: float, digits: int = 2) -> str:
    """Write a share as percentage points without a sign for zero: ``0.0042`` is ``0.42``.

    Parameters
    ----------
    share : float
        A share or a difference of shares.
    digits : int
        Digits after the point.

    Returns
    -------
    str
        With a proper minus sign.
    """
    text = f"{100.0 * share:.{digits}f}"
    if float(text) == 0.0:
        text = text.lstrip("-")
    return text.replace("-", "\N{MINUS SIGN}")


def limit(share: float) -> str:
    """Write a limit of an interval in points, with as many digits as tell it from zero."""
    digits = 2
    while share and digits < 20 and float(f"{100.0 * share:.{digits}f}") == 0.0:
        digits += 1
    return points(share, digits)


def points_up(share: float | None) -> str:
    """Write what can be detected in points, rounded up, so that it is true as written."""
    if share is None:
        return "\N{EN DASH}"
    return points(ceil(round(1e4 * share, 6)) / 1e4)


def p_text(p: float) -> str:
    """Write a p-value as people do: ``p = 0.031``, ``p < 0.0001``.

    Parameters
    ----------
    p : float
        The p-value.

    Returns
    -------
    str
        Two significant digits above 0.0001; more where a value below 0.05 would read as 0.050.
    """
    if p < 1e-4:
        return "p < 0.0001"
    if p >= 0.995:
        return "p = 1"
    digits = max(2, 1 - floor(log10(p)))
    while p < 0.05 <= float(f"{p:.{digits}f}"):
        digits += 1
    return f"p = {p:.{digits}f}"


def verdict(
    name_a: str, name_b: str, comparison: Mapping[str, Any], *, detectable: bool = True
) -> str:
    """One sentence in plain words on a comparison.

    Parameters
    ----------
    name_a, name_b : str
        What the two sides are called.
    comparison : mapping
        From ``classify.significance``; ``converged`` False withholds the verdict.
    detectable : bool
        Whether to end "no detectable difference" with what could have been detected.

    Returns
    -------
    str
        The sentence, with a full stop.
    """
    if not comparison.get("converged", True):
        return (
            f"No verdict on {name_a} against {name_b}: a fit did not converge, so its accuracy "
            "may not be its own."
        )
    difference = comparison["accuracy_difference"]
    low, high = comparison["difference_ci95"]
    n_tests = comparison["n_tests"]
    p = p_text(comparison["mcnemar_p_adjusted"])
    if n_tests > 1:
        p += f", both adjusted for {n_tests:,} tests"
    if comparison["significant"]:
        better, worse = (name_a, name_b) if difference > 0 else (name_b, name_a)
        if difference < 0:
            low, high = -high, -low
        # Names of models keep their case.
        start = upper_first(better) if better in NAMES.values() else better
        return (
            f"{start} is better than {worse} by {points(abs(difference))} points "
            f"(95 % interval {limit(low)} to {limit(high)}; {p})."
        )
    if not comparison["only_a_right"] and not comparison["only_b_right"]:
        measured = "they are right and wrong on the same images"
    else:
        sign = "+" if float(f"{100 * difference:.2f}") > 0 else ""
        measured = (
            f"{sign}{points(difference)} points, 95 % interval {limit(low)} to {limit(high)}, {p}"
        )
    sentence = f"No detectable difference between {name_a} and {name_b} ({measured})"
    return f"{sentence}{_detectable(comparison)}." if detectable else f"{sentence}."


def _detectable(comparison: Mapping[str, Any]) -> str:
    """Say which difference the test set would have shown, or that it can show none."""
    smallest, n_tests = comparison["detectable_difference"], comparison["n_tests"]
    if smallest is None:
        counts = ("both_right", "only_a_right", "only_b_right", "both_wrong")
        n = sum(comparison[name] for name in counts)
        images = "1 test image" if n == 1 else f"{n:,} test images"
        tests = "one test needs" if n_tests == 1 else f"{n_tests:,} tests need"
        needed = comparison["test_rows_needed"]
        return f"; {images} can show none, however large: {tests} at least {needed}"
    return (
        f"; this test set would have shown one of {points_up(smallest)} points or more in 4 of 5 "
        "cases"
    )


def headline(strategies: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Sum up a whole run: OvR or OvO first, then the multinomial.

    Parameters
    ----------
    strategies : mapping
        The ``strategies`` of results.json.
    comparisons : sequence of mapping
        From ``classify.significance.compare_strategies``.

    Returns
    -------
    str
        One sentence for each comparison, the first one answering "OvR or OvO?" where it can.
    """
    if comparisons:
        return " ".join(
            verdict(display_name(c["a"]), display_name(c["b"]), c, detectable=i == 0)
            for i, c in enumerate(comparisons)
        )
    (strategy, entry), *_ = strategies.items()
    low, high = entry["test"]["accuracy_ci95"]
    return (
        f"{upper_first(display_name(strategy))} reaches "
        f"{points(entry['test']['accuracy'])} % (95 % interval {points(low)} to {points(high)}); "
        "it is the only strategy of this run, so there is nothing to compare it with."
    )


def labels_sentence(few_shot: Mapping[str, Any]) -> str:
    """Say how many labels are enough.

    Parameters
    ----------
    few_shot : mapping
        From `classify.few_shot.few_shot`.

    Returns
    -------
    str
        One sentence; empty where there is no curve.
    """
    told = []
    for name, curve in few_shot["curves"].items():
        counts = [point["per_class"] for point in curve[:-1]]
        if counts:
            enough = few_shot["enough"][name]
            more = f"more than {counts[-1]:,}" if enough is None else f"{enough:,}"
            told.append(f"{display_name(name)} {more}")
    if not told:
        return ""
    return (
        f"Labelled images per class with which a strategy comes within "
        f"{points(few_shot['near'], 0)} point of its accuracy with all of them: {', '.join(told)}."
    )


def decoding_sentence(results: Mapping[str, Any]) -> str:
    """Say how much of one-vs-one's accuracy hangs on its decoding, and how much on the C.

    Parameters
    ----------
    results : mapping
        A checked results.json.

    Returns
    -------
    str
        Sentences, empty where the decodings were not compared.
    """
    ways = results.get("decoding")
    if not ways:
        return ""
    strategies = results["strategies"]
    usual = strategies["ovo"]["test"]["accuracy"]
    best = max(ways, key=lambda way: way["accuracy"])
    worst = min(ways, key=lambda way: way["accuracy"])
    words = (
        f"The same OvO heads reach {points(best['accuracy'])} % decoded by {best['way']}, and "
        f"{points(worst['accuracy'])} % by {worst['way']}: decoding is worth up to "
        f"{points(best['accuracy'] - worst['accuracy'])} points."
    )
    moved = []
    for name, own in (results.get("own_c") or {}).items():
        change = signed_points(own["accuracy"] - strategies[name]["test"]["accuracy"])
        moved.append(f"{display_name(name)} by {change}")
    if moved:
        change = " and ".join(moved)
        words += f" A C for each problem, in place of one for all, moves {change} points."
    if "ovr" in strategies:
        gap = usual - strategies["ovr"]["test"]["accuracy"]
        words += f" For comparison: OvO is {signed_points(gap)} points from OvR."
    return words


def signed_points(share: float) -> str:
    """Write a difference of shares as percentage points with its sign, except for zero.

    Parameters
    ----------
    share : float
        A difference of shares.

    Returns
    -------
    str
        Such as ``+0.42``, ``−0.10`` or ``0.00``.
    """
    text = points(share)
    return text if text.startswith("\N{MINUS SIGN}") or float(text) == 0 else f"+{text}"
