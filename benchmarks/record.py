"""What a benchmark leaves: aligned tables on stdout, and a JSON file that grows with them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from classify.results.file import json_ready

PACKAGES = (
    "icebox",
    "numpy",
    "scipy",
    "scikit-learn",
    "joblib",
    "scikit-learn-intelex",
    "snapml",
    "cyanure",
)


def machine() -> dict[str, Any]:
    """Describe the machine and the libraries.

    Returns
    -------
    dict
        JSON values.
    """
    from threadpoolctl import threadpool_info

    facts: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "system": platform.platform(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "blas": [
            f"{lib['internal_api']} {lib['version']}"
            for lib in threadpool_info()
            if lib["user_api"] == "blas"
        ],
    }
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            facts[package] = version(package)
    return facts


def cpu_name() -> str:
    """Return the model of the processor, as the system names it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(json_ready(content), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


class Record:
    """The JSON file of one part; written again after every result.

    Parameters
    ----------
    folder : Path
        Where it goes.
    part : str
        Its name.
    settings : dict
        What the part was told.
    """

    def __init__(self, folder: Path, part: str, settings: dict[str, Any]) -> None:
        self.path = folder / f"{part}.json"
        self.content: dict[str, Any] = {
            "part": part,
            "complete": False,
            "machine": machine(),
            "settings": settings,
            "results": [],
            "remarks": [],
        }

    def add(self, result: dict[str, Any]) -> None:
        """Keep a result."""
        self.content["results"].append(result)
        write_json(self.path, self.content)

    def remark(self, text: str) -> None:
        """Print a line and keep it."""
        print(text, flush=True)
        self.content["remarks"].append(text)
        write_json(self.path, self.content)

    def remark_missed(self, name: str) -> None:
        """Name the goals that were not reached, each with what stands under ``name`` beside it."""
        missed = [
            f"{result[name]}: {goal}"
            for result in self.content["results"]
            for goal, reached in result["reached"].items()
            if not reached
        ]
        self.remark("not reached: " + "; ".join(missed) if missed else "every goal is reached")

    def finish(self) -> None:
        """Mark the file as whole, and print where it is."""
        self.content["complete"] = True
        write_json(self.path, self.content)
        print(f"-> {self.path}\n", flush=True)


class Cache:
    """Numbers that are the same each time: references, and the tolerances that were found.

    Parameters
    ----------
    folder : Path
        Where ``cache.json`` lies.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "cache.json"
        self._content: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            self._content = json.loads(self.path.read_text(encoding="utf-8"))

    def get(self, *key: object) -> Any:
        """Return what was kept under a key, or None."""
        return self._content.get("|".join(map(str, key)))

    def put(self, value: Any, *key: object) -> None:
        """Keep a value."""
        self._content["|".join(map(str, key))] = json_ready(value)
        write_json(self.path, self._content)


class Table:
    """An aligned table that prints each row when it comes.

    Parameters
    ----------
    columns : sequence of (str, int)
        Titles and widths; the first column is aligned left.
    """

    def __init__(self, columns: Sequence[tuple[str, int]]) -> None:
        self.widths = [max(width, len(title)) for title, width in columns]
        self.row(*(title for title, _ in columns))

    def row(self, *cells: object) -> None:
        """Print one row."""
        texts = [str(cell) for cell in cells]
        first = texts[0].ljust(self.widths[0])
        rest = [text.rjust(width) for text, width in zip(texts[1:], self.widths[1:], strict=True)]
        print("  ".join([first, *rest]).rstrip(), flush=True)


def amount(size: float | None) -> str:
    """Write bytes as MB (10^6)."""
    return "-" if size is None else f"{size / 1e6:,.0f} MB"


def duration(seconds: float | None) -> str:
    """Write seconds with three figures or so."""
    if seconds is None:
        return "-"
    if seconds < 0.1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:,.0f} s"


def tiny(value: float | None) -> str:
    """Write an excess."""
    return "-" if value is None else f"{value:.1e}"
