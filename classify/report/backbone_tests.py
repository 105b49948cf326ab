"""The paired tests of a comparison of runs, and what its headline says of them.

A classifier is a strategy of a run. The family of tests is every pair of classifiers that answered
the same test images, whether the page lists it or not, so that any pair may be named after looking
at the accuracies. The correction is a single step, so the family needs to be counted, not tested.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any

from classify.analysis.significance import compare_answers, judge_again
from classify.heads.registry import distinct
from classify.report.pages import percent, span
from classify.report.runs import Answers, Run, shared_units
from classify.wording import display_name, listed, verdict

# Of classifiers that share the highest accuracy so many are named.
NAMED = 3


def group_by_test_set(runs: Sequence[Run], answers: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """Group the runs by their test images, the same ids with the same labels and class names."""
    groups: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run.label in answers:
            mine = answers[run.label]
            group = groups.setdefault(
                mine.test_set, {"dataset": run.dataset, "n": len(mine.labels), "runs": []}
            )
            group["runs"].append(run.label)
    for group in groups.values():
        units = shared_units([answers[label] for label in group["runs"]])
        group["n_groups"] = None if units is None else units.n_groups
    return list(groups.values())


def one_problem(results: Mapping[str, Any]) -> bool:
    """Tell whether all heads of a run are one problem; older runs do not say it themselves."""
    return len(_distinct(results, list(results["strategies"]))) == 1 < len(results["strategies"])


def classifiers(results: Mapping[str, Any], answers: Answers) -> list[str]:
    """Name a run's heads that are classifiers of their own, and not the problem of another."""
    return _distinct(results, list(answers.predictions))


def _distinct(results: Mapping[str, Any], names: list[str]) -> list[str]:
    two = results.get("one_problem") or len(results["class_names"]) == 2
    return distinct(names, 2 if two else len(results["class_names"]))


def count_tests(
    runs: Sequence[Run], answers: Mapping[str, Answers], test_sets: Sequence[Mapping[str, Any]]
) -> int:
    """Count the pairs of classifiers with the same test images, over all test sets of the page."""
    by_label = {run.label: run.results for run in runs}
    total = sum(
        len(run.results["comparisons"])
        for run in runs
        if run.label not in answers and not one_problem(run.results)
    )
    for group in test_sets:
        count = sum(len(classifiers(by_label[label], answers[label])) for label in group["runs"])
        total += count * (count - 1) // 2
    return total


def judge_question(
    runs: Sequence[Run],
    n_tests: int,
    answers: Mapping[str, Answers],
    test_sets: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Judge OvR against OvO of each run that compared them, as some of the tests of this page.

    A run that knows no groups is judged by those that another run of the same test images has.
    """
    groups = {label: group for group in test_sets for label in group["runs"]}
    found = []
    for run in runs:
        for entry in run.results["comparisons"]:
            if (entry["a"], entry["b"]) != ("ovr", "ovo") or one_problem(run.results):
                continue
            group = groups.get(run.label)
            judged = entry
            if group is not None and group["n_groups"] is not None:
                mine = answers[run.label]
                tested = compare_answers(
                    mine.labels, mine.predictions["ovr"], mine.predictions["ovo"],
                    units=shared_units([answers[label] for label in group["runs"]]),
                )  # fmt: skip
                judged = {**entry, **tested}
            found.append({"label": run.label, **judge_again(judged, n_tests)})
    return found


def best_two(
    rows: Sequence[Mapping[str, Any]], group: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Find the leader's best row of the leaderboard, and the best row of any other run.

    Of equal accuracies one of a fit that converged comes first.
    """
    found: list[Mapping[str, Any]] = []
    for _ in range(2):
        taken = [row["label"] for row in found]
        mine = [row for row in rows if row["label"] in group["runs"] and row["label"] not in taken]
        if mine:
            found.append(max(mine, key=lambda row: (row["accuracy"], row["converged"])))
    return found


def backbone_pairs(
    group: Mapping[str, Any],
    runs: Sequence[Run],
    answers: Mapping[str, Answers],
    best: Sequence[Mapping[str, Any]],
    n_tests: int,
) -> list[dict[str, Any]]:
    """Test the runs of one test set in pairs at each strategy they share, and best against best."""
    by_label = {run.label: run.results for run in runs}
    units = shared_units([answers[label] for label in group["runs"]])
    wanted = [
        ((a, strategy), (b, strategy))
        for a, b in combinations(group["runs"], 2)
        for strategy in classifiers(by_label[a], answers[a])
        if strategy in answers[b].predictions
    ]
    ahead = [(row["label"], _known_as(row, by_label, answers)) for row in best]
    leaders = set(ahead)
    if len(ahead) == 2 and not any(set(pair) == leaders for pair in wanted):
        wanted.append((ahead[0], ahead[1]))
    pairs = []
    for (a, strategy_a), (b, strategy_b) in wanted:
        tested = compare_answers(
            answers[a].labels,
            answers[a].predictions[strategy_a],
            answers[b].predictions[strategy_b],
            n_tests=n_tests,
            units=units,
        )
        fits = (by_label[a]["strategies"][strategy_a], by_label[b]["strategies"][strategy_b])
        pair = {
            "strategy": strategy_a if strategy_a == strategy_b else None,
            "a": a,
            "b": b,
            "strategy_a": strategy_a,
            "strategy_b": strategy_b,
            "best": {(a, strategy_a), (b, strategy_b)} == leaders,
            **tested,
            "converged": all(fit["converged"] for fit in fits),
        }
        name_a = f"{a} ({display_name(strategy_a)})"
        name_b = f"{b} ({display_name(strategy_b)})"
        pairs.append({**pair, "verdict": verdict(name_a, name_b, pair)})
    return pairs


def _known_as(
    row: Mapping[str, Any], by_label: Mapping[str, Any], answers: Mapping[str, Answers]
) -> str:
    """Name the strategy that a row is tested as: where all of a run are one problem, the first."""
    names = classifiers(by_label[row["label"]], answers[row["label"]])
    return row["strategy"] if row["strategy"] in names else names[0]


def headline(
    rows: Sequence[Mapping[str, Any]],
    question: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    test_sets: Sequence[Mapping[str, Any]],
    alike: Sequence[str] = (),
) -> str:
    """Sum up: OvR or OvO over all runs, then the best backbone on each test set."""
    sentences = [_question_sentence(rows, question)]
    if alike:
        sentences.append(
            f"{_few_of(alike)}: two classes, with which multinomial, OvR and OvO are one and the "
            "same problem, so they are not compared."
        )
    for group in test_sets:
        sentences += _group_sentences(rows, pairs, group)
    if len(test_sets) > 1:
        sentences.append("Runs on different test images are not tested against each other.")
    tested = {label for group in test_sets for label in group["runs"]}
    untested = dict.fromkeys(row["label"] for row in rows if row["label"] not in tested)
    if untested:
        sentences.append(
            f"Without readable predictions, and so not tested against others: {_few_of(untested)}."
        )
    return " ".join(filter(None, sentences)) or "Nothing could be compared."


def _group_sentences(
    rows: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]], group: Mapping[str, Any]
) -> list[str]:
    """Name the highest accuracy on one test set, and judge the leader against the runner-up."""
    first, *others = best_two(rows, group)
    equal = [
        f"{row['label']} with {display_name(row['strategy'])}"
        for row in rows
        if row["label"] in group["runs"] and row["accuracy"] == first["accuracy"]
    ]
    where = f"On {group['dataset']} ({group['n']:,} test images) the highest accuracy"
    reached, ends = percent(first["accuracy"]), span(first["accuracy_ci95"])
    if len(equal) == 1:
        sentences = [f"{where} is that of {equal[0]}: {reached} % ({ends})."]
    else:
        sentences = [f"{where}, {reached} % ({ends}), is shared by {_few_of(equal)}."]
    if not others:
        return [*sentences, "No other run answered these images, so there is none to test it with."]
    against = {row["label"] for row in (first, *others)}
    sentences += [
        pair["verdict"] for pair in pairs if pair["best"] and {pair["a"], pair["b"]} == against
    ]
    return sentences + _rest_sentence(pairs, first, group, against)


