"""Time both stages next to what others do, and measure the memory of stage two.

Parts, with --part (several may be given):
  one-c        one fit at each C, against each installed peer, to the same optimum
  path         choice of C, refit and evaluation; scikit-learn's loop is estimated
  hundred      one-vs-one of a hundred classes made from the store's
  slopes       seconds of a pass against rows, columns and width
  memory       peak memory of a fit, against its limit
  out-of-core  the same with --memory at a quarter of the features
  coupling     probabilities of one-vs-one
  few          many classes of few rows: the whole command, 200 x 3 and 1,000 x 2
  svm          paths and fits of support vector machines and of a code book, against logistic ones
  closed-form  ridge, LDA, nearest means and nearest rows, all settings, against scikit-learn's
  decoding     stage one: JPEG files with --decode fast, against exact decoding
  photos       stage one on photographs: decoder, network, both, and a first run
  siblings     stage one: several features from one reading of the images, against one
  engines      stage one: the whole pipeline on this CPU, against the usual loop
  growth       stage one: memory and seconds at three numbers of images, and finding the store
  tables       stage one: reading a table of a million rows, and the fingerprint of one
  doors        stage one: the same images by every door, and whether rows and accuracies agree
  scaling      a model of the costs of both stages, checked at three sizes and extrapolated
  best-of-many is the best among those that may be it as often as compare says, simulated
Without stores, all but path, hundred, memory, out-of-core, coupling and doors run, on made data.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data.common.cli import Parser, run
from data.common.errors import UserError, nearest

PARTS = (
    "one-c",
    "path",
    "hundred",
    "slopes",
    "memory",
    "out-of-core",
    "coupling",
    "few",
    "svm",
    "closed-form",
    "decoding",
    "photos",
    "siblings",
    "engines",
    "growth",
    "tables",
    "doors",
    "scaling",
    "paired-tests",
    "group-tests",
    "best-of-many",
    "binary",
)
NEED_STORES = ("path", "memory", "out-of-core")
# Those that are run where no store is given and no part is named.
NO_STORES = tuple(
    part for part in PARTS if part not in (*NEED_STORES, "hundred", "coupling", "doors")
)


def positive(option: str, kind: Callable[[str], Any] = float) -> Callable[[str], Any]:
    """Make a parser of positive numbers."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = -1
        if not 0 < value < float("inf"):
            word = "whole number" if kind is int else "number"
            raise UserError(f"{option} is {text!r}, expected a {word} above 0")
        return value

    return parse


def one_of(option: str, names: Sequence[str]) -> Callable[[str], str]:
    """Make a parser of names."""

    def parse(text: str) -> str:
        if text not in names:
            hint = nearest(text, names)
            found = f"; {hint}" if hint else ""
            raise UserError(f"{option} {text} is unknown{found} (there are: {', '.join(names)})")
        return text

    return parse


