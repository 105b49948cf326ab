"""Build every architecture of timm, embed an image with it, and compare with timm's own vector.

    make test-backbones [PATTERN='vit_*'] [MEMORY=8GB]

Weights are random, and no network is needed. Ours: an image file, decoded, resized and embedded as
stage one does it; timm's: its own transform, and its whole model's forward_features and
forward_head(pre_logits=True). Sizes, means, crops and widths are compared, too. Each architecture
is checked in a process of its own, the smallest first. What is done is kept, and the same command
goes on after Ctrl-C.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.backbones.check import check, needed, outlines, write_image
from benchmarks.backbones.journal import Journal
from benchmarks.backbones.processes import Children, DiedError
from benchmarks.processes import scratch
from data.common.cli import Parser, folder_path, log, print_result, progress, run
from data.common.errors import UserError, nearest
from data.common.memory import parse_memory

RESULTS = Path(__file__).parents[1] / "results"
MEMORY = "8GB"
OUTLINED = 25  # architectures whose sizes one process finds out


def main(argv: Sequence[str]) -> None:
    """Check the architectures that were asked for.

    Parameters
    ----------
    argv : sequence of str
        The arguments after ``python -m benchmarks.backbones``.

    Raises
    ------
    UserError
        If no architecture matches, or the memory is no size.
    SystemExit
        With 1, if a vector or a setting is not timm's, or an architecture raised an error.
    """
    options = parser().parse_args(list(argv))
    names = _matching(options.pattern)
    journal = Journal(options.results_dir, forget=names if options.force else ())
    children = Children()
    try:
        _find_weights(names, journal, children)
        fitting = [name for name in names if needed(journal.weights[name]) <= options.memory]
        _check_all(fitting, journal, children, options.memory)
    except KeyboardInterrupt:
        _report([name for name in names if name in journal.outcomes], journal, options.memory)
        kept = f"what was found so far is in {journal.path}; the same command goes on"
        raise KeyboardInterrupt(kept) from None
    failed = _report(names, journal, options.memory)
    print_result(journal.path)
    if failed:
        raise SystemExit(1)


def parser() -> Parser:
    """Build the parser; its errors are `UserError`."""
    top = Parser(prog="python -m benchmarks.backbones", description=__doc__)
    top.add_argument("pattern", nargs="?", default="*", help="such as 'vit_*' (all)")
    top.add_argument(
        "--memory", type=_memory, default=MEMORY, metavar="SIZE",
        help="leave out architectures that need more (%(default)s)",
    )  # fmt: skip
    top.add_argument(
        "--results-dir", type=folder_path, default=RESULTS, metavar="DIR",
        help="where backbones.jsonl goes (benchmarks/results)",
    )  # fmt: skip
    top.add_argument("--force", action="store_true", help="check again what is known")
    return top


def _memory(text: str) -> int:
    try:
        return parse_memory(text)
    except UserError as error:
        raise ArgumentTypeError(str(error)) from error


def _matching(pattern: str) -> list[str]:
    import timm

    names = timm.list_models(pattern)
    if not names:
        near = nearest(pattern.strip("*"), timm.list_models())
        raise UserError(f"no architecture of timm matches '{pattern}'; {near or 'try a wildcard'}")
    return list(names)


def _find_weights(names: Sequence[str], journal: Journal, children: Children) -> None:
    """Find out how large the architectures are, in processes that take several."""
    missing = [name for name in names if name not in journal.weights]
    if not missing:
        return
    with progress(len(missing), "sizes", "architecture") as bar:
        for start in range(0, len(missing), OUTLINED):
            some = missing[start : start + OUTLINED]
            for name, size in zip(some, children.call(outlines, some), strict=True):
                journal.add(name, weights=size)
            bar.update(len(some))


def _check_all(names: Sequence[str], journal: Journal, children: Children, memory: int) -> None:
    """Check those that are not known yet, the smallest first."""
    known = journal.outcomes
    missing = [n for n in names if n not in known or _had_less(known[n], memory)]
    missing.sort(key=lambda name: (journal.weights[name], name))
    with scratch() as folder, progress(
        len(names), "checks", "architecture", initial=len(names) - len(missing)
    ) as bar:  # fmt: skip
        image = write_image(folder)
        for name in missing:
            bar.set_postfix_str(name)
            try:
                kind, facts = children.call(check, name, image, memory=memory)
            except DiedError as error:
                kind, facts = "failed", {"reason": str(error)}
            journal.add(name, outcome=kind, memory=memory, **facts)
            bar.update()


def _had_less(outcome: dict[str, Any], memory: int) -> bool:
    """Tell whether an architecture had too little memory then, and has more now."""
    return outcome["outcome"] == "memory" and outcome["memory"] < memory


def _report(names: Sequence[str], journal: Journal, memory: int) -> bool:
    """Print the count, and what does not work and why; True where something is wrong."""
    from benchmarks.record import machine

    large = [name for name in names if needed(journal.weights[name]) > memory]
    of_kind: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        if name not in large:
            outcome = journal.outcomes[name]
            of_kind.setdefault(outcome["outcome"], []).append(outcome)
    works = of_kind.get("works", [])
    large += [outcome["name"] for outcome in of_kind.get("memory", [])]
    facts = machine()
    print(
        f"{len(works):,} of {len(names):,} architectures of timm {version('timm')} give one vector "
        f"an image, of timm's width and with timm's preprocessing ({facts['cores']} cores of "
        f"{facts['cpu']}, {sum(o['seconds'] for o in works):,.0f} s)"
    )
    rounded = [o for o in works if o.get("rounding")]
    if near := [o for o in works if not o.get("rounding")]:
        print(
            f"their vectors against timm's: lowest cosine {min(o['cosine'] for o in near):.7f}, "
            f"largest difference {max(o['relative'] for o in near):.1e} of a vector's largest value"
        )
    for outcome in rounded:
        print(
            f"  {outcome['name']}: {outcome['relative']:.1e} of the largest value; with random "
            f"weights rounding alone moves timm's vector by {outcome['rounding']:.1e}"
        )
    print(f"left out, need more than {memory / 1e9:g} GB: {len(large)} {' '.join(large)}".rstrip())
    for kind, title in (
        ("refused", "refused with a message"),
        ("differs", "other than timm's"),
        ("failed", "failed"),
    ):
        outcomes = of_kind.get(kind, [])
        print(f"{title}: {len(outcomes)}")
        for outcome in outcomes:
            why = outcome.get("reason") or "; ".join(outcome["differences"])
            print(f"  {outcome['name']}: {why}")
    log(f"seconds, sizes and cosines of each are in {journal.path}")
    return bool(of_kind.get("differs") or of_kind.get("failed"))


if __name__ == "__main__":
    sys.exit(run(main))
