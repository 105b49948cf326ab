"""Numbers and verdicts in plain words, the same on the terminal, in the report and in JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from math import ceil, floor, log10
from typing import Any

from classify.heads.registry import HEADS

NAMES = {name: entry.title for name, entry in HEADS.items()}
# Heads that others should beat, since they learn next to nothing.
SIMPLE = ("knn", "nearest-mean")
# Of so many heads every comparison is a sentence of the verdict; of more, those of the best are.
SPELLED = 3
# What a comparison calls the four counts that all its numbers follow from.
COUNTS = ("both_right", "only_a_right", "only_b_right", "both_wrong")
# The one line of a page that says how its paired tests were done.
PROCEDURE = (
    "Exact McNemar tests and PropImp intervals (Newcombe 2011), all of a page adjusted together in "
    "a single step (Bonferroni; Dunn 1961): an interval excludes 0 exactly when the adjusted p is "
    "below 0.05."
)


# The same where test images have groups or weights.
GROUP_PROCEDURE = (
    "Tests that change the signs of whole groups at random (Canay, Romano and Shaikh 2017) and the "
    "intervals of what they do not reject (Hartigan 1969), all of a page adjusted together in a "
    "single step (Bonferroni; Dunn 1961): an interval excludes 0 exactly when the adjusted p is "
    "below 0.05."
)


def procedure(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Say how the paired tests of a page were done."""
    kinds = {bool(entry.get("group_differences")) for entry in comparisons}
    if kinds == {True, False}:
        return (
            f"Of test images without groups and weights: {PROCEDURE} Of others: {GROUP_PROCEDURE}"
        )
    return GROUP_PROCEDURE if kinds == {True} else PROCEDURE


def display_name(strategy: str) -> str:
    """How a strategy is called in text for people."""
    return NAMES.get(strategy, strategy)


def setting_words(setting: Mapping[str, Any]) -> str:
    """Write a head's setting for people: ``k = 20, metric = cosine``."""
    return ", ".join(f"{name} = {_value_words(value)}" for name, value in setting.items())


