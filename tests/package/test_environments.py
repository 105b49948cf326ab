"""Which installed distributions a wheel is given, and that it finds no others."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("packaging")
# Helpers that tests import by name lie beside them.
sys.path.insert(0, str(Path(__file__).parent))

import environments

NEEDS = {
    "one": ("two[more]", "absent; python_version < '3'"),
    "two": ("three; extra == 'more'", "other; extra == 'less'"),
    "three": ("One-Of.four>=1",),
    "one_of_four": (),
    "other": (),
    "loop": ("loop",),
}
FILES = {
    "one": ("shared/one/__init__.py", "one.py", "../../bin/one"),
    "two": ("two/__init__.py", "two/part/more.py", "two.pth"),
    "three": ("shared/three.py",),
    "one_of_four": ("four.py",),
    "other": ("shared/other.py", "other.py"),
    "loop": (),
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder with installed distributions, the only ones that there are."""
    folder = tmp_path / "site packages"
    for name, needs in NEEDS.items():
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"]
        lines += [f"Requires-Dist: {line}\n" for line in needs]
        (info / "METADATA").write_text("".join(lines))
        files = [*FILES[name], f"{info.name}/METADATA"]
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file in FILES[name]:
            if not file.startswith(".."):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text("")
    at = importlib.metadata.Distribution.at
    found = {environments.normal(name): at(folder / f"{name}-1.0.dist-info") for name in NEEDS}

    def distribution(name):
        if environments.normal(name) not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[environments.normal(name)]

    monkeypatch.setattr(environments, "distribution", distribution)
    monkeypatch.setattr(environments, "distributions", found.values)
    return folder


def test_what_is_needed_with_what_that_needs(site):
    closure = environments.closure
    assert closure(["one"], ()) == {"one", "two", "three", "one-of-four"}
    assert closure(["two", "other; extra == 'x'"], ()) == {"two"}
    assert closure(["two", "other; extra == 'x'"], ["x", "y"]) == {"two", "other"}
    assert closure(["loop>=1"], ()) == {"loop"}
    with pytest.raises(environments.MissingError, match="absent, which icebox needs"):
        closure(["one", "absent"], ())


FIND = """\
import importlib.util, sys
sys.path.insert(0, sys.argv[1])
print([name for name in sys.argv[2:] if importlib.util.find_spec(name)])
"""


def test_links_to_these_and_to_no_others(site, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    names = ("shared.one", "one", "two.part.more", "shared.three", "four", "shared.other", "other")

    def find(*wanted):
        environments.link_distributions(wanted, folder)
        command = [sys.executable, "-I", "-S", "-c", FIND, str(folder), *names]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        infos = {path.name.removesuffix("-1.0.dist-info") for path in folder.glob("*.dist-info")}
        assert infos == set(wanted)
        return ast.literal_eval(done.stdout)

    assert find("one", "two") == ["shared.one", "one", "two.part.more"]
    assert find("one", "two", "three") == ["shared.one", "one", "two.part.more", "shared.three"]
    assert not (folder / "two.pth").exists() and not (tmp_path / "bin").exists()
    everything = ("one", "two", "three", "other")  # and so the whole folder that they share
    assert find(*everything) == [name for name in names if name != "four"]


def test_without_what_leads_to_the_checkout(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "here")
    found = environments.clean_environment(HOME="there")
    assert "PYTHONPATH" not in found and found["PYTHONNOUSERSITE"] == "1"
    assert found["HOME"] == "there"
