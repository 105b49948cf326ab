"""Completion as a shell asks for it: `_ARGCOMPLETE`, `COMP_LINE` and answers on descriptor 8."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from console_script import ROOT, typed, write_script

from classify.heads.registry import HEADS
from icebox import completers
from icebox.commands import names

HEADS_OF_RUN = "reports/a-8px/run/heads"
HEADS_THERE = [f"{HEADS_OF_RUN}/{name}" for name in ("forest.skops", "ovr.safetensors")]
FILES = ["features/", r"my\ photo.jpg", "new.jpg", "reports/", "w.safetensors"]

TABS = [
    ("icebox ", names()),
    ("icebox co", ["compare", "completion"]),
    ("icebox --v", ["--version"]),
    ("icebox classify --norm", ["--normalize"]),
    ("icebox classify a.h5 --normalize ", ["none", "l2"]),
    ("icebox classify a.h5 --head ", list(HEADS)),
    ("icebox classify a.h5 --strategy=near", ["nearest-mean"]),
    ("icebox classify a.h5 --c a", ["auto"]),
    ("icebox classify a.h5 --seed ", []),
    # a single folder is gone into, and of files only stores are there
    ("icebox classify f", ["features/toy/a-8px.h5", "features/toy/b-8px.h5"]),
    ("icebox classify a.h5+features/toy/b", ["a.h5+features/toy/b-8px.h5"]),
    ("icebox verify features/toy/a", ["features/toy/a-8px.h5"]),
    ("icebox predict reports/", HEADS_THERE),
    ("icebox predict w.safetensors n", ["new.jpg"]),
    ("icebox export features/toy/b", ["features/toy/b-8px.h5"]),
    ("icebox export w", ["w.safetensors"]),
    ("icebox export w.safetensors --to s", ["sklearn", "safetensors"]),
    ("icebox compare r", ["reports/"]),
    ("icebox report reports/a-8px/r", ["reports/a-8px/run/"]),
    ("icebox features --weights ", ["hub", "bundled", "random", *FILES]),
    ("icebox predict w.safetensors m", [r"my\ photo.jpg"]),
    ("icebox features --engine c", ["channels-last", "compiled"]),
    ("icebox features --model pix", ["pixels"]),
    ("icebox features --model mobilenetv1_100.", ["mobilenetv1_100.ra4_e3600_r224_in1k"]),
    ("icebox features --dataset ci", ["cifar10", "cifar100"]),
    ("icebox cache re", ["remove"]),
    ("icebox completion f", ["fish"]),
    ("icebox cache ", ["list", "remove"]),
    ("icebox cache remove a", ["a-8px"]),
    ("icebox cache remove toy/", ["toy/a-8px", "toy/b-8px"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    return write_script(tmp_path_factory.mktemp("bin"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as it is after some runs."""
    top = tmp_path_factory.mktemp("work")
    for name in (
        "features/toy/a-8px.h5",
        "features/toy/b-8px.h5",
        "features/toy/notes.txt",
        "reports/a-8px/run/heads/ovr.safetensors",
        "reports/a-8px/run/heads/forest.skops",
        "reports/a-8px/run/results.json",
        "new.jpg",
        "my photo.jpg",
        "w.safetensors",
    ):
        file = top / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return top


# One process answers all lines, each in a child of its own, which ends as a command that completes.
DRIVER = """
import json, os, sys
from icebox.complete import complete
import argcomplete, classify.__main__, extract.__main__, data.__main__
for number, line in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if child == 0:
        os.environ.update(
            _ARGCOMPLETE="1", _ARGCOMPLETE_IFS=chr(10), COMP_TYPE="9", COMP_LINE=line,
            COMP_POINT=str(len(line)), _ARGCOMPLETE_STDOUT_FILENAME=f".answers-{number}",
            _ARGCOMPLETE_COMP_WORDBREAKS=" \\t\\n'><=;|&(:" + chr(34),
        )
        complete()
        os._exit(3)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def answers(folder):
    """Return what Tab offers after each of the lines."""
    lines = [line for line, _ in TABS]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    found = {}
    for number, line in enumerate(lines):
        file = folder / f".answers-{number}"
        found[line] = [word.strip() for word in file.read_text().split("\n") if word]
        file.unlink()
    return found


@pytest.mark.parametrize(("line", "expected"), TABS)
def test_what_tab_offers(line, expected, answers):
    assert answers[line] == expected


def test_the_names_of_models_are_timms():
    """From timm's source; the witness is timm."""
    import timm

    found, tagged = set(completers.model_names()), set(timm.list_pretrained())
    assert {name for name in found if "." not in name} == set(timm.list_models())
    with_tags = {name for name in found if "." in name}
    assert len(with_tags & tagged) > 0.95 * len(tagged)
    assert len(with_tags - tagged) < 0.01 * len(tagged)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_code_for_a_shell_is_what_the_shell_takes(shell, script, folder):
    done = typed(script, "completion", shell, cwd=folder)
    assert done.returncode == 0 and "icebox" in done.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    parsed = subprocess.run([shell, "-n"], input=done.stdout, capture_output=True, text=True)
    assert (parsed.returncode, parsed.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_with_that_code(script, folder):
    """The function that the code defines, called as bash's own `complete` calls it."""
    lines = f"""
PATH={script.parent}:$PATH
eval "$(icebox completion bash)"
complete -p icebox
COMP_LINE='icebox classify features/toy/b'
COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9; COMP_WORDS=(icebox classify features/toy/b); COMP_CWORD=2
_python_argcomplete icebox features/toy/b classify
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = typed("bash", "-c", lines, cwd=folder)
    first, *rest = done.stdout.splitlines()
    assert first.startswith("complete ") and first.endswith("icebox")
    assert [line.strip() for line in rest] == ["features/toy/b-8px.h5"], done.stderr


def test_the_module_has_the_mark_that_global_completion_looks_for():
    assert "PYTHON_ARGCOMPLETE_OK" in (ROOT / "icebox/__main__.py").read_text()[:1024]


def test_completion_loads_nothing_large(script, folder):
    code = (
        "import os, sys; from icebox.__main__ import console; os._exit = lambda code: ("
        "print(*sys.modules, file=sys.stderr, flush=True), os.kill(os.getpid(), 9)); console()"
    )
    line = "icebox features --model resnet5"
    done = typed(
        sys.executable, "-c", code, cwd=folder, _ARGCOMPLETE="1", COMP_LINE=line,
        COMP_POINT=str(len(line)), _ARGCOMPLETE_STDOUT_FILENAME=os.devnull,
    )  # fmt: skip
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert "argcomplete" in loaded
    assert not loaded & {"torch", "timm", "numpy", "sklearn", "h5py", "PIL"}


def test_folders_that_cannot_be_read_have_no_files(tmp_path):
    assert completers.files(f"{tmp_path}/none/") == []
    assert completers.files("~nobody-of-this-name/") == []
    (tmp_path / ".hidden").write_text("")
    assert completers.files(f"{tmp_path}/") == []
    assert completers.files(f"{tmp_path}/.h") == [str(Path(tmp_path, ".hidden"))]
