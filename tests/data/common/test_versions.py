"""Versions read from folder names are those of importlib.metadata."""

import importlib.metadata
import sys

import pytest

from data.common.versions import installed_version


@pytest.mark.parametrize("name", ["timm", "scikit-learn", "numpy", "h5py", "huggingface_hub"])
def test_versions_are_those_of_the_standard_library(name):
    assert installed_version(name) == importlib.metadata.version(name)


def test_the_first_on_the_path_counts_and_two_are_asked_about(tmp_path, monkeypatch):
    for place, version in (("a", "1.0"), ("b", "2.0")):
        folder = tmp_path / place / f"Some_Thing-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: some-thing\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / name) for name in ("no", "a", "b")])
    assert installed_version("some-thing") == "1.0"
    other = tmp_path / "a" / "some.thing-3.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Name: some-thing\nVersion: 3.0\n")
    assert installed_version("some-thing") == importlib.metadata.version("some-thing")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        installed_version("no-such-package")
