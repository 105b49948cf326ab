"""A trained head as the numbers that a program of it holds."""

from __future__ import annotations

from typing import Any

from classify.predict import AnyHead
from classify.saved.heads import SavedHead
from classify.solver.row_norms import Norm
from data.common.errors import UserError
from data.format.programs import HeadProgram


def head_program(head: AnyHead) -> HeadProgram:
    """Give what a program needs of a head; a `UserError` says that no program holds such a head."""
    if not isinstance(head, SavedHead):
        raise UserError(
            f"a {head.strategy} head cannot be written as layers of a network; give --to sklearn, "
            "or export a linear head of the same run"
        )
    arrays: dict[str, Any] = {"coef": head.coef, "intercept": head.intercept}
    if head.sums is not None:
        arrays = {
            name: getattr(head.sums, name)
            for name in ("span", "shift", "starts", "duals", "offset")
        }
    if head.code is not None:
        arrays["code"] = head.code
    return HeadProgram(
        name=head.strategy,
        coding=head.coded,
        class_names=head.class_names,
        arrays=arrays,
        temperature=head.temperature,
        normalize=_widths(head.normalize, head.n_features),
    )


def _widths(norm: Norm, n_features: int) -> tuple[int, ...] | None:
    if norm is None:
        return None
    return (n_features,) if isinstance(norm, str) else tuple(norm)
