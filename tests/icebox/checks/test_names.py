"""Files of the user's under the names of our packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from icebox.checks import names
from icebox.checks.finding import FAILURE, OK, WARNING


@pytest.mark.parametrize(
    ("path", "shown"), [("data.py", "data.py"), ("extract/__init__.py", "extract")]
)
def test_a_file_in_the_current_folder_is_named(tmp_path, monkeypatch, path, shown):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "raw").mkdir(parents=True)  # a folder without code is no clash
    [one] = names.check_names()
    assert one.level == OK
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text("")
    [one] = names.check_names()
    assert one.level == WARNING and one.text.startswith(f"{shown} has the name of a package")


def test_another_package_that_is_found_first_is_a_failure(tmp_path, monkeypatch):
    import sys

    import classify

    (tmp_path / "classify").mkdir()
    (tmp_path / "classify" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setattr(classify, "__file__", str(tmp_path / "classify" / "__init__.py"))
    monkeypatch.setitem(sys.modules, "classify", classify)
    [one] = names.check_names()
    assert one.level == FAILURE and one.text.startswith(f"{tmp_path / 'classify'} has the name")


def test_in_the_checkout_nothing_is_wrong(monkeypatch):
    monkeypatch.chdir(Path(names.ROOT))
    assert [one.level for one in names.check_names()] == [OK]