def _value_words(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def setting_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a head's setting; runs of before there were others than C have none."""
    return entry.get("setting") or ({} if entry["C"] is None else {"C": entry["C"]})


def upper_first(text: str) -> str:
    """Capitalise the first letter and leave the rest alone (``ovR`` is not ``Ovr``)."""
    return text[:1].upper() + text[1:]


def points(share: float, digits: int = 2) -> str:
    """Write a share as percentage points without a sign for zero: ``0.0042`` is ``0.42``."""
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
    """Write a p-value as people do: ``p = 0.031``, ``p < 0.0001``."""
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
    """One sentence in plain words on a comparison."""
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
        n, what = sum(comparison[name] for name in COUNTS), "test image"
        if comparison.get("n_groups") is not None:
            n, what = comparison["n_groups"], "group"
        images = f"1 {what}" if n == 1 else f"{n:,} {what}s"
        tests = "one test needs" if n_tests == 1 else f"{n_tests:,} tests need"
        needed = comparison["test_rows_needed"]
        return f"; {images} can show none, however large: {tests} at least {needed}"
    return (
        f"; this test set would have shown one of {points_up(smallest)} points or more in 4 of 5 "
        "cases"
    )


def headline(strategies: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Sum up a whole run: OvR or OvO first, then the multinomial; of many heads, the best."""
    if len({c[side] for c in comparisons for side in "ab"}) > SPELLED:
        return _headline_of_many(strategies, comparisons)
    if comparisons:
        return " ".join(
            verdict(display_name(c["a"]), display_name(c["b"]), c, detectable=i == 0)
            for i, c in enumerate(comparisons)
        )
    (strategy, entry), *_ = strategies.items()
    low, high = entry["test"]["accuracy_ci95"]
    if len(strategies) > 1:
        return (
            f"{one_problem_sentence(list(strategies))} It reaches "
            f"{points(entry['test']['accuracy'])} % (95 % interval {points(low)} to "
            f"{points(high)})."
        )
    if entry.get("binary"):
        return (
            "Two classes are one problem, and there is one head: "
            f"{display_name(strategy)} reaches {points(entry['test']['accuracy'])} % (95 % "
            f"interval {points(low)} to {points(high)}), and its area under the ROC curve is "
            f"{entry['binary']['auc']:.3f}."
        )
    return (
        f"{upper_first(display_name(strategy))} reaches "
        f"{points(entry['test']['accuracy'])} % (95 % interval {points(low)} to {points(high)}); "
        "it is the only strategy of this run, so there is nothing to compare it with."
    )


def _headline_of_many(
    strategies: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]
) -> str:
    """Name the head with the highest accuracy, and which others its tests tell it from."""
    compared = dict.fromkeys(c[side] for c in comparisons for side in "ab")
    best = max(compared, key=lambda name: strategies[name]["test"]["accuracy"])
    test, ends = strategies[best]["test"], dict[str, list[str]]()
    for c in comparisons:
        if best not in (c["a"], c["b"]):
            continue
        other = c["b"] if c["a"] == best else c["a"]
        if not c["converged"]:
            end = "No verdict, since a fit did not converge, on"
        else:
            end = "Better than" if c["significant"] else "No detectable difference from"
        ends.setdefault(end, []).append(display_name(other))
    low, high = test["accuracy_ci95"]
    told = [
        f"Of {len(compared)} heads {display_name(best)} has the highest accuracy, "
        f"{points(test['accuracy'])} % (95 % interval {points(low)} to {points(high)})."
    ]
    adjusted = f" (adjusted for {comparisons[0]['n_tests']:,} tests)"
    for end in sorted(ends, key=lambda end: end != "Better than"):
        told.append(f"{end} {listed(ends[end])}{adjusted}.")
        adjusted = ""
    question = [c for c in comparisons if (c["a"], c["b"]) == ("ovr", "ovo")]
    told += [verdict(display_name(c["a"]), display_name(c["b"]), c) for c in question]
    return " ".join(told)


def simpler_warnings(
    strategies: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Warn of heads that one which learns next to nothing beats: a sign of a fit gone wrong."""
    told = []
    for simple in SIMPLE:
        if simple not in strategies:
            continue
        score = strategies[simple]["test"]["accuracy"]
        below: dict[bool, list[str]] = {}
        for c in comparisons:
            if simple in (c["a"], c["b"]):
                other = c["b"] if c["a"] == simple else c["a"]
                if other not in SIMPLE and strategies[other]["test"]["accuracy"] < score:
                    below.setdefault(bool(c["significant"]), []).append(display_name(other))
        for proven, names in below.items():
            how = "by more than chance explains" if proven else "though chance may explain it"
            told.append(
                f"{upper_first(display_name(simple))} ({points(score)} %), which learns next to "
                f"nothing, beats {listed(names)}, {how}."
            )
    return told


def listed(texts: Sequence[str]) -> str:
    """Join texts as a sentence does: ``a, b and c``."""
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def one_problem_sentence(strategies: Sequence[str]) -> str:
    """Say why strategies are not compared where there are two classes to train on."""
    names = listed([display_name(name) for name in strategies])
    return (
        f"With two classes, {names} are one and the same problem: one head between the two "
        "classes, with the same objective at the same C, so there is nothing to compare."
    )


def answer_warnings(
    strategies: Mapping[str, Any], majority: Mapping[str, Any], trained: Set[str], shown: int = 5
) -> list[str]:
    """Warn of classes that are never answered, and of accuracies that one answer alone reaches."""
    told, groups = [], dict[tuple[str, ...], list[str]]()
    for name, entry in strategies.items():
        missing = tuple(text for text in entry["never_answered"] if text in trained)
        if missing:
            groups.setdefault(missing, []).append(name)
    for missing, names in groups.items():
        classes = strategies[names[0]]["test"]["per_class"]
        images = [classes[name]["support"] for name in missing]
        which = [
            f"{name} ({n:,} test {'image' if n == 1 else 'images'})"
            for name, n in list(zip(missing, images, strict=True))[:shown]
        ]
        if len(missing) > shown:
            which.append(f"{len(missing) - shown:,} more")
        who = upper_first(listed([display_name(name) for name in names]))
        word = "answers" if len(names) == 1 else "answer"
        told.append(
            f"{who} never {word} with {'this class' if len(missing) == 1 else 'these classes'}: "
            f"{listed(which)}."
        )
    score = majority["test_accuracy"]
    low = [name for name, entry in strategies.items() if entry["test"]["accuracy"] <= score]
    if low:
        told.append(
            f"Always answering {majority['class']}, the most frequent class in training, scores "
            f"{points(score)} %; {listed([display_name(name) for name in low])} "
            f"{'is' if len(low) == 1 else 'are'} no better."
        )
    return told


def labels_sentence(few_shot: Mapping[str, Any]) -> str:
    """Say how many labels are enough."""
    told = []
    for name, curve in few_shot["curves"].items():
        if len(curve) > 1:
            told.append(f"{display_name(name)} {_enough_words(curve, few_shot['enough'][name])}")
    if not told:
        return ""
    return (
        f"Labelled images per class with which a strategy comes within "
        f"{points(few_shot['near'], 0)} point of its accuracy with all of them: {', '.join(told)}."
    )


def _enough_words(curve: Sequence[Mapping[str, Any]], enough: int | None) -> str:
    """Say from how many images on a curve is near its end, as far as its fits converged."""
    if not all(curve[-1].get("converged", ())):
        return "unknown, since the fit with all images did not converge"
    counts = [point["per_class"] for point in curve[:-1]]
    # The search went down from the largest count, and ended at the one below `enough`.
    at = len(counts) - 1 if enough is None else counts.index(enough) - 1
    late = at >= 0 and not all(curve[at].get("converged", ()))
    if not late:
        return f"more than {counts[-1]:,}" if enough is None else f"{enough:,}"
    why = f"since fits with {counts[at]:,} did not converge"
    return f"unknown, {why}" if enough is None else f"{enough:,} or fewer, {why}"


def decoding_sentence(results: Mapping[str, Any]) -> str:
    """Say how much of one-vs-one's accuracy hangs on its decoding, and how much on the C."""
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
    """Write a difference of shares as percentage points with its sign, except for zero."""
    text = points(share)
    return text if text.startswith("\N{MINUS SIGN}") or float(text) == 0 else f"+{text}"
