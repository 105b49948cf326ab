"""The rules of the layout that an import contract cannot say completely."""

import ast
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11

ROOT = Path(__file__).parents[1]
PACKAGES = ("data", "extract", "classify", "icebox")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
UNSAFE = {"pickle", "dill", "shelve", "marshal", "cloudpickle"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_there_are_sources():
    assert len(SOURCES) > 40


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_the_store_imports_h5py_and_nobody_unpickles(path):
    names = imported(path)
    assert ("h5py" in names) == (path.relative_to(ROOT).as_posix() == "data/store.py")
    assert not names & UNSAFE


def test_every_folder_of_a_package_is_installed():
    """A folder without an __init__ would be left out of the wheel and of the contracts."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path.parent


def test_what_is_imported_is_declared():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = {name.split(">")[0].lower() for name in config["project"]["dependencies"]}
    optional = config["project"]["optional-dependencies"]
    # Imported where they are installed.
    extras = {"anndata", "braceexpand", "datasets", "distributed", "openvino", "pyarrow", "ray"}
    extras |= {"onnx", "onnxruntime", "onnxscript", "open_clip_torch", "transformers", "webdataset"}
    named = (
        "anndata",
        "cpu",
        "dask",
        "hf",
        "onnx",
        "open_clip",
        "parquet",
        "ray",
        "transformers",
        "wds",
    )
    listed = {name.split(">")[0] for extra in named for name in optional[extra]}
    assert listed - {"dask"} == extras
    renamed = {"sklearn": "scikit-learn", "PIL": "pillow", "open_clip": "open_clip_torch"}
    used = set().union(*(imported(path) for path in SOURCES)) - set(PACKAGES)
    foreign = {renamed.get(name, name).lower() for name in used - sys.stdlib_module_names}
    assert foreign - extras - {"torchvision"} == declared  # which timm brings
