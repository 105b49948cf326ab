"""Fits on real clusters of two processes: the results of one process."""

from __future__ import annotations

import json

import pytest

from classify.__main__ import main
from classify.results import read_results
from data.cli import run


def numbers(reports):
    """All that a run's results say, but for times, paths and the machine."""
    found = {}
    for path in sorted(reports.glob("*/*/results.json")):
        results = read_results(path)
        for entry in results["strategies"].values():
            del entry["fit_seconds"]
        kept = ("strategies", "comparisons", "few_shot", "verdict")
        found[path.parts[-3]] = json.dumps({name: results[name] for name in kept})
    return found


@pytest.mark.parametrize(("kind", "n_stores"), [("dask", 2), ("ray", 1)])
def test_stores_and_draws_on_a_cluster(kind, n_stores, make_store, tmp_path, capsys):
    pytest.importorskip({"dask": "distributed"}.get(kind, kind))
    stores = [
        make_store(tmp_path / "toys" / f"toynet-8px-{seed:08}.h5", n=120, dataset="toys", seed=seed)
        for seed in range(n_stores)
    ]
    words = ["fit", *map(str, stores), "--c=0.1", "--jobs=2"]
    assert run(main, [*words, f"--reports-dir={tmp_path}/alone"]) == 0
    capsys.readouterr()
    assert run(main, [*words, f"--reports-dir={tmp_path}/shared", f"--cluster={kind}"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.split()) == n_stores
    assert printed.out.rstrip().endswith("report.html")
    assert numbers(tmp_path / "shared") == numbers(tmp_path / "alone")
    assert len(numbers(tmp_path / "shared")) == n_stores
