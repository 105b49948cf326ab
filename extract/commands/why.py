"""``python -m extract why``: whether there is a store for these settings, or what differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.common.cli import log
from data.format.records import Header
from data.format.spec import DECODE, EXACT, cropped_twice
from extract import request as requests
from extract.model.features.choice import FeatureChoice
from extract.model.preprocessing import size_text
from extract.options import Options

NEAREST = 3
WIDTH = 44


def explain_all(every: Sequence[Options]) -> list[Path | None]:
    """Do what `explain` does for each store that was asked for."""
    paths = []
    for options in every:
        if len(every) > 1:
            choice = FeatureChoice(options.pool, options.layer).options()
            size = options.image_size
            log(f"{choice}{'' if size is None else f' --image-size {size_text(size)}'}:")
        paths.append(explain(options))
    return paths


def explain(options: Options) -> Path | None:
    """Say whether a store exists for the options, or how the nearest ones differ.

    Only what the stores say of themselves is read; no model is built.

    Parameters
    ----------
    options : Options
        As for a run.

    Returns
    -------
    Path or None
        The store, if there is one.
    """
    request = requests.Request(options)
    header = requests.find(options, request)
    if header is not None:
        requests.announce(header, options)
        return header.path
    headers = requests.stores_of(options)
    if not headers:
        log(f"no store for this dataset in {options.features_dir}")
        return None
    compared = sorted(
        ((differences(request, header), header) for header in headers),
        key=lambda pair: len(pair[0]),
    )
    log("no store was made with these settings; the nearest:")
    for differing, header in compared[:NEAREST]:
        _show(header, differing)
    if len(compared) > NEAREST:
        log(f"and {len(compared) - NEAREST} more")
    log("(settings spelled differently can mean the same: a run finds out before it computes)")
    return None


def differences(request: requests.Request, header: Header) -> list[tuple[str, str, str]]:
    """List the settings in which a request differs from the one that a store was made for."""
    theirs: dict[str, Any] = header.request.get("options", {})
    # Some options are kept only where they are not the default, and so may be on one side alone.
    asked = dict.fromkeys([*request.options, *theirs])
    asked |= request.options
    found = [
        (_option(name), _text(name, value), _text(name, theirs.get(name)))
        for name, value in asked.items()
        if value != theirs.get(name)
    ]
    for name in ("dataset", "weights"):
        stored = header.request.get("files", {}).get(name)
        ours = request.stamps[name]
        if stored is None and ours is None:
            continue
        if not request.same_file(name, header.request):
            then = stored["path"] if stored else "none"
            now = ours["path"] if ours else "none"
            found.append((f"{name} files", now, f"{then}, with other content"))
    if cropped_twice(header.spec):
        found.append(("photographs", "cropped once", "cropped twice, by an earlier Icebox"))
    theirs_now = header.request.get(requests.LIBRARIES, {})
    for name in {**request.libraries, **theirs_now}:
        pair = (request.libraries.get(name, "none"), str(theirs_now.get(name, "none")))
        if pair[0] != pair[1]:
            found.append((name, *pair))
    changed = requests.changed_since(header.request)
    if changed:
        found.append(("a file that the factory reads", changed, "with other content"))
    if request.timm != header.request.get("timm"):
        found.append(("timm", request.timm, str(header.request.get("timm"))))
    return found


def _option(name: str) -> str:
    return "--model-arg" if name == "model_args" else f"--{name.replace('_', '-')}"


def _text(name: str, value: object) -> str:
    if name == "image_size" and isinstance(value, list):
        return "x".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ",".join(item if isinstance(item, str) else f"{item:g}" for item in value)
    if name == DECODE and value is None:
        return EXACT
    return "the default" if value is None else str(value)


def _show(header: Header, differing: list[tuple[str, str, str]]) -> None:
    log(f"{header.path}")
    rows = [("setting", "yours", "theirs"), *differing]
    widths = [min(max(len(row[column]) for row in rows), WIDTH) for column in range(2)]
    for name, ours, theirs in rows:
        log(f"  {name:<{widths[0]}}  {ours:<{widths[1]}}  {theirs}")
