"""Which heads timm's classifiers can have: those whose probabilities are a softmax."""

from __future__ import annotations

from pathlib import Path

from classify.export.program_of import head_program
from classify.predict import AnyHead
from classify.wording import display_name
from data.common.errors import UserError

_SOFTMAX = "multinomial"


def check_for_timm(head: AnyHead, path: Path) -> None:
    """Refuse a head that no classifier of timm answers like, and name one of its run that does."""
    program = head_program(head)
    if program.is_softmax:
        return
    other = path.with_name(f"{_SOFTMAX}{path.suffix}")
    advice = f"fit a {_SOFTMAX} head"
    if program.normalize is not None:
        reason = "divides features by their norms (--normalize l2), and timm's classifiers do not"
        advice += " without --normalize"
    else:
        reason = (
            "does not give the softmax of its scores as probabilities, and timm's classifiers do"
        )
        if other.is_file():
            advice = f"export {other}"
    raise UserError(
        f"--to timm: the {display_name(head.strategy)} head {path} {reason}; {advice}, or give "
        "--to torch or --to onnx, which take this one"
    )
