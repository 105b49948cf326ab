"""What is installed, what is missing, and what to type."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

import pytest

from icebox.checks import installation, requirements, what_to_type
from icebox.checks.finding import FAILURE, NOTE, OK, WARNING
from icebox.checks.requirements import Installation, find_installation, required

VERSIONS = {"numpy": "2.1.0", "openvino": "2024.0", "datasets": "4.1", "pillow": "11.0"}
WHEEL = Installation(Path("/site"), False, False, "1.2", ("numpy>=1.26,<3",), {})


@pytest.fixture
def versions(monkeypatch):
    """What is installed, as metadata says."""

    def version(name):
        try:
            return VERSIONS[name.lower()]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(importlib.metadata, "version", version)


def with_(**more):
    return Installation(**{**WHEEL.__dict__, **more})


def test_requirements(versions):
    lines = ["numpy<2", "missing>=3", "pillow", "other; sys_platform == 'none'"]
    found = {one.name: (one.found, one.fits, one.words) for one in required(lines)}
    assert found["numpy"] == ("2.1.0", False, "numpy 2.1.0 is not <2")
    assert found["missing"] == (None, True, "missing is missing")
    assert found["pillow"][:2] == ("11.0", True) and "other" not in found


@pytest.mark.parametrize(
    ("lines", "level", "text"),
    [
        (("numpy>=1.26,<3", "pillow"), OK, "all 2 that are required, in versions that fit"),
        (("numpy>=3", "pillow"), WARNING, "numpy 2.1.0 is not >=3"),
        (("numpy>=3", "torch"), FAILURE, "missing: torch; numpy 2.1.0 is not >=3"),
        ((), NOTE, "which are required is not known: Icebox is not installed"),
    ],
)
def test_libraries(versions, lines, level, text):
    [one] = installation.check_libraries(with_(requires=lines))
    assert (one.level, one.text) == (level, text)
    assert bool(one.advice) == (level != OK)


def test_extras_say_what_is_missing_and_what_to_type(versions):
    extras = {
        "hf": ("datasets>=4.0",),
        "onnx": ("onnx>=1.19", "onnxruntime"),
        "cpu": ("openvino>=2025.0; sys_platform != 'none'",),
        "bench": ("snapml; sys_platform == 'none'",),
        "dev": ("icebox[hf,onnx]", "pytest"),
    }
    first, second = installation.check_extras(with_(extras=extras, checkout=True))
    assert first.text == "there: cpu, hf, bench; what the others need, to be typed:"
    commands = [line.partition("  # ") for line in first.advice]
    typed = [line[0].split(" install ")[1] for line in commands]
    assert typed == ["--editable '/site[onnx]'", "--editable '/site[dev]'"]
    assert [line[2] for line in commands] == ["--to onnx", "for work on Icebox"]
    assert first.values["onnx"]["missing"] == ["onnx", "onnxruntime"]
    assert first.values["dev"]["missing"] == ["onnx", "onnxruntime", "pytest"]
    assert (second.level, second.text) == (WARNING, "openvino 2024.0 is not >=2025.0")
    # Whoever has a wheel does not work on Icebox.
    first, _ = installation.check_extras(with_(extras=extras))
    assert len(first.advice) == 1 and first.advice[0].endswith("'icebox[onnx]'  # --to onnx")


def test_every_extra_of_users_has_a_purpose():
    extras = set(find_installation().extras)
    assert len(extras) > 10
    assert extras - {"bench", "dev", "docs"} <= set(installation.PURPOSES)


def test_this_checkout_is_known():
    found = find_installation()
    assert found.checkout and found.folder == Path(requirements.__file__).parents[2]
    assert any(line.startswith("torch") for line in found.requires)


def test_a_wheel_is_known_by_its_metadata(tmp_path, monkeypatch):
    class Metadata:
        version = "3.1"
        requires = (
            "numpy", "onnx>=1; extra == 'onnx'", 'x; python_version<"4" and extra == "open-clip"',
            'icebox[onnx,open-clip]; extra == "dev"',
        )  # fmt: skip

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Metadata)
    found = find_installation(tmp_path)
    assert (found.checkout, found.version, found.requires) == (False, "3.1", ("numpy",))
    assert list(found.extras) == ["onnx", "open_clip", "dev"]
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1")
    for name, needed in (("open_clip", ["x"]), ("dev", ["onnx", "x"])):
        assert [one.name for one in required(found.extras[name], name, found.extras)] == needed
    [one] = installation.check_icebox(found)
    assert one.text == f"3.1, a wheel, in {tmp_path}"
    # Somebody else's project file beside it is not Icebox's.
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'mine'\n")
    assert find_installation(tmp_path).requires == ("numpy",)
    (tmp_path / "pyproject.toml").write_text("[project\n")
    assert find_installation(tmp_path).requires == ("numpy",)


def test_a_checkout_that_is_not_installed(tmp_path, monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", none)
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'icebox'\nversion = '0.5'\ndependencies = ['numpy']\n"
    )
    found = find_installation(tmp_path)
    [one] = installation.check_icebox(found)
    assert one.level == NOTE and one.text == f"0.5, a checkout, {tmp_path}, not installed"
    assert f"--editable {tmp_path}" in one.advice[0]


def executable(folder, name):
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o755)
    return path


def test_the_pip_of_this_python_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    python, pip = executable(tmp_path, "python"), executable(tmp_path, "pip")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(pip.parent))
    checkout = with_(checkout=True, folder=tmp_path)
    assert what_to_type.install_extra(WHEEL, "hf") == "pip install 'icebox[hf]'"
    assert what_to_type.install_extra(checkout, "hf") == "pip install --editable '.[hf]'"
    monkeypatch.setenv("PATH", os.defpath)
    assert what_to_type.install_extra(checkout, "hf") == "bin/pip install --editable '.[hf]'"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    text = f"{pip} install --editable '{tmp_path}[hf]'"
    assert what_to_type.install_extra(checkout, "hf") == text
    pip.unlink()
    assert what_to_type.pip() == f"{python} -m pip install"
    monkeypatch.setattr(what_to_type.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/uv" if name == "uv" else None)
    assert what_to_type.pip() == f"uv pip install --python {python}"


def test_bundled_weights(tmp_path, monkeypatch):
    from extract.model import bundled

    monkeypatch.setattr(bundled, "find_file", lambda: None)
    [one] = installation.check_bundled()
    assert one.level == NOTE and "not there" in one.text
    (tmp_path / "file").write_bytes(b"damaged")
    monkeypatch.setattr(bundled, "find_file", lambda: tmp_path / "file")
    [one] = installation.check_bundled()
    assert one.level == WARNING and "is not the file that is expected" in one.text
    assert "--force-reinstall" in one.advice[0]
