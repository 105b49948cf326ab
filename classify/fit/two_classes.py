"""Which classes are fitted, and what is asked of a fit where there are two."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from classify.heads.registry import distinct
from classify.wording import display_name, listed
from data.common.cli import Parser, log
from data.common.errors import UserError

if TYPE_CHECKING:
    from classify.records import FitOptions
    from data.format.records import Features

_COST = "expected what a false positive and a false negative cost, such as --cost FP=1,FN=5"
_KINDS = ("FP", "FN")


def add_class_options(parser: Parser) -> None:
    """Add ``--classes`` and ``--cost``."""
    parser.add_argument(
        "--classes", type=parse_class_names, default=(), metavar="A,B",
        help="the rows of these classes alone; of two, the second is the positive one (all)",
    )  # fmt: skip
    parser.add_argument(
        "--cost", type=parse_cost, metavar="FP=N,FN=N",
        help="of two classes: what errors cost, for the threshold with the least cost on the "
        "validation rows; a false positive is an image of the first class taken for the second",
    )  # fmt: skip


def parse_class_names(text: str) -> tuple[str, ...]:
    """Parse two names or more, each once, separated by commas."""
    from data.chosen_classes import parse_classes  # which needs numpy, and --help does not

    return parse_classes(text)


def parse_cost(text: str) -> tuple[float, float]:
    """Parse the costs of a false positive and of a false negative, both above 0."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in _KINDS or not equals:
            raise UserError(f"--cost is {text!r}, and {part.strip()!r} is no cost; {_COST}")
        if name in found:
            raise UserError(f"--cost is {text!r}, which says {name} twice; {_COST}")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if not (math.isfinite(found[name]) and found[name] > 0):
            raise UserError(
                f"--cost is {text!r}, and {name} is {value!r}, expected a number above 0; {_COST}"
            )
    missing = [name for name in _KINDS if name not in found]
    if missing:
        raise UserError(f"--cost is {text!r}, without {missing[0]}; {_COST}")
    return found["FP"], found["FN"]


def add_threshold(parser: Parser) -> None:
    """Add ``--threshold`` of ``predict``."""
    parser.add_argument(
        "--threshold", type=parse_threshold, metavar="P",
        help="of two classes: answer with the second where its probability is above this, such as "
        "the threshold that fit --cost chose (0.5)",
    )  # fmt: skip


def parse_threshold(text: str) -> float:
    """Parse a probability."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise UserError(f"--threshold is {text!r}, expected a probability from 0 to 1, such as 0.3")
    return value


def suited(options: FitOptions, features: Features) -> FitOptions:
    """Leave out heads that nobody named and that are another's problem where there are two classes.

    A `UserError` says that ``--cost`` was given for more classes, or that nothing tells its worth.
    """
    import numpy as np

    known = np.unique(features.train.labels)
    if options.cost is not None:
        _check_cost(features, len(known))
    heads = tuple(distinct(options.strategies, len(known)))
    if options.named or heads == options.strategies:
        return options
    others = [display_name(name) for name in options.strategies if name not in heads]
    log(
        f"{features.path}: two classes are one problem, so one head is fitted, "
        f"{listed([display_name(name) for name in heads])}; {listed(others)} would be the same "
        "(--head fits them all the same)"
    )
    return replace(options, strategies=heads)


def _check_cost(features: Features, n_known: int) -> None:
    import numpy as np

    if n_known != 2:
        first, second = features.class_names[:2]
        raise UserError(
            f"--cost is for two classes, and {features.path} has {n_known}: name the two with "
            f"--classes, such as --classes {first},{second}, or leave --cost out"
        )
    test, train = features.test, features.train
    some = test.labels if test.weights is None else test.labels[test.weights > 0]
    if not np.array_equal(np.unique(some), np.unique(train.labels)):
        names = ", ".join(features.class_names[i] for i in np.unique(some))
        raise UserError(
            f"--cost: the test rows of {features.path} are of {names}, so they do not say what "
            "both kinds of errors cost; use a test split of the two classes that are fitted"
        )
