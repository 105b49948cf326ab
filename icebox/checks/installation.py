"""Python, Icebox, the libraries that it requires, its extras, and the bundled weights."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from icebox.checks.finding import FAILURE, NOTE, OK, WARNING, Finding
from icebox.checks.requirements import Installation, Required, required
from icebox.checks.what_to_type import install_all, install_extra

# What each extra is for. Extras for work on Icebox itself have no command.
PURPOSES = {
    "anndata": ".h5ad files",
    "cpu": "OpenVINO",
    "dask": "--cluster dask",
    "demo": "--weights bundled",
    "example": "--dataset elpv",
    "hf": "--dataset hf:...",
    "onnx": "--to onnx",
    "open_clip": "open_clip:NAME",
    "parquet": ".parquet files",
    "ray": "--cluster ray",
    "transformers": "transformers:NAME",
    "wds": "--dataset wds:...",
}


def check_python() -> Iterator[Finding]:
    """Say which Python runs."""
    virtual = sys.prefix != sys.base_prefix
    conda = (Path(sys.prefix) / "conda-meta").is_dir()
    where = "venv" if virtual else "conda" if conda else "no virtual environment"
    version = platform.python_version()
    yield Finding(
        "python",
        OK,
        f"{version}, {sys.executable} ({where})",
        values={
            "version": version,
            "executable": sys.executable,
            "virtual_environment": virtual,
            "platform": platform.platform(),
        },
    )


def check_icebox(installation: Installation) -> Iterator[Finding]:
    """Say which Icebox runs, and where from."""
    version, folder = installation.version, installation.folder
    level = OK
    advice: tuple[str, ...] = ()
    if installation.checkout:
        where = f"a checkout, {folder}"
        if not installation.editable:
            where += ", not installed"
            level, advice = NOTE, (f"type: {install_all(installation)}",)
    else:
        where = f"a wheel, in {folder}"
    yield Finding(
        "icebox",
        level,
        f"{version or 'of no known version'}, {where}",
        advice,
        {"version": version, "folder": str(folder), "checkout": installation.checkout},
    )


def check_libraries(installation: Installation) -> Iterator[Finding]:
    """Compare what must be installed with what is."""
    if not installation.requires:
        yield Finding(
            "libraries", NOTE, "which are required is not known: Icebox is not installed",
            (f"type: {install_all(installation)}",),
        )  # fmt: skip
        return
    found = list(required(installation.requires))
    missing = [one for one in found if one.found is None]
    outside = [one for one in found if not one.fits]
    values = {
        "versions": {one.name: one.found for one in found},
        "missing": [one.name for one in missing],
        "outside": {one.name: one.wanted for one in outside},
    }
    if not missing and not outside:
        text = f"all {len(found)} that are required, in versions that fit"
        yield Finding("libraries", OK, text, values=values)
        return
    gone = [f"missing: {', '.join(one.name for one in missing)}"] if missing else []
    yield Finding(
        "libraries",
        FAILURE if missing else WARNING,
        "; ".join([*gone, *(one.words for one in outside)]),
        (f"type: {install_all(installation)}",),
        values,
    )


def check_extras(installation: Installation) -> Iterator[Finding]:
    """Say which extras are there, and what to type for each of the others."""
    there, advice, for_work, values = [], [], [], {}
    wrong: list[Required] = []
    for name in sorted(installation.extras, key=lambda name: (name not in PURPOSES, name)):
        needed = list(required(installation.extras[name], name, installation.extras))
        missing = [one.name for one in needed if one.found is None]
        outside = [one for one in needed if not one.fits]
        command = install_extra(installation, name)
        values[name] = {
            "installed": not missing,
            "missing": missing,
            "outside": {one.name: one.wanted for one in outside},
            "type": command,
        }
        if missing and name in PURPOSES:
            advice.append(f"{command}  # {PURPOSES[name]}")
        elif missing:
            for_work.append(name)
        else:
            there.append(name)
            wrong += [one for one in outside if one not in wrong]
    if for_work and installation.checkout:
        command = install_extra(installation, ",".join(for_work))
        advice.append(f"{command}  # for work on Icebox")
    text = f"there: {', '.join(there)}" if there else "none is there"
    if advice:
        text += "; what the others need, to be typed:"
    yield Finding("extras", NOTE if advice else OK, text, tuple(advice), values)
    for one in wrong:
        yield Finding("extras", WARNING, one.words, values={"outside": one.name})


def check_bundled() -> Iterator[Finding]:
    """Look for the weights that a package carries, and compare their digest."""
    from data.common.errors import UserError
    from extract.model.bundled import DISTRIBUTION, find_checked, find_file
    from extract.model.names import BUNDLED_MODEL

    if find_file() is None:
        text = f"not there: those of a small network, from a package ({DISTRIBUTION})"
        yield Finding("weights", NOTE, text, values={"installed": False})
        return
    try:
        bundled = find_checked()
    except UserError as error:
        lines = str(error).splitlines()
        yield Finding("weights", WARNING, lines[0], tuple(lines[1:]), {"installed": False})
        return
    yield Finding(
        "weights",
        OK,
        f"{BUNDLED_MODEL}, whole",
        values={"installed": True, "model": BUNDLED_MODEL, "file": str(bundled.path)},
    )
