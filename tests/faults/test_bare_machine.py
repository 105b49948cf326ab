"""With torch, timm, h5py, scikit-learn and what these need, and the repository not installed.

What else is declared is not imported before it is needed: pooch for downloads, matplotlib for
reports, clusters and OpenVINO where they are asked for.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bare_machine import bare_environment, closure

from data import open_features

ROOT = Path(__file__).parents[2]
BARE = ("torch", "timm", "h5py", "scikit-learn")


def python(environment, *words):
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True,
        text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Made by stage one on such a machine."""
    folder = tmp_path_factory.mktemp("bare")
    done = python(
        bare_environment(folder, *BARE), "-m", "extract", "--dataset=digits",
        "--model=test_efficientnet", "--weights=random", "--image-size=32", "--limit=30",
        f"--features-dir={folder / 'features'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def test_what_is_hidden_is_not_there(tmp_path):
    assert "pooch" not in closure(BARE) and "torch" in closure(BARE)
    code = (
        "import importlib.metadata as m, importlib.util as u\n"
        "print(u.find_spec('pooch'), u.find_spec('torch') is None)\n"
        "try: m.version('icebox')\nexcept m.PackageNotFoundError: print('not installed')\n"
        "import pooch"
    )
    done = python(bare_environment(tmp_path, *BARE), "-c", code)
    assert done.stdout.split() == ["None", "False", "not", "installed"]
    assert "No module named 'pooch'" in done.stderr


def test_stage_one(store):
    assert len(open_features(store).train.labels) == 30


def test_stage_two_needs_matplotlib_for_its_report(store, tmp_path):
    done = python(
        bare_environment(tmp_path, *BARE, "matplotlib"), "-m", "classify", "fit", store,
        "--c=0.01", "--strategy=ovr", "--no-few-shot", "--jobs=1",
        f"--reports-dir={tmp_path / 'reports'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).name == "report.html"


def test_check_cuda(tmp_path):
    environment = bare_environment(tmp_path, *BARE)
    done = python(environment, "-m", "benchmarks.check_cuda", "--rehearse", "--part=heads",
                  f"--results-dir={tmp_path}")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "no figure means anything" in lines[0] and lines[-1] == str(tmp_path / "check-cuda.json")
    content = json.loads((tmp_path / "check-cuda.json").read_text())
    assert content["complete"] and content["device"]["rehearsal"]
    assert {row["verdict"] for row in content["jobs"][0]["rows"]} <= {"ok", "missed", ""}
    modules = sorted((ROOT / "benchmarks" / "check_cuda").glob("[a-z]*.py"))
    names = [f"benchmarks.check_cuda.{path.stem}" for path in modules]
    done = python(environment, "-c", f"import {', '.join(names)}")
    assert len(names) > 8 and done.returncode == 0, done.stderr


def test_the_marked_tests_are_collected(tmp_path):
    from benchmarks.check_cuda.gpu_tests import marked_files

    # Plugins that are hidden are still announced to pytest.
    environment = bare_environment(tmp_path, *BARE, "pytest")
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    words = ("-q", "-p", "no:cacheprovider", "-m", "gpu", "--collect-only")
    done = python(environment, "-m", "pytest", *words, *marked_files("gpu"))
    assert done.returncode == 0, done.stdout
    assert "test_cuda_gives_the_same_rows" in done.stdout
