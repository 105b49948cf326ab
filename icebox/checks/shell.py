"""Whether the user's shell completes ``icebox`` when Tab is pressed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from icebox.checks.finding import NOTE, OK, Finding

# By shell: files that it reads when it starts, and the line that belongs into the first of them.
STARTUP = {
    "bash": (".bashrc", ".bash_profile", ".profile", ".bash_completion"),
    "zsh": (".zshrc", ".zprofile", ".zshenv"),
    "fish": (".config/fish/config.fish", ".config/fish/completions/icebox.fish"),
}
LINES = {
    "bash": 'eval "$(icebox completion bash)"',
    "zsh": 'eval "$(icebox completion zsh)"',
    "fish": "icebox completion fish | source",
}
# What argcomplete writes for all its programs at once.
_GLOBAL = ("python-argcomplete", "argcomplete/bash_completion.d")
LIMIT = 1 << 20  # bytes of a startup file that are read


def check_completion() -> Iterator[Finding]:
    """Look for completion in the files that the user's shell reads when it starts."""
    shell = Path(os.environ.get("SHELL", "")).name
    try:
        home = Path.home()
    except RuntimeError:
        yield Finding("completion", NOTE, "there is no home folder to set it up in")
        return
    if shell not in STARTUP:
        text = f"of bash, zsh and fish; the shell here is {shell or 'not known'}"
        yield Finding("completion", NOTE, text, values={"shell": shell, "set_up": False})
        return
    for name in STARTUP[shell]:
        if _names_icebox(home / name):
            text = f"set up for {shell}, in ~/{name}"
            yield Finding("completion", OK, text, values={"shell": shell, "set_up": True})
            return
    yield Finding(
        "completion",
        NOTE,
        f"not set up for {shell}; to have it in every new one, type:",
        (f"echo '{LINES[shell]}' >> ~/{STARTUP[shell][0]}",),
        {"shell": shell, "set_up": False},
    )


def _names_icebox(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(LIMIT)
    except OSError:
        return False
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return any(
        "icebox completion" in line
        or ("argcomplete" in line and "icebox" in line)
        or any(sign in line for sign in _GLOBAL)
        for line in lines
    ) or (path.name == "icebox.fish" and bool(lines))
