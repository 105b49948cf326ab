"""The loosest tolerance at which a peer is at the same optimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

LADDER = (1e-4, 3e-5, 1e-5, 3e-6, 1e-6, 3e-7, 1e-7)
# "The same optimum": at most this far above the reference, relatively.
SAME = 1e-6


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    tol : float or None
        The loosest tolerance of the ladder that reaches the optimum; where none does, the one that
        gets nearest; None where not even one fit ended.
    excess : float or None
        The relative excess of the objective there.
    reached : bool
        Whether `excess` is at most `SAME`.
    tried : list of dict
        Every fit in order: ``tol``, and ``excess`` and ``seconds``, or None where it did not end.
    """

    tol: float | None
    excess: float | None
    reached: bool
    tried: list[dict[str, float | None]] = field(default_factory=list)


def loosest(
    attempt: Callable[[float], tuple[float, float] | None],
    *,
    ladder: Sequence[float] = LADDER,
    start: float = 1e-5,
    same: float = SAME,
) -> Found:
    """Search the ladder, looser while the optimum is reached and tighter until it is.

    Parameters
    ----------
    attempt : callable
        From a tolerance to the excess and the seconds of a fit, or None where the fit was given
        up; a tighter one is then not tried.
    ladder : sequence of float
        Tolerances.
    start : float
        Where to begin: the rung that is nearest.
    same : float
        Largest excess that counts as the optimum.

    Returns
    -------
    Found
        See there.
    """
    ladder = sorted(ladder, reverse=True)
    at = min(range(len(ladder)), key=lambda i: max(ladder[i] / start, start / ladder[i]))
    tried: list[dict[str, float | None]] = []
    ended: list[tuple[float, float]] = []  # (excess, tol)

    def reaches(i: int) -> bool | None:
        outcome = attempt(ladder[i])
        if outcome is None:
            tried.append({"tol": ladder[i], "excess": None, "seconds": None})
            return None
        excess, seconds = outcome
        tried.append({"tol": ladder[i], "excess": excess, "seconds": seconds})
        ended.append((excess, ladder[i]))
        return excess <= same

    here = reaches(at)
    if here is False:
        while here is False and at < len(ladder) - 1:
            at += 1
            here = reaches(at)
    else:  # it is reached, or takes too long: perhaps a looser one ends
        while at > 0 and (here or not ended):
            at -= 1
            here = reaches(at)
    good = [(tol, excess) for excess, tol in ended if excess <= same]
    if good:
        return Found(*max(good), True, tried)
    if ended:
        excess, tol = min(ended)
        return Found(tol, excess, False, tried)
    return Found(None, None, False, tried)
