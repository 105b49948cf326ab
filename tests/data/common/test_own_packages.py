"""What else lies under the names of our packages: found before it is imported, in one message."""

import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from console_script import ROOT, typed, write_script

from data.common.clusters import start_ray
from data.common.own_packages import MARK, program

THEIRS = 'print("THEIRS")\nraise SystemExit(9)\n'
PACKAGES = ("data", "extract", "classify", "icebox")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    return write_script(tmp_path_factory.mktemp("bin"))


def lay(folder, *names):
    """Write modules of a user's: a name with .py is a file, and another a package."""
    for name in names:
        path = folder / name if name.endswith(".py") else folder / name / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(THEIRS)
    return folder


def refused(done, *parts):
    """A command line that was ended by one message with these parts, and ran nothing of theirs."""
    assert done.returncode == 2, done.stderr
    [message] = done.stderr.strip().splitlines()
    assert message.startswith("error: ") and "THEIRS" not in done.stdout + done.stderr
    for part in map(str, parts):
        assert part in message
    return True


@pytest.mark.parametrize("name", ["data.py", "data"])
@pytest.mark.parametrize("words", [("extract", "-h"), ("classify", "compare"), ("icebox", "-h")])
def test_a_users_data_is_named_and_not_run(tmp_path, name, words):
    lay(tmp_path, name)
    done = typed(sys.executable, "-m", *words, cwd=tmp_path)
    advice = ("rename it", "another folder", "icebox")
    assert refused(done, tmp_path / name, ROOT / "data", *advice)


@pytest.mark.parametrize("package", ["extract", "classify"])
def test_from_python_it_is_an_import_error(tmp_path, package):
    lay(tmp_path, "data.py")
    done = typed(sys.executable, "-c", f"import {package}", cwd=tmp_path)
    assert done.returncode == 1 and "THEIRS" not in done.stdout
    assert done.stderr.splitlines()[-1].startswith(f"ImportError: {tmp_path / 'data.py'} has the")


def test_one_that_a_program_has_imported_already_is_named(tmp_path):
    (tmp_path / "data.py").write_text("")
    done = typed(sys.executable, "-c", "import data, classify", cwd=tmp_path)
    assert f"ImportError: {tmp_path / 'data.py'} has the name" in done.stderr


