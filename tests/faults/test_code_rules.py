"""What SECURITY.md says of the code itself: held by ruff's rules, and by a look at the sources."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    p for name in ("data", "extract", "classify", "icebox") for p in (ROOT / name).rglob("*.py")
)
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "socketserver",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def test_there_is_no_way_to_run_what_a_file_says():
    assert len(SOURCES) > 50
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & FORBIDDEN_MODULES, path
            if isinstance(node, ast.Call):
                called = node.func
                if isinstance(called, ast.Name):
                    assert called.id not in FORBIDDEN_CALLS, (path, node.lineno)
                if isinstance(called, ast.Attribute):
                    owner = getattr(called.value, "id", "")
                    assert (owner, called.attr) not in {("os", "system"), ("os", "popen")}, path
                    if (owner, called.attr) == ("torch", "load"):
                        restricted = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                        assert restricted.get("weights_only") is True, (path, node.lineno)
                for keyword in node.keywords:
                    value = getattr(keyword.value, "value", None)
                    assert keyword.arg != "shell" or value is False, (path, node.lineno)
                    assert keyword.arg != "allow_pickle" or value is False, (path, node.lineno)


BAD = {
    "S102": "exec('1')\n",
    "S301": "import pickle\n\npickle.loads(b'')\n",
    "S307": "eval('1')\n",
    "S602": "import subprocess\n\nsubprocess.run('ls', shell=True)\n",
    "S605": "import os\n\nos.system('ls ' + os.name)\n",
}


@pytest.mark.parametrize("rule", BAD)
def test_the_linter_refuses_it(rule):
    """The rule must hold in this project's own settings, not only exist."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff is not installed")
    command = [ruff, "check", "--no-cache", "--output-format=concise"]
    command += ["--stdin-filename", str(ROOT / "data" / "made.py"), "-"]
    done = subprocess.run(command, input=BAD[rule], cwd=ROOT, capture_output=True, text=True)
    assert f"{rule} " in done.stdout
