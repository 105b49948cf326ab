"""Part ``one-c``: one fit at one C, Icebox and each peer in turn, both at the same optimum."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.objective import objective
from benchmarks.peers import ADVICE, PEERS, icebox, installed, quietly, weights_of
from benchmarks.processes import Failed, TooLong, scratch, trial
from benchmarks.record import Cache, Record, Table, duration, tiny
from benchmarks.rows import Rows
from benchmarks.search import SAME, Found, loosest
from benchmarks.settings import Settings

GOAL = 10.0
FLOOR = {"multinomial": 5.0, "ovr": 5.0, "ovo": 4.0}
REFERENCE_TOL = 1e-9
# Changes when what is cached would come out differently.
CACHE_VERSION = 1


def reference(rows: Rows, digest: str, strategy: str, C: float, cache: Cache) -> dict[str, float]:
    """Return the lowest objective that is known, from a float64 fit of Icebox.

    Parameters
    ----------
    rows : Rows
        The rows.
    digest : str
        Theirs.
    strategy : str
        Which heads.
    C : float
        Weight of the losses.
    cache : Cache
        Where it is kept.

    Returns
    -------
    dict
        ``objective``, and ``gap``: by how much, relatively, it is proven to be within the minimum.
    """
    key = ("reference", CACHE_VERSION, digest, strategy, repr(C))
    known = cache.get(*key)
    if known is None:
        wide = rows.X.astype(np.float64)
        fitted = quietly(icebox(strategy, C, tol=REFERENCE_TOL, max_iter=5000), wide, rows.y)
        del wide
        value = objective(strategy, *weights_of(fitted), C, rows.X, rows.y)
        known = {"objective": value, "gap": fitted.certificate_["gap_bound"] / value}
        cache.put(known, *key)
    return known


def tolerance(
    peer: str,
    strategy: str,
    C: float,
    rows: Rows,
    digest: str,
    lowest: float,
    saved: Path,
    settings: Settings,
    cache: Cache,
) -> Found:
    """Find, or remember, the loosest tolerance at which a peer is at the optimum."""
    limit = settings.peer_limit
    key = ("tolerance", CACHE_VERSION, digest, strategy, repr(C), peer, installed(peer))
    known = cache.get(*key)
    if known and (known["reached"] or known["limit"] >= limit):
        return Found(**{name: known[name] for name in ("tol", "excess", "reached", "tried")})

    def attempt(tol: float) -> tuple[float, float] | None:
        job = {"kind": "fit", "peer": peer, "strategy": strategy, "C": C, "tol": tol}
        try:
            done = trial({**job, "rows": str(saved)}, limit)
        except TooLong:
            return None
        value = objective(strategy, done["coef"], done["intercept"], C, rows.X, rows.y)
        return value / lowest - 1, done["seconds"]

    found = loosest(attempt, ladder=PEERS[peer].ladder, start=settings.peer_tol)
    cache.put({**asdict(found), "limit": limit}, *key)
    return found


def contest(
    peer: str,
    strategy: str,
    C: float,
    rows: Rows,
    digest: str,
    saved: Path,
    settings: Settings,
    cache: Cache,
) -> dict[str, Any]:
    """Time Icebox and a peer in turn.

    Parameters
    ----------
    peer, strategy : str
        Who, and what.
    C : float
        Weight of the losses.
    rows, digest, saved : Rows, str, Path
        The rows, their digest, and where `Rows.save` wrote them.
    settings, cache : Settings, Cache
        What was told, and what is known.

    Returns
    -------
    dict
        One result, as it goes into the JSON file.
    """
    best = reference(rows, digest, strategy, C, cache)
    lowest = best["objective"]
    found = tolerance(peer, strategy, C, rows, digest, lowest, saved, settings, cache)
    job: dict[str, Any] = {"kind": "contest", "strategy": strategy, "C": C, "rows": str(saved)}
    job |= {"repeats": settings.repeats}
    if found.tol is not None:
        job |= {"peer": peer, "tol": found.tol}
    done = trial(job)
    seconds = done["seconds"]

    def excess(who: str) -> float:
        heads = done[f"{who}_coef"], done[f"{who}_intercept"]
        return objective(strategy, *heads, C, rows.X, rows.y) / lowest - 1

    ours, theirs = seconds["icebox"], seconds.get("peer")
    if theirs:
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    else:
        ratio = settings.peer_limit / statistics.median(ours)
    their_excess = excess("peer") if theirs else None
    return {
        "data": rows.describe(),
        "digest": digest,
        "peer": peer,
        "peer_version": installed(peer),
        "strategy": strategy,
        "C": C,
        "seconds": seconds,
        "icebox": statistics.median(ours),
        "peer_seconds": statistics.median(theirs) if theirs else None,
        "ratio": ratio,
        # Where not one fit of the peer ended, the ratio is the limit's: the truth is above it.
        "ratio_is": "median of pairs" if theirs else "at least",
        "our_excess": excess("icebox"),
        "peer_excess": their_excess,
        "peer_tol": found.tol,
        "peer_reached": their_excess is not None and their_excess <= SAME,
        "search": found.tried,
        "reference_gap": best["gap"],
    }


def present(settings: Settings, record: Record) -> list[str]:
    """Return the peers that are installed; say which are not, and how to get them."""
    there = []
    for peer in settings.peers:
        if installed(peer):
            there.append(peer)
        else:
            record.remark(f"{peer} is not installed: {ADVICE}")
    return there


def goals(results: list[dict[str, Any]]) -> str:
    """Say which of some results reach the goal and the floor.

    Parameters
    ----------
    results : list of dict
        Of one peer.

    Returns
    -------
    str
        One line.
    """

    def names(chosen: list[dict[str, Any]]) -> str:
        return ", ".join(f"{r['strategy']} C={r['C']:g}" for r in chosen) or "none"

    wrong = [r for r in results if r["our_excess"] > SAME]
    right = [r for r in results if r not in wrong]
    goal = [r for r in right if r["ratio"] >= GOAL]
    floor = [r for r in right if FLOOR[r["strategy"]] <= r["ratio"] < GOAL]
    below = [r for r in right if r["ratio"] < FLOOR[r["strategy"]]]
    line = (
        f"goal of {GOAL:g}x: {names(goal)}; only the floor of {FLOOR['ovr']:g}x "
        f"({FLOOR['ovo']:g}x for ovo): {names(floor)}; below it: {names(below)}"
    )
    return line + (f"; NOT AT THE OPTIMUM OURSELVES: {names(wrong)}" if wrong else "")


def run(settings: Settings) -> Record:
    """Run the part.

    Parameters
    ----------
    settings : Settings
        What was told.

    Returns
    -------
    Record
        What was written.
    """
    record = Record(settings.results, "one-c", settings.record())
    cache = Cache(settings.results)
    peers = present(settings, record)
    for rows in settings.data():
        record.remark(f"{rows.describe()}; medians of {settings.repeats} paired runs")
        digest = rows.digest()
        with scratch() as folder:
            saved = rows.save(folder / "rows")
            for peer in peers:
                _against(peer, rows, digest, saved, settings, cache, record)
    record.finish()
    return record


def _against(
    peer: str,
    rows: Rows,
    digest: str,
    saved: Path,
    settings: Settings,
    cache: Cache,
    record: Record,
) -> None:
    about = f"\nagainst {peer} {installed(peer)}"
    record.remark(about + (f" ({PEERS[peer].remark})" if PEERS[peer].remark else ""))
    titles = ("strategy", "C", "Icebox", "peer", "ratio", "our excess", "its excess", "its tol")
    table = Table(tuple(zip(titles, (12, 7, 10, 10, 8, 10, 10, 8), strict=True)))
    done = []
    for C in settings.C:
        for strategy in settings.strategies:
            if strategy not in PEERS[peer].strategies:
                continue
            try:
                row = contest(peer, strategy, C, rows, digest, saved, settings, cache)
            except Failed as error:
                last = str(error).splitlines()[-1:] or ["no message"]
                record.add(
                    {"peer": peer, "strategy": strategy, "C": C, "data": rows.describe()}
                    | {"failed": str(error)}
                )
                record.remark(f"{strategy} at C={C:g} failed: {last[0]}")
                continue
            theirs = duration(row["peer_seconds"])
            ratio = f"{row['ratio']:.1f}"
            if row["peer_tol"] is None:
                theirs, ratio = f"> {settings.peer_limit:g} s", f"> {ratio}"
            tol = "-" if row["peer_tol"] is None else f"{row['peer_tol']:.0e}"
            table.row(
                *(strategy, f"{C:g}", duration(row["icebox"]), theirs, ratio),
                *(tiny(row["our_excess"]), tiny(row["peer_excess"])),
                tol + ("" if row["peer_reached"] or row["peer_tol"] is None else " *"),
            )
            record.add(row)
            done.append(row)
            if row["reference_gap"] > SAME / 10:
                record.remark(
                    f"warning: the reference of {strategy} at C={C:g} is only proven to be within "
                    f"a relative {row['reference_gap']:.0e} of the minimum"
                )
    if any(not row["peer_reached"] and row["peer_tol"] is not None for row in done):
        record.remark(f"* as near as it gets: no tol of its ladder reaches {SAME:g}")
    if done:
        record.remark(goals(done))
