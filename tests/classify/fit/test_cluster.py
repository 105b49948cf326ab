"""Fits on real clusters of two processes: the results of one process."""

from __future__ import annotations

import json
import threading
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from figures import leave_figures_empty_in_processes

from classify.__main__ import main
from classify.fit.cluster import _OneThreads
from classify.fit.fit_stores import side_by_side
from classify.report.runs import read_results
from data.common.cli import run


def numbers(reports):
    """All that a run's results say, but for times, paths and the machine."""
    found = {}
    for path in sorted(reports.glob("*/*/results.json")):
        results = read_results(path)
        for entry in results["strategies"].values():
            del entry["fit_seconds"], entry["predict_seconds"]
        kept = ("strategies", "comparisons", "few_shot", "verdict")
        found[path.parts[-3]] = json.dumps({name: results[name] for name in kept})
    return found


@pytest.fixture
def workers_without_figures(monkeypatch, tmp_path):
    leave_figures_empty_in_processes(monkeypatch, tmp_path / "site")


@pytest.mark.parametrize(("kind", "n_stores"), [("dask", 2), ("ray", 1)])
def test_stores_and_draws_on_a_cluster(
    kind, n_stores, make_store, tmp_path, capsys, workers_without_figures
):
    pytest.importorskip({"dask": "distributed"}.get(kind, kind))
    stores = [
        make_store(tmp_path / "toys" / f"toynet-8px-{seed:08}.h5", n=120, dataset="toys", seed=seed)
        for seed in range(n_stores)
    ]
    words = ["fit", *map(str, stores), "--c=0.1"]
    assert run(main, [*words, f"--reports-dir={tmp_path}/alone", "--jobs=1"]) == 0
    capsys.readouterr()
    words += [f"--reports-dir={tmp_path}/shared", "--jobs=2", f"--cluster={kind}"]
    assert run(main, words) == 0
    printed = capsys.readouterr()
    assert len(printed.out.split()) == n_stores
    assert printed.out.rstrip().endswith("report.html")
    assert numbers(tmp_path / "shared") == numbers(tmp_path / "alone")
    assert len(numbers(tmp_path / "shared")) == n_stores


def test_several_stores_at_once_give_what_each_gives_alone(
    make_store, tmp_path, capsys, workers_without_figures
):
    stores = [
        make_store(tmp_path / "toys" / f"toynet-8px-{seed:08}.h5", n=120, dataset="toys", seed=seed)
        for seed in range(2)
    ]
    options = ["--c=0.1", "--strategy=ovo"]
    for store in stores:
        words = ["fit", str(store), *options, "--jobs=1", f"--reports-dir={tmp_path}/alone"]
        assert run(main, words) == 0
    capsys.readouterr()
    words = ["fit", *map(str, stores), *options, "--jobs=2", f"--reports-dir={tmp_path}/shared"]
    assert run(main, words) == 0
    printed = capsys.readouterr()
    written = printed.out.split()
    assert [Path(page).parts[-3] for page in written] == [f"toys-{store.stem}" for store in stores]
    assert all(Path(page).is_file() for page in written)
    assert printed.err.count("macro-F1") == 2
    assert numbers(tmp_path / "shared") == numbers(tmp_path / "alone")
    assert len(numbers(tmp_path / "shared")) == 2


def test_only_one_thread_writes_to_stdout(capsys):
    with redirect_stdout(_OneThreads()):
        other = threading.Thread(target=print, args=("a worker died",))
        other.start()
        other.join()
        print("report.html", flush=True)
    assert capsys.readouterr() == ("report.html\n", "a worker died\n")


def test_stores_share_the_threads():
    assert side_by_side(2, 8) == (2, 4)
    assert side_by_side(3, 8) == (3, 2)
    assert side_by_side(5, 2) == (2, 1)
    assert side_by_side(5, 1) == (1, 1)


def test_one_bad_store_is_one_message(make_store, tmp_path, capsys):
    good = make_store(tmp_path / "toys" / "toynet-8px-00000000.h5", dataset="toys")
    labels = [0] * 6
    bad = make_store(tmp_path / "toys" / "toynet-8px-00000001.h5", labels_train=labels)
    words = ["fit", str(good), str(bad), "--c=1", "--jobs=2", f"--reports-dir={tmp_path}/r"]
    assert run(main, words) == 2
    printed = capsys.readouterr()
    assert "needs two or more" in printed.err and "Traceback" not in printed.err
