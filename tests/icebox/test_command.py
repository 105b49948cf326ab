"""The command `icebox`: its help, its commands, what is mistyped, and what is passed on."""

import ast
import importlib
import json
import re
import shlex
import sys

import pytest
from console_script import ROOT, typed, write_script

from data.common.cli import Parser, parse_words, rewording, run
from data.common.errors import UserError
from data.common.packages import package_version
from icebox.__main__ import main, top_parser
from icebox.commands import COMMANDS, load, names, parser_of
from icebox.passed_on import PassedOn
from icebox.wording import as_icebox

NAMES = names()
PASSED_ON = {name: where for name, where in COMMANDS.items() if isinstance(where, PassedOn)}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    return write_script(tmp_path_factory.mktemp("bin"))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_a_help_with_an_example_that_parses(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    command = load(name)
    assert command.HELP[0].islower() and not command.HELP.endswith(".")
    parser = parser_of(name, command)
    text = parser.format_help()
    assert f"example:\n  {command.EXAMPLE}\n" in text
    assert text.startswith(f"usage: icebox {name} [OPTION ...]")
    words = shlex.split(re.sub(r'^eval "\$\((.*)\)"$', r"\1", command.EXAMPLE))
    assert words[:2] == ["icebox", name]
    parse_words(parser, words[2:])


@pytest.mark.parametrize("name", [None, *NAMES])
def test_every_help_fits_80_columns(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with rewording(as_icebox):
        text = (parser_of(name, load(name)) if name else top_parser()).format_help()
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "python -m" not in text.replace("python -m extract images", "")


def test_the_help_lists_every_command_and_its_examples_parse():
    text = top_parser().format_help()
    listed = re.findall(r"^  (\w+)  ", text.partition("commands:")[2], flags=re.MULTILINE)
    assert listed == NAMES
    examples = re.findall(r"^  (icebox .*)$", text.partition("example:")[2], flags=re.MULTILINE)
    assert len(examples) >= 3
    for example in examples:
        name, *words = shlex.split(example)[1:]
        parse_words(parser_of(name, load(name)), words)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["clasify"], ["icebox clasify: no such command; did you mean classify?", "There are "]),
        (["xyzzy"], ["icebox xyzzy: no such command", "There are ", "completion"]),
        ([], ["icebox: a command is missing", "See: icebox --help"]),
        (["--verson"], ["unrecognized arguments: --verson", "did you mean --version"]),
        (["predict", "--tpo", "3"], ["icebox predict: ", "See: icebox predict --help"]),
        (["classify", "a.h5", "--hea=ovr"], ["icebox classify: unrec", "did you mean --head"]),
        (["classify", "a.h5", "--head=ovx"], ["--head ovx is unknown; did you mean ovr"]),
        (["classify", "a.h5"], ["a.h5 does not exist. Write it with icebox features"]),
        (["export"], ["required: HEAD|STORE, --to", "See: icebox export --help"]),
        (["import", "a.npz"], ["--name is missing"]),
    ],
)
def test_bad_input_is_one_message_that_names_what_was_typed(words, parts, capsys):
    with rewording(as_icebox):
        assert run(main, words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("error: ") == 1 and "python -m" not in err
    for part in parts:
        assert part in err


def test_the_commands_are_those_of_the_programs():
    """Same options, same values, same defaults: by the programs' own parsers."""
    for name, passed in PASSED_ON.items():
        program = importlib.import_module(f"{passed.program}.__main__")
        found = {}

        def stop(parser, *_, found=found, **__):
            found["parser"] = parser
            raise UserError("stopped")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Parser, "parse_args", stop)
            patch.setattr(Parser, "parse_intermixed_args", stop)
            run(program.main, [passed.command] if passed.command else [])
        described = [
            [(a.option_strings, a.dest, a.default, a.choices, a.help) for a in parser._actions]
            for parser in (found["parser"], parser_of(name, load(name)))
        ]
        assert described[0] == described[1], name


def test_what_a_program_advises_is_what_would_be_typed():
    for old, new in [
        ("python -m extract", "icebox features"),
        ("python -m extract --dry-run", "icebox features --dry-run"),
        ("(python -m extract list 'open_clip:*')", "(icebox list 'open_clip:*')"),
        ("python -m classify fit FILE.h5", "icebox classify FILE.h5"),
        ("`python -m classify predict`", "`icebox predict`"),
        ("python -m data import", "icebox import"),
        ("python -m data export and python -m classify export", "icebox export and icebox export"),
        ("python -m extract tensors FILE.pt", "python -m extract tensors FILE.pt"),
        ("python -m extractor, python -m pip", "python -m extractor, python -m pip"),
    ]:
        assert as_icebox(old) == new


def test_what_messages_advise_is_known_to_the_wording():
    """Every `python -m ...` of ours in a text of the code becomes `icebox`, or is an inner one."""
    advised = set()
    for package in ("data", "extract", "classify"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found = re.findall(r"python -m (?:data|extract|classify) [a-z]+", node.value)
                    advised |= set(found)
    assert len(advised) > 8
    left = {text for text in advised if as_icebox(text).startswith("python")}
    assert {text.split()[-1] for text in left} <= {"images", "tensors", "program", "answers"}


@pytest.mark.usefixtures("unwritten_figures")
def test_a_fit_remembers_a_command_that_can_be_typed_again(store, tmp_path, capsys):
    words = ["classify", str(store), "--head=ovr", f"--reports-dir={tmp_path / 'my reports'}"]
    words += ["--no-few-shot", "--c=0.1"]
    assert run(main, words) == 0
    page = capsys.readouterr().out.strip()
    results = json.loads((tmp_path / page).with_name("results.json").read_text())
    assert shlex.split(results["command"]) == ["icebox", *words]
    parser = parser_of("classify", load("classify"))
    assert parse_words(parser, shlex.split(results["command"])[2:]).stores == [store]


def test_the_script_answers_as_installed(script, tmp_path):
    done = typed(script, "--version", cwd=tmp_path)
    assert done.stdout == f"icebox {package_version('icebox')}\n"
    done = typed(script, "clasify", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and "did you mean classify?" in done.stderr
    done = typed(script, "compare", cwd=tmp_path)
    assert done.returncode == 2 and "`icebox classify FILE.h5`" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["features", "-h"], ["predict", "-h"], ["doctr"]])
def test_a_help_loads_nothing_large(words, script, tmp_path):
    code = (
        "import runpy, sys\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    run_it = f"import sys; sys.argv = {[str(script), *words]!r}\n{code}"
    done = typed(sys.executable, "-c", run_it, cwd=tmp_path)
    loaded = {name.split(".")[0] for name in done.stderr.splitlines()[-1].split()}
    assert "icebox" in loaded
    assert not loaded & {"torch", "timm", "numpy", "sklearn", "h5py", "PIL", "argcomplete"}
