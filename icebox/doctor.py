"""``icebox doctor``: what there is on this machine, and what is missing, in one screen."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from data.common.cache_folder import cache_folder, use_cache_folder
from data.common.cli import Parser, folder_path
from data.common.errors import UserError
from icebox.checks import contents, devices, installation, machine, names, shell
from icebox.checks.finding import FAILURE, WARNING, Finding, found_by
from icebox.checks.hub import HubRequest, check_hub
from icebox.checks.probes import Probe
from icebox.checks.requirements import Installation, find_installation
from icebox.checks.screen import show, verdict, wants_colour

HELP = "what there is on this machine, and what is missing: Python, devices, extras, stores"
EXAMPLE = "icebox doctor --features-dir features --reports-dir reports"
SCHEMA_VERSION = 1


def add_options(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--features-dir", type=folder_path, default=Path("features"), metavar="DIR",
        help="where stores are looked for (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--reports-dir", type=folder_path, default=Path("reports"), metavar="DIR",
        help="where runs are looked for (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--data-dir", type=folder_path, default=Path("data/raw"), metavar="DIR",
        help="where downloads are looked for (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--offline", action="store_true", help="do not ask whether the hub answers")
    parser.add_argument("--json", action="store_true", help="print JSON, for a bug report")


@dataclass(frozen=True)
class Asked:
    """What is looked at."""

    features_dir: Path
    reports_dir: Path
    data_dir: Path
    offline: bool = False


def run(options: Namespace) -> None:
    """Run ``doctor``: lines or JSON on stdout; a failure ends it with exit code 2."""
    use_cache_folder(options.features_dir)
    asked = Asked(options.features_dir, options.reports_dir, options.data_dir, options.offline)
    findings = examine(asked)
    if options.json:
        print(json.dumps(as_json(findings), indent=2))
    else:
        print(show(findings, wants_colour()))
    if any(one.level == FAILURE for one in findings):
        raise UserError(
            "what is marked FAIL keeps commands from running; do what stands below it, and run "
            "icebox doctor again"
        )


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """Put findings into the form that the manual describes."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "doctor",
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "verdict": verdict(findings),
        "failures": sum(one.level == FAILURE for one in findings),
        "warnings": sum(one.level == WARNING for one in findings),
        "findings": [one.to_json() for one in findings],
    }


def examine(asked: Asked) -> list[Finding]:
    """Look at everything; what takes long is under way meanwhile."""
    # Importing torch takes seconds, and the hub may take its two.
    probes: list[Probe] = []
    request = None if asked.offline else _start(HubRequest, probes)
    try:
        installed, missing = _installation()
        torch = _start(devices.start_torch, probes)
        openvino = _start(devices.start_openvino, probes)
        beside = list(_without_torch(asked, installed))
        first = list(_with_torch(torch, openvino, installed))
        last = found_by("hub", lambda: list(check_hub(_asked(request))))
    finally:
        for probe in probes:
            probe.stop()
    python = found_by("python", lambda: list(installation.check_python()))
    found = [*python, *missing, *first, *beside, *last]
    return sorted(found, key=lambda one: ORDER.index(one.name) if one.name in ORDER else len(ORDER))


# From what everything stands on to what is only listed; extras, which take most lines, at the end.
ORDER = (
    "python", "icebox", "torch", "cuda", "mps", "openvino", "libraries", "names", "processor",
    "memory", "disk", "hub", "weights", "caches", "stores", "unfinished", "runs", "completion",
    "extras",
)  # fmt: skip


def _installation() -> tuple[Installation, list[Finding]]:
    try:
        return find_installation(), []
    except Exception as error:  # metadata that cannot be read is reported as any other trouble
        folder = Path(__file__).parents[1]
        nothing = Installation(folder, False, False, None, (), {})
        return nothing, [Finding("icebox", WARNING, f"its metadata cannot be read: {error}")]


def _start(start: Any, probes: list[Probe]) -> Any:
    """Start what takes long; what keeps it from starting is raised when its answer is wanted."""
    try:
        started = start()
    except Exception as error:  # no processes or threads are left, or this Python has no name
        return error
    if isinstance(started, Probe):
        probes.append(started)
    return started


def _asked(started: Any) -> Any:
    if isinstance(started, Exception):
        raise started
    return started


def _with_torch(torch: Any, openvino: Any, installed: Installation) -> Iterator[Finding]:
    found = found_by("torch", lambda: list(devices.check_torch(_asked(torch), installed)))
    yield from found
    gpu = any(one.name == "cuda" and one.values.get("name") for one in found)
    yield from found_by(
        "openvino", lambda: list(devices.check_openvino(_asked(openvino), installed, gpu))
    )


def _without_torch(asked: Asked, installed: Installation) -> Iterator[Finding]:
    # Torch must fit into the same screen: what follows is quick, and has a time of its own.
    places = {
        "features": asked.features_dir,
        "reports": asked.reports_dir,
        "downloads": asked.data_dir,
    }

    def disk() -> Iterator[Finding]:
        more = {
            "caches": cache_folder(asked.features_dir),
            "temporary files": machine.temporary_folder(),
        }
        return machine.check_disk({**places, **more})

    for name, check in (
        ("icebox", partial(installation.check_icebox, installed)),
        ("libraries", partial(installation.check_libraries, installed)),
        ("names", names.check_names),
        ("processor", machine.check_processor),
        ("memory", machine.check_memory),
        ("disk", disk),
        ("weights", installation.check_bundled),
        ("stores", partial(contents.check_stores, asked.features_dir)),
        ("unfinished", partial(contents.check_leftovers, asked.features_dir)),
        ("runs", partial(contents.check_runs, asked.reports_dir)),
        ("caches", partial(contents.check_caches, asked.features_dir, asked.data_dir)),
        ("completion", shell.check_completion),
        ("extras", partial(installation.check_extras, installed)),
    ):
        yield from found_by(name, partial(_listed, check))


def _listed(check: Any) -> list[Finding]:
    return list(check())
