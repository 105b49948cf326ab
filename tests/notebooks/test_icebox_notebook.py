"""The notebook runs from start to end, offline, and what is committed shows nobody's images."""

import os
from pathlib import Path

import nbformat
import pytest
from figures import leave_figures_empty_in_processes
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "icebox.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def replace(notebook, words, others):
    (cell,) = (cell for cell in code(notebook) if words in cell.source)
    cell.source = cell.source.replace(words, others)


def printed(cell):
    return "".join(
        output.text
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stdout"
    )


def execute(notebook, monkeypatch, work, data=None):
    monkeypatch.setenv("ICEBOX_WORK", str(work))
    monkeypatch.setenv("ICEBOX_DATA", str(data or work / "no-data"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(work / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel has its own
    (work / "reports").mkdir(exist_ok=True)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources=resources).execute()
    return {cell.id: cell for cell in code(notebook)}


def test_it_is_ten_short_cells_without_outputs(notebook):
    cells = code(notebook)
    assert len(cells) == 10
    for number, cell in enumerate(cells, start=1):
        assert cell.source.startswith(f"# {number}. ")
        assert cell.source.count("\n") < 20
        assert not cell.outputs and cell.execution_count is None
    assert not any(cell.get("attachments") for cell in notebook.cells)
    nbformat.validate(notebook)


def test_it_runs_from_images_to_the_verdict(notebook, monkeypatch, tmp_path):
    if not os.environ.get("ICEBOX_FAULTS"):  # some of the digits, smaller ones, and one process
        small = '"--image-size=32", "--limit=240"'
        replace(notebook, '"--image-size=64"', small)
        replace(notebook, '"classify", "fit", store,', '"classify", "fit", store, "--jobs=1",')
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    leave_figures_empty_in_processes(monkeypatch, tmp_path / "site")
    cells = execute(notebook, monkeypatch, tmp_path)
    assert any("image/png" in output.get("data", {}) for output in cells["look"].outputs)
    svg = [output.data["image/svg+xml"] for output in cells["figures"].outputs]
    assert len(svg) == 2
    assert "45 pairs" in printed(cells["one-fit"])
    assert printed(cells["predict"]).count("was taken for") == 5
    verdict, page = printed(cells["verdict"]).splitlines()
    assert "OvR" in verdict and "OvO" in verdict
    assert Path(page).is_file() and Path(page).is_relative_to(tmp_path)


@pytest.mark.timeout(900)
def test_changing_one_line_runs_it_on_cifar10(notebook, monkeypatch, tmp_path):
    real = Path(os.environ.get("ICEBOX_REAL_DATA", ROOT.parent / "shared" / "data"))
    needed = [real / "cifar-10-batches-bin", real / "mobilenetv2_100.safetensors"]
    if not all(path.exists() for path in needed):
        pytest.skip("the real CIFAR-10 images and weights are not there")
    for path in needed:
        (tmp_path / path.name).symlink_to(path)
    replace(notebook, 'DATASET = "digits"', 'DATASET = "cifar10"')
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = execute(notebook, monkeypatch, tmp_path, data=tmp_path)
    assert "OvR" in printed(cells["verdict"])