def parser() -> Parser:
    """Build the parser; its errors are `UserError`."""
    from benchmarks.peers import DEFAULT, PEERS
    from benchmarks.settings import NETWORKS, STRATEGIES, Settings

    default = Settings()
    top = Parser(prog="python -m benchmarks", description=__doc__)

    def many(option: str, kind: Callable[[str], Any], usual: Sequence[Any], text: str) -> None:
        shown = " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in usual)
        shown = f" ({shown})" if shown else ""
        top.add_argument(option, action="append", type=kind, metavar="X", help=text + shown)

    top.add_argument("stores", nargs="*", type=Path, metavar="FILE.h5", help="feature stores")
    many("--part", one_of("--part", PARTS), (), "what to run; may be repeated, as all of these")
    many("--c", positive("--c"), default.C, "weights of the losses")
    many("--strategy", one_of("--strategy", STRATEGIES), STRATEGIES, "which heads")
    many("--network", one_of("--network", NETWORKS), (), "engines: which networks (all)")
    many("--peer", one_of("--peer", tuple(PEERS)), DEFAULT, f"any of {', '.join(PEERS)}")
    many("--point", positive("--point"), default.points, "path: where to time scikit-learn")

    def single(option: str, kind: Any, usual: Any, text: str) -> None:
        parse = positive(option, kind)
        top.add_argument(
            option, type=parse, default=usual, metavar="N", help=f"{text} (%(default)s)"
        )

    single("--repeats", int, default.repeats, "paired runs")
    single("--peer-tol", float, default.peer_tol, "where the search for a peer's tol starts")
    single("--peer-limit", float, default.peer_limit, "seconds that one fit of a peer may take")
    single("--pairs", int, default.pairs, "hundred: pairs in scikit-learn's sample")
    single("--classes", int, default.classes, "hundred: classes")
    for name, usual in zip(("rows", "features", "classes"), default.made_shape, strict=True):
        single(f"--made-{name}", int, usual, f"{name} of made data")
    top.add_argument(
        "--results-dir", type=Path, default=default.results, metavar="DIR",
        help="where the JSON files go (benchmarks/results)",
    )  # fmt: skip
    return top


def main(argv: Sequence[str]) -> None:
    """Run the parts that were asked for.

    Parameters
    ----------
    argv : sequence of str
        The arguments after ``python -m benchmarks``.
    """
    options = parser().parse_intermixed_args(list(argv))
    stores = tuple(dict.fromkeys(options.stores))
    parts = tuple(dict.fromkeys(options.part or (NO_STORES if not stores else PARTS)))
    homeless = [part for part in parts if part in NEED_STORES and not stores]
    if homeless:
        raise UserError(
            f"{', '.join(homeless)}: no feature store was given; name one, as in "
            'make bench FEATURES=features/digits/....h5 PARTS="memory"'
        )
    from data.reading import read_header

    for store in stores:  # before the first fit, not after it
        read_header(store)

    from benchmarks import (
        best_of_many,
        binary,
        closed_form,
        coupling,
        decoding,
        doors,
        engines,
        few,
        group_tests,
        growth,
        hundred,
        memory,
        one_c,
        paired_tests,
        path,
        photos,
        scaling,
        siblings,
        slopes,
        svm,
        tables,
    )
    from benchmarks.peers import DEFAULT
    from benchmarks.settings import STRATEGIES, Settings

    settings = Settings(
        stores=stores,
        C=tuple(options.c or Settings.C),
        repeats=options.repeats,
        peers=tuple(options.peer or DEFAULT),
        strategies=tuple(options.strategy or STRATEGIES),
        peer_tol=options.peer_tol,
        peer_limit=options.peer_limit,
        networks=tuple(options.network or Settings.networks),
        points=tuple(options.point or Settings.points),
        pairs=options.pairs,
        classes=options.classes,
        made_shape=(options.made_rows, options.made_features, options.made_classes),
        results=options.results_dir,
    )
    run_part = {
        "one-c": one_c.run,
        "path": path.run,
        "hundred": hundred.run,
        "slopes": slopes.run,
        "memory": memory.run,
        "out-of-core": memory.out_of_core,
        "coupling": coupling.run,
        "few": few.run,
        "svm": svm.run,
        "closed-form": closed_form.run,
        "decoding": decoding.run,
        "photos": photos.run,
        "siblings": siblings.run,
        "engines": engines.run,
        "growth": growth.run,
        "tables": tables.run,
        "doors": doors.run,
        "scaling": scaling.run,
        "paired-tests": paired_tests.run,
        "group-tests": group_tests.run,
        "best-of-many": best_of_many.run,
        "binary": binary.run,
    }
    for part in parts:
        print(f"== {part}", flush=True)
        try:
            run_part[part](settings)
        except KeyboardInterrupt:
            kept = settings.results / f"{part}.json"
            raise KeyboardInterrupt(f"what was measured so far is in {kept}") from None


if __name__ == "__main__":
    sys.exit(run(main))
