"""The same command gives the same bits, whatever the threads, the jobs and the order of files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from command_lines import NO_FIGURES, content, finish, start
from fault_world import TINY, write_store

from data.reading import open_features

LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    from PIL import Image

    root = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    for name in ("train/ant", "train/bee", "train/cat", "test/ant", "test/bee", "test/cat"):
        (root / name).mkdir(parents=True)
        for number in range(9):
            pixels = chance.integers(0, 256, (40, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


ENGINES = ["torch", "folded"] if LONG else ["torch"]


@pytest.mark.parametrize("model", ["test_efficientnet", "test_vit"] if LONG else ["test_vit"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_store(engine, model, images, tmp_path):
    """The engine and the batch size are given: left to themselves they are measured."""
    found = []
    for run, (threads, jobs, how) in enumerate([(1, 1, []), (2, 2, ["shuffle:os.scandir"])]):
        words = [word for word in TINY if not word.startswith(("--jobs", "--model"))]
        words += [f"--dataset={images}", f"--jobs={jobs}", f"--engine={engine}"]
        words += [f"--model={model}", f"--features-dir={tmp_path}/{run}"]
        number = {"OMP_NUM_THREADS": str(threads)}  # read when torch is imported
        found.append(start("halt", how, "extract", *words, cold=threads > 1, **number))
    paths = [finish(process)[0].strip() for process in found]
    assert len({Path(path).name for path in paths}) == 1
    (key, *_), *others = contents = [content(path) for path in paths]
    assert all(key == other[0] for other in others)
    assert all(what[1] == contents[0][1] for what in contents), "the digests of all arrays"
    assert all(what[2:] == contents[0][2:] for what in contents)
    provenance = [open_features(path).provenance for path in paths]
    assert [made["threads"] for made in provenance] == [1, 2]


def bits(page):
    """Digests of heads and predictions, and results.json without its times."""
    run = Path(page).parent
    heads = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.glob("heads/*.safetensors"))
    }
    assert len(heads) == 3
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    del results["timings"], results["command"], results["environment"]
    for entry in results["strategies"].values():
        del entry["fit_seconds"], entry["predict_seconds"]
    with np.load(run / "predictions.npz", allow_pickle=False) as stored:
        answers = {name: stored[name].tobytes() for name in stored.files}
    return heads, results, answers


def test_a_fit(tmp_path):
    chance = np.random.default_rng(0)
    y = np.arange(600) % 3
    X = chance.normal(size=(3, 300))[y] + 3 * chance.normal(size=(600, 300))
    store = write_store(tmp_path / "a.h5", y, y[:99], "abc", X, X[:99] + 0.1)
    found = []
    for threads, jobs in ((1, 1), (2, 2)):
        reports = tmp_path / f"{threads}{jobs}"
        words = ["fit", str(store), f"--reports-dir={reports}", f"--jobs={jobs}", "--c-grid=0.01,1"]
        words += [] if LONG else ["--no-few-shot"]  # draws in processes: classify/analysis
        numbers = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}
        found.append(start("halt", NO_FIGURES, "classify", *words, cold=threads > 1, **numbers))
    one, two = (bits(finish(process)[0].strip()) for process in found)
    for mine, other in zip(one, two, strict=True):
        assert mine == other