def _rest_sentence(
    pairs: Sequence[Mapping[str, Any]],
    first: Mapping[str, Any],
    group: Mapping[str, Any],
    told: Collection[str],
) -> list[str]:
    """Say how the leader's tests against all but the runner-up ended, at its own strategy."""
    leader, ends = first["label"], dict[str, list[str]]()
    for pair in pairs:
        both = {pair["a"], pair["b"]}
        if pair["strategy"] != first["strategy"] or leader not in both or both == told:
            continue
        (other,) = both - {leader}
        if other not in group["runs"]:
            continue
        if not pair["converged"]:
            end = "no verdict, since a fit did not converge, on"
        elif pair["significant"]:
            better = (pair["accuracy_difference"] > 0) == (pair["a"] == leader)
            end = "better than" if better else "worse than"
        elif pair["detectable_difference"] is None:
            end = "too few test images to show any difference from"
        else:
            end = "no detectable difference from"
        ends.setdefault(end, []).append(other)
    if not ends:
        return []
    words = "; ".join(f"{end} {_few_of(others)}" for end, others in ends.items())
    with_it = display_name(first["strategy"])
    return [f"{leader} against the rest, both with {with_it}: {words}."]


def _few_of(names: Sequence[str] | Mapping[str, Any]) -> str:
    """Name the first few, and count the rest."""
    names = list(names)
    if len(names) > NAMED + 1:
        names = [*names[:NAMED], f"{len(names) - NAMED} others"]
    return listed(names)


def _question_sentence(
    rows: Sequence[Mapping[str, Any]], question: Sequence[Mapping[str, Any]]
) -> str:
    """Count how OvR against OvO ended, at the level of this page."""
    if not question:
        found: dict[str, set[str]] = {}
        for row in rows:
            found.setdefault(row["label"], set()).add(row["strategy"])
        apart = found and not any({"ovr", "ovo"} <= names for names in found.values())
        return "No run has both OvR and OvO, so they are not compared." if apart else ""
    if len(question) == 1:
        return f"{question[0]['label']}: {question[0]['verdict']}"
    counts = dict.fromkeys(("OvR is better", "OvO is better", "no detectable difference"), 0)
    counts["too few test images to show any difference"] = 0
    counts["no verdict, since a fit did not converge,"] = 0
    for entry in question:
        if not entry["converged"]:
            counts["no verdict, since a fit did not converge,"] += 1
        elif entry["significant"]:
            better = entry["a"] if entry["accuracy_difference"] > 0 else entry["b"]
            counts[f"{display_name(better)} is better"] += 1
        elif entry.get("detectable_difference", 1.0) is None:
            counts["too few test images to show any difference"] += 1
        else:
            counts["no detectable difference"] += 1
    told = ", ".join(f"{what} on {n}" for what, n in counts.items() if n)
    return f"OvR or OvO: {told} of {len(question)} runs."
