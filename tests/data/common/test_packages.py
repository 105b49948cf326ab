"""What is typed for an extra, where this program is installed and where it is not."""

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest

from data.common import packages

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("version", "said"),
    [("0.1.0", "pip install 'icebox[wds]'"), (None, "pip install '.[wds]'")],
)
def test_what_is_typed_for_an_extra(monkeypatch, version, said):
    monkeypatch.setattr(packages, "package_version", {"icebox": version}.get)
    assert packages.install_extra("wds") == said


def test_every_extra_that_a_message_names_exists():
    declared = set(distribution("icebox").metadata.get_all("Provides-Extra"))
    named = set()
    for package in ("data", "extract", "classify", "icebox"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            named |= set(re.findall(r"install_extra\([\"']([^\"')]+)[\"']\)", text))
            # Spelled in one place alone.
            assert path.name == "packages.py" or not re.search(r"pip install '[^' ]*\[", text), path
    assert len(named) >= 6
    assert {name.replace("_", "-") for name in named} <= {n.replace("_", "-") for n in declared}


def test_no_message_is_for_a_checkout_alone():
    """What ``make`` or git do: a wheel has neither. The demo's words for both are in `demo`."""
    checkout = re.compile(
        r"\bmake (demo|features|classify|compare|predict|example)\b(?! of their own)"
        r"|git (pull|clone)|then make\b|\bdocs/(guide|reference|design)/\S+ says"
    )
    for package in ("data", "extract", "classify", "icebox"):
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix not in (".py", ".j2") or path == ROOT / "icebox" / "demo.py":
                continue
            found = checkout.search(path.read_text(encoding="utf-8"))
            assert found is None, (path, found)
