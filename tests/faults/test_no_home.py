"""Commands in a process without a home folder: HOME is not set, the user id has no entry."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from extract.engines.device import openvino_version

PRELUDE = """
import os, pwd, sys
def unknown(_): raise KeyError("getpwuid(): uid not found: 54321")
pwd.getpwuid = unknown
from pathlib import Path
try: Path.home()
except RuntimeError: pass
else: assert "HOME" in os.environ
from data.common.cli import run
"""
SMALL = [
    *("--dataset", "digits", "--model", "test_efficientnet", "--weights", "random"),
    *("--image-size", "32", "--limit", "20", "--device", "cpu", "--batch-size", "8"),
    *("--features-dir", "features", "--data-dir", "raw"),
]


def homeless(folder, code, **more):
    """Run Python code without a home; with another one, by ``HOME=``."""
    gone = ("HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "LOGNAME", "USER", "LNAME", "USERNAME")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    temporary = folder / "tmp"
    temporary.mkdir()
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        cwd=folder,
        env={**kept, "TMPDIR": str(temporary), **more},
        capture_output=True,
        text=True,
    )


def test_list_and_measure(tmp_path):
    done = homeless(
        tmp_path,
        "import extract.__main__ as stage_one\n"
        "codes = [run(stage_one.main, ['list', 'test_vit'])]\n"
        f"if {openvino_version() is not None}:\n"
        "    from extract.engines.openvino import without_telemetry\n"
        "    assert without_telemetry().convert_model is not None\n"
        "    assert 'openvino_telemetry' not in sys.modules\n"
        "from extract.engines import measured, tuning\n"
        "from extract.model.backbone import BackboneRequest, load_backbone\n"
        "import numpy, torch\n"
        "net = load_backbone(BackboneRequest(model='test_vit', weights='random'))\n"
        "subject = tuning.Subject(net, torch.device('cpu'), 'fp32',\n"
        "    numpy.zeros((1, 8, 8, 3), 'u1'), features_dir=Path('features'))\n"
        "known = measured.Measurements([measured.Measurement('torch', 4, 9.0, 0.0)])\n"
        "measured.write(subject, ['torch'], known)\n"
        "assert measured.read(subject, ['torch']) == known\n"
        "sys.exit(max(codes))\n",
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "telemetry" not in done.stderr
    assert "not kept" not in done.stderr
    kept = sorted(path.name for path in tmp_path.rglob("*.json"))
    assert len(kept) == 2  # the widths, and what was measured
    assert not [path for path in tmp_path.iterdir() if path.name not in ("features", "tmp")]


@pytest.mark.skipif(not os.environ.get("ICEBOX_FAULTS"), reason="make faults")
@pytest.mark.parametrize("home", [{}, {"HOME": "/dev/null"}])
def test_both_stages(tmp_path, home):
    engine = ["--engine", "torch" if openvino_version() is None else "openvino"]
    done = homeless(
        tmp_path,
        "import extract.__main__ as stage_one, classify.__main__ as stage_two, glob\n"
        f"codes = [run(stage_one.main, {SMALL + engine})]\n"
        "store = glob.glob('features/digits/*.h5')\n"
        "codes.append(run(stage_two.main, ['fit', *store, '--c', '0.01', '--no-few-shot']))\n"
        "sys.exit(max(codes))\n",
        **home,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Matplotlib" not in done.stderr
    assert "telemetry" not in done.stderr
    assert (tmp_path / "features" / ".cache" / "matplotlib").is_dir()