def test_the_command_does_not_look_in_the_current_folder(tmp_path, script):
    lay(tmp_path, "data.py", "extract.py", "classify", "icebox.py", "benchmarks")
    for words in (("--version",), ("--help",)):
        done = typed(script, *words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert "THEIRS" not in done.stdout


def test_a_folder_of_images_called_data_is_no_clash(tmp_path, script):
    for name in PACKAGES:
        (tmp_path / name / "raw").mkdir(parents=True)
    assert typed(script, "--version", cwd=tmp_path).returncode == 0
    for words in (("-m", "extract", "-h"), ("-c", "import classify; from data import UserError")):
        done = typed(sys.executable, *words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_of_images_is_no_clash_where_a_hook_finds_our_packages(tmp_path):
    """As in an editable install whose finder comes after Python's own."""
    (tmp_path / "data" / "raw").mkdir(parents=True)
    code = f"""
import importlib.machinery, importlib.util, pathlib, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        file = pathlib.Path({str(ROOT)!r}, name, "__init__.py")
        if name in {PACKAGES} and file.exists():
            return importlib.util.spec_from_file_location(name, file)
sys.meta_path.insert(sys.meta_path.index(importlib.machinery.PathFinder) + 1, Finder)
import classify
from data import open_features
print(open_features.__module__)
"""
    done = typed(sys.executable, "-c", code, cwd=tmp_path, path=())
    assert done.stdout == "data.reading\n", done.stderr


@pytest.mark.parametrize("names", [("data.py",), ("extract",), ("data", "classify.py")])
def test_a_folder_of_pythonpath_is_named(tmp_path, script, names):
    theirs, here = lay(tmp_path / "code", *names), tmp_path / "here"
    here.mkdir()
    done = typed(script, "--version", cwd=here, path=(theirs, ROOT))
    assert refused(done, theirs / names[0], f"take {theirs} off PYTHONPATH")
    assert "icebox," not in done.stderr  # it is what was typed


def test_another_copy_of_ours_on_pythonpath_is_not_mixed_with_this_one(tmp_path, script):
    other = tmp_path / "copy"
    for package in ("data", "extract", "classify"):  # as before there was a package icebox
        shutil.copytree(ROOT / package, other / package, ignore=shutil.ignore_patterns("raw"))
    done = typed(script, "--version", cwd=tmp_path, path=(other, ROOT))
    assert refused(done, "another copy of Icebox", f"take {other} off PYTHONPATH")
    assert "rename" not in done.stderr


def installed(folder, distribution, *packages):
    """Write what an installer leaves of a distribution."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lay(folder, *packages)
    (info / "RECORD").write_text("".join(f"{name}/__init__.py,,\n" for name in packages))


def test_a_package_of_another_distribution_is_named(tmp_path, script):
    """In a folder of packages that comes first, such as a user's."""
    first = tmp_path / "site-packages"
    installed(first, "datalib", "data")
    code = f"import sys; sys.path.insert(0, {str(first)!r}); import icebox"
    done = typed(sys.executable, "-c", code, cwd=tmp_path)
    assert refused(done, first / "data", "uninstall the distribution datalib")


def test_a_distribution_that_wrote_over_ours_is_named(tmp_path, script):
    """As pip does without a word where two distributions have a package of one name."""
    place = tmp_path / "site-packages"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("raw"))
    installed(place, "datalib", "data")
    done = typed(script, "--version", cwd=tmp_path, path=(place,))
    assert refused(done, place / "data/__init__.py", "is no longer Icebox's", "datalib")


def test_a_program_that_a_command_starts_is_ours_and_finds_a_users_modules(tmp_path):
    lay(tmp_path, "data.py", "extract.py", "random.py")
    (tmp_path / "nets.py").write_text("def make(): ...\n")
    words = ("--model=nets:mak", "--dataset=digits", "--dry-run")
    done = typed(*program("extract"), *words, cwd=tmp_path)
    assert refused(done, tmp_path / "nets.py", "did you mean make?")


def test_a_program_of_another_copy_is_not_started(tmp_path):
    lay(tmp_path / "other", "extract", "data")
    done = typed(*program("extract"), "--help", cwd=tmp_path, path=(tmp_path / "other",))
    assert done.returncode == 0 and "THEIRS" not in done.stdout, done.stderr


@pytest.mark.parametrize(("name", "on_path"), [("site-packages", True), ("checkout", False)])
def test_a_program_is_started_where_it_is_installed(tmp_path, name, on_path):
    place, here = tmp_path / name, lay(tmp_path / "here", "data.py", "extract.py")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("raw"))
    starter = place / "data" / "common" / "own_packages.py"
    done = typed(
        sys.executable, starter, "data", "--help", cwd=here, path=(place,) if on_path else ()
    )
    assert done.stdout.startswith("usage: python -m data"), done.stderr


def test_nothing_starts_a_program_by_its_name():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert '"-m", "' not in path.read_text().replace('"python", "-m"', ""), path


def test_each_package_has_the_mark():
    for package in PACKAGES:
        assert MARK in (ROOT / package / "__init__.py").read_text()[:200]


def test_the_check_needs_the_standard_library_alone(tmp_path):
    code = "import sys; before = {*sys.modules}; import icebox; print(*{*sys.modules} - before)"
    done = typed(sys.executable, "-c", code, cwd=tmp_path)
    brought = {name.split(".")[0] for name in done.stdout.split()}
    assert "icebox" in brought and brought - {"icebox"} <= sys.stdlib_module_names, done.stderr


def test_workers_of_ray_do_not_look_in_the_current_folder(tmp_path, monkeypatch):
    """Ray gives its workers the folder of this moment as the first to look for modules in."""
    seen = {}

    def init(**_):
        seen["folder"] = Path.cwd()
        raise RuntimeError("stop")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="stop"):
        start_ray(1)
    assert seen["folder"] == ROOT and Path.cwd() == tmp_path


def test_an_editable_install_puts_the_checkout_on_the_path(tmp_path):
    """By a line in a file, not by a hook, for which a folder of images would be a package."""
    copy, out = tmp_path / "checkout", tmp_path / "out"
    for package in PACKAGES:
        lay(copy, package)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    out.mkdir()
    code = f"from setuptools.build_meta import build_editable as build; build({str(out)!r})"
    done = typed(sys.executable, "-c", code, cwd=copy, path=())
    assert done.returncode == 0, done.stderr
    [wheel] = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert name.endswith(".pth") and archive.read(name).decode().strip() == str(copy)
