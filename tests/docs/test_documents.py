"""The documents: length, links, command lines, generated parts, glossary."""

import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *DOCS.rglob("*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)


def named(path):
    return path.relative_to(ROOT).as_posix()


def tool(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_lines(text):
    """Return the lines of code blocks, fenced or indented, with continuations joined."""
    lines, fenced = [], False
    for line in text.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line.strip())
    return lines


def commands(text):
    """Return the command lines that a page shows, in blocks and within sentences."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in [*code_lines(text), *spans]:
        line = re.sub(r"\[[^]]*\]", "", line)  # placeholders
        if re.match(r"(ls .*\| *)?(python -m (extract|classify)|icebox|make)( [\w-]|$)", line):
            yield line


COMMANDS = sorted(
    {
        (named(page), line)
        for page in PAGES
        for line in commands(page.read_text(encoding="utf-8"))
        if line not in ("make", "python -m classify", "icebox")
    }
)


def test_readme_is_short():
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    assert len(words) <= 900


def test_readme_starts_with_the_notebook_and_the_picture():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    top = text.split("\n## ")[0]
    assert "(notebooks/icebox.ipynb)" in top and "(docs/report.png)" in top


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.split("#")[0]).exists(), target


def test_every_page_is_in_the_table_of_contents():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", config, flags=re.MULTILINE))
    assert listed == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


class Parsed(Exception):
    """Ends a command after its options have been parsed."""


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: value)
def test_command_lines_are_those_of_the_programs(page, line):
    words = shlex.split(line.split("|")[-1], comments=True)
    if words[0] == "make":
        return check_make(line)
    from data.common.cli import Parser

    def then_stop(method):
        def parse(self, *args, **kwargs):
            method(self, *args, **kwargs)
            raise Parsed

        return parse

    program, words = ("icebox", words[1:]) if words[0] == "icebox" else (words[2], words[3:])
    main = importlib.import_module(f"{program}.__main__").main
    given = [word for word in words if word not in ("...", "--help")]
    # A command that a sentence names alone may lack its files: then it must be one that exists.
    parse = (lambda *_: None) if len(given) == 1 else None
    with (
        mock.patch.object(Parser, "parse_args", then_stop(parse or Parser.parse_args)),
        mock.patch.object(
            Parser, "parse_intermixed_args", then_stop(parse or Parser.parse_intermixed_args)
        ),
        pytest.raises(Parsed),
    ):
        main(given)


def check_make(line):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    for part in shlex.split(line, comments=True)[1:]:
        if "=" in part:
            assert re.search(rf"\b{part.split('=')[0]}\b", makefile), part
        elif part not in ("&&", "make", "..."):
            assert part in targets, part


def test_there_are_command_lines():
    assert len(COMMANDS) > 80


def test_the_options_are_current():
    options = tool("write_options")
    assert options.PAGE.read_text(encoding="utf-8") == options.page()


def test_make_variables_are_listed():
    text = (DOCS / "reference/variables.md").read_text(encoding="utf-8")
    for name in tool("write_options").variables().values():
        assert f"`{name}`" in text, name


def test_the_picture_of_the_architecture_is_current():
    draw = tool("draw_architecture")
    drawn = draw.drawn_imports(draw.PICTURE.read_text(encoding="utf-8"))
    assert drawn == draw.folder_imports()
    assert "extract -> data" in drawn and not any(line.startswith("data -> ex") for line in drawn)


def test_the_picture_shows_every_folder():
    draw = tool("draw_architecture")
    text = draw.PICTURE.read_text(encoding="utf-8")
    for package in draw.PACKAGES:
        for path in (ROOT / package).iterdir():
            if (path / "__init__.py").exists():
                assert f">{package}/{path.name}/<" in text


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design/architecture.md"])
def test_the_map_names_folders_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+)` \|", text, flags=re.MULTILINE)
    assert len(rows) >= 16
    for name in rows:
        assert (ROOT / name).is_dir(), name
    folders = {
        path.parent.relative_to(ROOT).as_posix()
        for package in ("data", "extract", "classify", "icebox")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert folders - {"classify/report/figures"} <= set(rows)


def test_terms_of_the_glossary_are_in_order_and_in_use():
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^\*\*(.+)\*\*$", text, flags=re.MULTILINE)
    assert len(terms) >= 25
    assert [term.lower() for term in terms] == sorted(term.lower() for term in terms)
    assert len(re.findall(r"^:   \S", text, flags=re.MULTILINE)) == len(terms)
    others = "\n".join(
        page.read_text(encoding="utf-8") for page in PAGES if page.name != "glossary.md"
    ).lower()
    for term in terms:
        for word in term.split(", "):
            assert re.search(rf"\b{re.escape(word.lower())}s?\b", others), word


def is_newer(site):
    """Tell whether a strict build succeeded after all that it is made of was last changed."""
    built = site / ".built"
    if not built.exists():
        return False
    packages = ("data", "extract", "classify", "icebox")
    kinds = ("docs/**/*", *(f"{name}/**/*.py" for name in packages), "*.md", "mkdocs.*")
    found = (path for kind in kinds for path in ROOT.glob(kind))
    sources = [path for path in found if "__pycache__" not in path.parts]
    return all(path.stat().st_mtime < built.stat().st_mtime for path in sources)


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocstrings") is None or shutil.which("git") is None,
    reason="the extra docs is not installed",
)
def test_the_manual_builds_and_loads_nothing_from_a_network(tmp_path):
    site = ROOT / "site"  # of `make docs`
    if not is_newer(site):
        site = tmp_path / "site"
        done = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={site}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"?(https?://[^\"> ]+)", text)
        assert not loaded, (page.name, loaded)
    python = (site / "reference/python.html").read_text(encoding="utf-8")
    for name in ("classify.estimators.OneVsOneLogistic", "data.open_features", "data.StoreError"):
        assert f'id="{name}"' in python
