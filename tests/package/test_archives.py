"""What the wheel and the source archive hold; ``make package`` installs the wheel and runs it."""

import importlib.util
import io
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

# Helpers that tests import by name lie beside them.
sys.path.insert(0, str(Path(__file__).parent))

import archives

ROOT = Path(__file__).parents[2]
tomllib = pytest.importorskip("tomllib")  # Python 3.11

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("setuptools") is None, reason="setuptools is not installed"
)
# What lies in a checkout that is in use.
OTHERS = (
    "data/raw/cifar-10-binary.tar.gz", "data/raw/code/__init__.py", "data/raw/code/own.py",
    "data/raw/notes.txt", "features/digits/a.h5", "reports/a/report.html", "data_old/__init__.py",
    "benchmarks/results/one.json", ".venv/lib/own.py", "dist/old.whl", "site/index.html",
    "tests/__pycache__/own.cpython-311.pyc", "data/__pycache__/own.cpython-311.pyc", "own.py",
    "classify/templates/report/.01-verdict.md.j2.swp", "fuzz-store-1", "heads/own.safetensors",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what git tracks, in use: with results, downloads and leftovers beside it."""
    names = archives.tracked(ROOT)
    if names is None:
        pytest.skip("not in a checkout")
    folder = tmp_path_factory.mktemp("check out")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    for name in OTHERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine alone")
    return folder


@pytest.fixture(scope="module")
def built(checkout, tmp_path_factory):
    """Build both once for the tests below."""
    return archives.build_here(checkout, tmp_path_factory.mktemp("dist"))


def test_both_hold_what_git_tracks_and_nothing_else(built):
    assert archives.differences(ROOT, *built) == []
    found = archives.in_wheel(built[1])
    assert {name.split("/")[0] for name in found} == set(archives.PACKAGES)
    assert {f"{package}/py.typed" for package in archives.PACKAGES} < found
    assert "classify/templates/report/01-verdict.html.j2" in found
    assert {"Makefile", ".ci/run", "tests/package/archives.py"} < archives.in_archive(built[0])


def test_what_the_wheel_says_of_itself(built):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = archives.metadata(built[1])
    assert said["Version"] == project["version"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert said["License-Expression"] == "MIT" and said["License-File"] == "LICENSE"
    assert "Private :: Do Not Upload" in said.get_all("Classifier")
    assert set(said.get_all("Provides-Extra")) == {
        name.replace("_", "-") for name in project["optional-dependencies"]
    }
    assert len([line for line in said.get_all("Requires-Dist") if "extra ==" not in line]) == len(
        project["dependencies"]
    )


def test_a_source_archive_without_the_dates_of_its_build(built, tmp_path):
    copies, names = [], ("icebox-1/PKG-INFO", "icebox-1/data/a.py", "icebox-1/run")
    for number, date in enumerate((1_000_000_000, 1_700_000_000)):
        copies.append(tmp_path / f"{number}.tar.gz")
        with tarfile.open(copies[-1], "w:gz") as archive:
            for name in reversed(names) if number else names:
                member = tarfile.TarInfo(name)
                member.mtime, member.uname, member.size = date, f"user {number}", len(name)
                member.mode = (0o755 if name.endswith("run") else 0o644) & ~(0o027 * number)
                archive.addfile(member, io.BytesIO(name.encode()))
        archives.repack(copies[-1], archives.EARLIEST)
    assert copies[0].read_bytes() == copies[1].read_bytes()
    assert archives.in_archive(copies[0]) == {"data/a.py", "run"}
    with tarfile.open(copies[0]) as archive:
        assert {member.mtime for member in archive} == {archives.EARLIEST}
        assert archive.extractfile("icebox-1/run").read() == b"icebox-1/run"
        assert [member.mode for member in archive] == [0o644, 0o644, 0o755]
    before = archives.in_archive(built[0])
    archives.repack(built[0], archives.EARLIEST)
    assert archives.in_archive(built[0]) == before


def test_a_wheel_without_the_permissions_of_its_files(tmp_path):
    copies = []
    for number, names in enumerate((("a.py", "b/c.j2"), ("b/c.j2", "a.py"))):
        copies.append(tmp_path / f"{number}.whl")
        with zipfile.ZipFile(copies[-1], "w") as wheel:
            for name in names:
                info = zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6))
                info.external_attr = (0o600, 0o664)[number] << 16
                wheel.writestr(info, name * 100)
        archives.repack_wheel(copies[-1])
    assert copies[0].read_bytes() == copies[1].read_bytes()
    with zipfile.ZipFile(copies[0]) as wheel:
        assert [info.external_attr >> 16 & 0o777 for info in wheel.infolist()] == [0o644] * 2
        assert {info.date_time for info in wheel.infolist()} == {(2026, 1, 2, 3, 4, 6)}
        assert wheel.read("b/c.j2") == b"b/c.j2" * 100


def test_what_differs_is_named(built, monkeypatch):
    known = archives.tracked(ROOT)
    monkeypatch.setattr(archives, "tracked", lambda root: {*known, "data/new.py"} - {"README.md"})
    assert archives.differences(ROOT, *built) == [
        "missing in the source archive: data/new.py",
        "in the source archive, and not tracked by git: README.md",
        "missing in the wheel: data/new.py",
    ]
