"""``icebox demo``: what it asks of both stages, and what it says at the end.

The accuracies that its words rest on: ``test_the_demo...`` in tests/test_makefile.py.
"""

import re
from pathlib import Path

import pytest

import classify.__main__
import extract.__main__
from data.common.cli import Parser
from extract.model import bundled
from extract.options import add_options, to_options
from icebox import demo
from icebox.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def asked(monkeypatch):
    """Record the command lines of both stages, which print names in place of computing."""
    found = []

    def stage_one(argv):
        parser = Parser()
        add_options(parser, run=True)
        options = to_options(parser.parse_args(argv))
        found.append(options)
        print(options.features_dir / f"{options.model}.h5")

    def stage_two(argv):
        command, options = classify.__main__.parse(argv)
        found.append(options)
        names = [path.stem for path in options.stores] if command == "fit" else ["comparison"]
        for name in names:
            print(options.reports_dir / name / "report.html")

    monkeypatch.setattr(extract.__main__, "main", stage_one)
    monkeypatch.setattr(classify.__main__, "main", stage_two)
    return found


@pytest.mark.parametrize("trained", [True, False])
def test_what_is_run(asked, monkeypatch, capsys, tmp_path, trained):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundled, "find_file", lambda: Path("there") if trained else None)
    main(["demo", "--features-dir=my f", "--reports-dir=my r", "--jobs=2", "--few-shot"])
    *features, fit, compare = asked
    kinds = [(one.model, one.weights, one.image_size) for one in features]
    assert kinds == [
        ("pixels", "hub", None),
        ("test_efficientnet", "random", 64),
        *([("tf_efficientnet_lite0", "bundled", 128)] if trained else []),
    ]
    assert {(one.dataset, one.jobs) for one in features} == {("digits", 2)}
    names = [*(["tf_efficientnet_lite0"] if trained else []), "pixels", "test_efficientnet"]
    assert fit.stores == [Path("my f", f"{name}.h5") for name in names]
    assert fit.few_shot and fit.jobs == 2 and fit.reports_dir == Path("my r")
    pages = [Path("my r", name, "report.html") for name in names]
    assert compare.runs == pages
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "my r/comparison/report.html"
    assert printed[-2 - len(pages) : -2] == [str(page) for page in pages]
    assert any("make " in line for line in printed) is False  # there is no Makefile here


def test_defaults(asked, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    main(["demo"])
    assert asked[0].features_dir == Path("features") and asked[-2].reports_dir == Path("reports")
    assert not asked[-2].few_shot and asked[-2].jobs is None


def test_words_name_make_in_the_checkout_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert demo.in_checkout()
    monkeypatch.chdir(ROOT / "docs")
    assert not demo.in_checkout()
    said = {make: demo.what_was_shown(trained=True, make=make) for make in (True, False)}
    assert "make example" in said[True] and "icebox " not in said[True]
    assert "icebox features" in said[False] and not re.search(r"\bmake ", said[False])
    for text in (*said.values(), demo.what_was_shown(trained=False, make=False)):
        assert "{" not in text and max(map(len, text.splitlines())) <= 100
    without = demo.what_was_shown(trained=False, make=True)
    assert "[demo]' installs it" in without and "no test tells" not in without
