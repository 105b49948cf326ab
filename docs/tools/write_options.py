"""Write docs/reference/options.md from the parsers of the command lines; --check compares."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/options.md"
COMMANDS = (
    ("extract", ""),
    ("extract", "list"),
    ("extract", "why"),
    ("extract", "verify"),
    ("extract", "images"),
    ("extract", "tensors"),
    ("classify", "fit"),
    ("classify", "compare"),
    ("classify", "predict"),
    ("classify", "export"),
    ("classify", "report"),
    ("data", "import"),
    ("data", "export"),
)
# Of the options whose parser has no help text, or none but the default.
NOTES = {
    "--amp-dtype": "timm's name for `--precision`",
    "--data-dir": "where archives lie",
    "--device": "`auto` is the GPU where there is one",
    "--features-dir": "where stores are written",
    "--out": "the array of embeddings to write",
    "--pool": "how the network's last features become one vector",
    "--precision": "`auto` is fp32 on the CPU, bf16 on the GPU (fp16 on older ones)",
    "--batch-size": "images a batch; `auto` measures",
    "--reports-dir": "where reports are written",
    "--seed": "of random draws",
    "--spec": "a file with the `spec` of a store or a head",
    "--store-dtype": "type of the stored features",
    "--top": "classes to print for an image",
    "--weights": "the backbone's weights, if they moved",
    "FILE.h5": "a feature store",
    "HEAD": "a trained head",
    "HEAD.safetensors": "a trained head",
    "IMAGE": "image files",
    "RUN_DIR": "the folder of a run",
}


class _Found(Exception):
    """Carries the parser that a command line was about to use."""


def parser_of(program: str, command: str) -> argparse.ArgumentParser:
    """Return the parser of a command, by stopping it where it begins to parse."""

    def stop(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Found(self)

    import classify.__main__
    import data.__main__
    import extract.__main__
    from data.common.cli import Parser

    programs = {"extract": extract, "classify": classify, "data": data}
    main = programs[program].__main__.main
    with (
        mock.patch.object(Parser, "parse_args", stop),
        mock.patch.object(Parser, "parse_intermixed_args", stop),
    ):
        try:
            main([command] if command else [])
        except _Found as found:
            return found.args[0]
    raise AssertionError(f"{program} {command} parsed nothing")


def variables() -> dict[str, str]:
    """Return the make variable of each option that the Makefile passes to the two stages."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
    found = {}
    for line in text.splitlines():
        if line.startswith("BENCH_OPTIONS"):
            continue
        for name, option in re.findall(r"\$\(call (?:option|each),(\w+),(--[\w-]+)\)", line):
            found.setdefault(option, name)
        for name, option in re.findall(
            r"\$\(if \$\((?:[\w, -]*,)?(?:\$\()?(\w+)\)+,(--[\w-]+)", line
        ):
            found.setdefault(option, name)
        for option, name in re.findall(r"(--[\w-]+)=\$\(call quote,\$\((\w+)\)\)", line):
            found.setdefault(option, name)
    return found


def _values(action: argparse.Action) -> str:
    if action.choices is not None:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    if action.nargs == 0:
        return ""
    name = str(action.metavar or action.dest.upper())
    names = ", ".join(f"`{part}`" for part in name.split("|"))
    return names + (", several" if action.nargs in ("+", "*") else "")


def _row(parser: argparse.ArgumentParser, action: argparse.Action, made: dict[str, str]) -> str:
    names = action.option_strings or [str(action.metavar or action.dest)]
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    # Python 3.10 adds this to some options by itself.
    text = re.sub(r" \(default: \w+\)$", "", text)
    default = ""
    flag = action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)
    if not flag and (ends := re.search(r"\s*\(([^()]*)\)$", text)):  # as the help states it
        text, default = text[: ends.start()], ends.group(1)
    elif action.option_strings and action.default not in (None, False, True, []):
        default = str(action.default)
    if not text:
        text = next((NOTES[name] for name in names if name in NOTES), "")
    if not text:
        raise SystemExit(f"{names[0]} has neither a help text nor a note in {Path(__file__).name}")
    variable = next((f"`{made[name]}`" for name in names if name in made), "")
    cells = (
        ", ".join(f"`{name}`" for name in names),
        _values(action) if action.option_strings else "",
        text,
        f"`{default}`" if default and " " not in default else default,
        variable,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _tables(parser: argparse.ArgumentParser, name: str, made: dict[str, str]) -> list[str]:
    """Describe a command and its arguments and options, a table for each group of them."""
    lines = []
    if parser.description:
        lines += [parser.description[0].upper() + parser.description[1:].rstrip(".") + ".", ""]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if not isinstance(a, argparse._HelpAction)]
        if not actions:
            continue
        if group.title and group.title not in ("options", "positional arguments"):
            anchor = f"{name}-{group.title.replace(' ', '-')}"
            lines += [f"### {group.title.capitalize()} {{ #{anchor} }}", ""]
        kind = "argument" if group.title == "positional arguments" else "option"
        lines += [f"| {kind} | values | what | default | make |", "|---|---|---|---|---|"]
        lines += [_row(parser, action, made) for action in actions]
        lines.append("")
    return lines[:-1] if lines[-1] == "" else lines


def _icebox(made: dict[str, str]) -> list[str]:
    """List the commands of ``icebox``; options of those that are programs' are said there."""
    from icebox.commands import COMMANDS as OURS
    from icebox.commands import load, names, parser_of
    from icebox.passed_on import PassedOn

    lines = ["", "## icebox", "", "| command | what | options |", "|---|---|---|"]
    own = []
    for name in names():
        where, command = OURS[name], load(name)
        if isinstance(where, PassedOn):
            options = _link(where.words)
        elif name == "export":
            options = f"of a head {_link('python -m classify export')}, of a store "
            options += _link("python -m data export")
        else:
            options, parser = _link(f"icebox {name}"), parser_of(name, command)
            own += ["", f"## icebox {name}", "", *_tables(parser, f"icebox-{name}", {})]
        lines.append(f"| `icebox {name}` | {command.HELP} | {options} |")
    return [*lines, *own]


def _link(title: str) -> str:
    anchor = re.sub(r"[^\w]+", "-", title.lower())
    return f"[`{title}`](#{anchor})"


def page() -> str:
    """Return the text of the page."""
    made = variables()
    lines = [
        "# Options of the command lines",
        "",
        "Written by `docs/tools/write_options.py` from the programs' own parsers; a test compares.",
        "The last column is the variable of `make` that passes the option on. Options may be mixed",
        "with files. An option that is unknown ends the command with the nearest name.",
    ]
    lines += _icebox(made)
    for program, command in COMMANDS:
        lines += ["", f"## python -m {program} {command}".rstrip(), ""]
        # Some commands have options of the same name that no variable passes on.
        passed = made if program == "data" else {n: v for n, v in made.items() if n != "--out"}
        lines += _tables(parser_of(program, command), f"{program}-{command or 'run'}", passed)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page, or with --check compare it."""
    found = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") != found:
            raise SystemExit(f"{PAGE.relative_to(ROOT)} is not current: run {Path(__file__).name}")
        return
    PAGE.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
