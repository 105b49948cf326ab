"""docs/reference/formats.md and results.md, compared with the files of a real run."""

import doctest
import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from warm_processes import run_warm

from classify.__main__ import main as classify

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
# Objects whose keys are names: of strategies, classes, images, or files and options as given.
NAMED = {
    "strategies.*.setting",
    "strategies",
    "strategies.*.test.per_class",
    "own_c",
    "few_shot.curves",
    "few_shot.enough",
    "images.thumbnails",
    "numerics.cases[].flips",
    "images.disagreements[].answers",
    "images.confident_errors[].answers",
    "store.request.options",
    "store.request.files",
    "timings.select",
    "timings.fit",
    "timings.evaluate",
}
WHOLE = {"store.spec.model.args", "store.request.options.*", "store.request.files.*"}


def run(words, folder):
    done = run_warm(
        [sys.executable, *words[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Run the commands of formats.md in an empty folder."""
    folder = tmp_path_factory.mktemp("session")
    text = (REFERENCE / "formats.md").read_text(encoding="utf-8")
    [extract] = re.findall(r"```sh\n(python -m extract .*)\n```", text)
    [fit] = re.findall(r"`(python -m classify fit [^`]*)`", text)
    store = run(shlex.split(extract), folder)
    run([word if "*" not in word else store for word in shlex.split(fit)], folder)
    return folder, text, store


def test_the_session_of_formats_can_be_repeated(session, monkeypatch):
    folder, text, _ = session
    monkeypatch.chdir(folder)
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    examples = doctest.DocTestParser().get_doctest(code, {}, "formats.md", "formats.md", 0)
    assert len(examples.examples) > 25
    told: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(examples, out=told.append)
    assert results.failed == 0, "".join(told)


def test_the_examples_of_exported_estimators(session, monkeypatch):
    folder, _, store = session
    monkeypatch.chdir(folder)
    page = (ROOT / "docs" / "guide" / "export.md").read_text(encoding="utf-8")
    [text] = [part for part in page.split("\n## ") if part.startswith("scikit-learn\n")]
    [command] = re.findall(
        r"^    (python -m classify export .* --to sklearn .*)$", text, re.MULTILINE
    )
    [run_folder] = (folder / "reports").glob("*/*")
    run(shlex.split(command.replace("reports/STORE/RUN", str(run_folder))), folder)
    code = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    names = {"store": store, "run": run_folder}
    examples = doctest.DocTestParser().get_doctest(code, names, "export.md", "export.md", 0)
    assert len(examples.examples) > 12
    told: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(examples, out=told.append)
    assert results.failed == 0, "".join(told)


def fields(value, path=""):
    """Return the paths of a nested value's leaves, with `*` for names and `[]` for items."""
    if path in WHOLE:
        return {path}
    if isinstance(value, dict):
        found = set()
        for key, item in value.items():
            name = "*" if path in NAMED else key
            if path == "strategies" and ({"pairs", "detection"} & set(item)):
                own = {k: item.pop(k) for k in ("pairs", "detection") if k in item}
                found |= {f for k, v in own.items() for f in fields(v, f"strategies.{key}.{k}")}
            found |= fields(item, f"{path}.{name}" if path else name)
        return found
    if isinstance(value, list):
        found = set().union(*(fields(item, f"{path}[]") for item in value))
        return found or {f"{path}[]"}
    return {path}


def documented(text):
    return re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)


def test_every_field_of_results_is_documented(session, monkeypatch, unwritten_figures):
    folder, _, store = session
    monkeypatch.chdir(folder)
    classify(["fit", store, "--reports-dir=full", "--seed=0", "--jobs=1"])
    [page] = folder.glob("full/*/*/results.json")
    results = json.loads(page.read_text(encoding="utf-8"))
    found = fields(results)
    always, sometimes = (REFERENCE / "results.md").read_text().split("## Only in some runs")
    named = documented(always)
    assert len(named) == len(set(named)) and len(named) > 200
    every = named + documented(sometimes)  # which engine runs, for one, is measured
    unnamed = {f for f in found if f not in every and not any(n.startswith(f"{f}[") for n in every)}
    assert unnamed == set()
    # Lists that may be empty, and what this run had nothing of.
    listed = {f for f in named if f not in found and not any(f.startswith(f"{g}") for g in found)}
    assert listed == set()
    assert len(documented(sometimes)) == 109


def test_every_field_that_a_reader_checks_is_documented():
    from classify.results.shape import RUN

    text = (REFERENCE / "results.md").read_text(encoding="utf-8")
    last = {re.split(r"[.\[]", name.replace("[]", ""))[-1] for name in documented(text)}
    inner = {part for name in documented(text) for part in re.split(r"\.|\[\]", name)}

    def keys(shape):
        if isinstance(shape, dict):
            for key, item in shape.items():
                if key != "*":
                    yield key.removesuffix("?")
                yield from keys(item)
        elif isinstance(shape, list) and shape:
            yield from keys(shape[0])

    assert set(keys(RUN)) <= last | inner
