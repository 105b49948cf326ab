"""Print the digests of what both stages write: `python tests/digests.py [FOLDER] > before.txt`.

Two versions of the program that print the same lines give a user the same stores, heads, results
and pages. Times, dates, versions and the folder of the run are taken out first, and the moments of
older stores, which no reader uses. Where ICEBOX_REAL_DATA names a folder with CIFAR-10's archive
(the official one or a mirror's), 3,000 of its images are embedded too.
What was written stays in FOLDER, where one is given.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

COMMON = ["--model=test_efficientnet", "--weights=random", "--engine=torch", "--batch-size=64"]
# What a clock, a machine or a folder decides, in pages.
NOT_OURS = [
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\+\d\d:\d\d| UTC)?",  # a date
    r"\d[\d,.]*(e-?\d+)? ?(s|ms|min|seconds?|minutes?)\b",  # a time
    r"\d[\d,.]* images (a|per) second",
    r"(images per second|peak memory mb|seconds|finished|started)(\s|\||<[^>]*>)*[\d.]+",
    r"timing: [^\n]*",
    r"<svg.*?</svg>",  # each is a file of its own
    r"20\d{6}-\d{6}\w*",  # the name of a run
]
TIMED = re.compile("time|cost")  # figures
VARYING = {
    "timings",
    "command",
    "environment",
    "fit_seconds",
    "predict_seconds",
    "provenance",
    "path",
    "seconds",
}
VARYING |= {"extraction_seconds_per_1000", "fit_seconds_all", "folder"}


def run(*words: str, cwd: Path) -> str:
    """Run one command of Icebox, return the last line that it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path[1:]])}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if not os.environ.get("LOUD") else None,
        text=True,
    )
    return done.stdout.strip().splitlines()[-1]


def digest(what: bytes | str) -> str:
    return hashlib.sha256(what.encode() if isinstance(what, str) else what).hexdigest()[:16]


def store_lines(path: Path) -> Iterator[str]:
    with h5py.File(path) as file:
        for name in ("schema_version", "key", "spec", "class_names"):
            yield f"@{name} {digest(str(file.attrs[name]))}"
        names: list[str] = []
        file.visititems(lambda name, what: names.append(name) if hasattr(what, "shape") else None)
        for name in sorted(names):
            if "/moments" in name:
                continue
            values = np.asarray(file[name][()])
            content = (
                b"\n".join(values.ravel().tolist()) if values.dtype == object else values.tobytes()
            )
            kept = file[name].attrs.get("sha256", "")
            yield f"{name} {values.dtype} {values.shape} {digest(content)} {digest(str(kept))}"


def without_varying(what: object) -> object:
    if isinstance(what, dict):
        return {k: without_varying(v) for k, v in what.items() if k not in VARYING}
    if isinstance(what, str):
        return without_times(what)
    return [without_varying(item) for item in what] if isinstance(what, list) else what


def without_times(text: str) -> str:
    for pattern in NOT_OURS:
        text = re.sub(pattern, "~", text, flags=re.DOTALL)
    return text


def table(path: Path) -> str:
    """A table without the columns of seconds."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [{k: v for k, v in row.items() if "second" not in k} for row in rows]
    return without_times(json.dumps(kept))


def report_lines(folder: Path) -> Iterator[str]:
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = re.sub(NOT_OURS[-1], "~", str(path.relative_to(folder)))
        if path.name.startswith(".") or path.suffix == ".lock":
            continue
        if path.suffix == ".csv":
            yield f"{name} {digest(table(path))}"
        elif path.suffix == ".svg" and TIMED.match(path.name):
            yield f"{name} is there"
        elif path.suffix == ".json":
            found = without_varying(json.loads(path.read_text(encoding="utf-8")))
            yield f"{name} {digest(json.dumps(found, sort_keys=True))}"
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                yield from (f"{name}:{key} {digest(stored[key].tobytes())}" for key in stored)
        elif path.suffix in {".html", ".md", ".svg"}:
            yield f"{name} {digest(without_times(path.read_text('utf-8')))}"
        else:
            yield f"{name} {digest(path.read_bytes())}"


def pipeline(title: str, words: list[str], folder: Path) -> Iterator[str]:
    """Both stages and the comparison; every line starts with the title."""
    store = run("extract", *COMMON, *words, "--features-dir=features", cwd=folder)
    yield from (f"{title} store {line}" for line in store_lines(folder / store))
    fit = ["classify", "fit", store, "--reports-dir=reports"]
    run(*fit, "--few-shot", cwd=folder)
    run(*fit, "--c=0.01", "--no-intercept", "--normalize=l2", "--strategy=ovo", cwd=folder)
    run("classify", "compare", "--reports-dir=reports", cwd=folder)
    yield from (f"{title} {line}" for line in report_lines(folder / "reports"))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = sys.argv[1] if len(sys.argv) > 1 else folder
        digits = Path(scratch, "digits")
        digits.mkdir(parents=True)
        lines = [*pipeline("digits", ["--dataset=digits", "--image-size=64"], digits)]
        if real := os.environ.get("ICEBOX_REAL_DATA"):
            cifar = Path(scratch, "cifar")
            cifar.mkdir()
            archive = Path(real, "cifar-10-binary.tar.gz").resolve()
            checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
            words = [f"--data-dir={archive.parent}", f"--data-sha256={checksum}"]
            words += ["--limit=3000", "--image-size=64"]
            lines += pipeline("cifar10", words, cifar)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
