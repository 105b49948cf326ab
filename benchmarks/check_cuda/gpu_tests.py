"""The tests that need a device: those marked ``gpu``."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.check_cuda.rows import Context, Row
from benchmarks.processes import ROOT

NAMED = 6  # failures that get a row of their own


def tests(context: Context, _: str) -> Iterator[Row]:
    """Run the marked tests in pytest, and name those that fail."""
    if find_spec("pytest") is None:
        yield Row("tests marked gpu", "pytest is not installed", "all pass", False)
        return
    marker, files = context.sizes.marker, context.sizes.tests
    # Only their files: others may import what is not installed here.
    chosen = marked_files(marker) if files is None else [Path(file) for file in files]
    report = context.folder / "tests.xml"
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    if marker:
        options.append(f"-m={marker}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *map(str, chosen)], cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout[-20_000:], done.stderr[-5_000:], sep="\n", flush=True)
    if not report.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        yield Row("tests marked gpu", f"pytest ended with {done.returncode}: {lines[-1]}",
                  "all pass", False)  # fmt: skip
        return
    yield from read(report)


def marked_files(marker: str) -> list[Path]:
    """List the files of tests that name a marker."""
    sign = re.compile(rf"pytest\.mark\.{marker}\b")
    found = (ROOT / "tests").rglob("test_*.py")
    return sorted(path for path in found if sign.search(path.read_text(encoding="utf-8")))


def read(report: Path) -> Iterator[Row]:
    """Count what pytest found, and name the failures."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [(case, part) for case in cases for part in case if part.tag in ("failure", "error")]
    skipped = sum(part.tag == "skipped" for case in cases for part in case)
    passed = len(cases) - len({id(case) for case, _ in failed}) - skipped
    text = f"{passed} passed, {len(failed)} failed, {skipped} skipped"
    names = [f"{case.get('classname')}::{case.get('name')}" for case, _ in failed]
    facts = {"passed": passed, "failed": names, "skipped": skipped}
    ok = passed > 0 and not failed and not skipped
    yield Row("tests marked gpu", text, "all pass", ok, facts=facts)
    for (case, part), name in list(zip(failed, names, strict=True))[:NAMED]:
        first = (part.get("message") or "").strip().splitlines() or [part.tag]
        yield Row(str(case.get("name")), first[0][:160], "", False,
                  facts={"name": name, "text": (part.text or "")[-4000:]})  # fmt: skip
