"""Which stores of a run one forward pass gives: those that began together, or begin now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from extract.engines.plan import Plan
from extract.model.features.choice import choices_of, words_of
from extract.shards.job import Job, Output, cut_for
from extract.shards.plan import kept_plan, start_over, usable_plan


def passes_of(job: Job, choose: Callable[[Job], Plan]) -> list[tuple[Job, Plan]]:
    """Divide the stores of a network input into passes, each with its plan.

    What an interrupted run has begun together goes on together, with the same features side by side
    in the network, whatever is asked for now: so it ends with the same bits. All that is new is
    computed in one pass, whose plan is chosen.
    """
    new: dict[str, list[Output]] = {}
    begun: dict[str, tuple[Plan, list[Output]]] = {}
    for output in job.outputs:
        word, taken = output.choice.word, output.taken
        plan = usable_plan(output.folder, job.device, output.options, word, output.taken_digest)
        if plan is None and taken is not None:
            plan = cut_for(job, taken.plan)
            begin([output], plan)
        rows = "" if taken is None else taken.new_rows
        if plan is None:
            new.setdefault(rows, []).append(output)
            continue
        plan = replace(plan, taken=None, features=plan.features or word)
        _, outputs = begun.setdefault(f"{rows} {sorted(asdict(plan).items())}", (plan, []))
        outputs.append(output)
    found = []
    for plan, outputs in begun.values():
        found.append((job.only(outputs, job.backbone.giving(choices_of(plan.features))), plan))
    for outputs in new.values():
        choices = [output.choice for output in outputs]
        part = job.only(outputs, job.backbone.giving(choices))
        plan = replace(choose(part), features=words_of(choices))
        begin(outputs, plan)
        found.append((part, plan))
    return found


def begin(outputs: Sequence[Output], plan: Plan) -> None:
    """Empty the work folders of stores, and write their plan into each."""
    for output in outputs:
        start_over(output.folder, kept_plan(plan, output.choice.word, output.taken_digest))


def side_by_side(passes: Sequence[tuple[Job, Plan]]) -> list[list[int]]:
    """Say which passes can go over the images together, each image decoded once for all."""
    found: dict[Any, list[int]] = {}
    for number, (job, plan) in enumerate(passes):
        rows = "" if job.taken is None else job.taken.new_rows
        if sum(job.sizes.values()):  # else another store has all the images
            found.setdefault((rows, plan.threads), []).append(number)
    return list(found.values())
