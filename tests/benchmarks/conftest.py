"""A small store, settings for it, and peers in this process instead of another."""

import numpy as np
import pytest

from benchmarks import one_c, path, peers, trial
from benchmarks.settings import Settings


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    from data.format.records import SplitSource
    from data.writing import join

    rng = np.random.default_rng(0)
    names = ("ant", "bee", "cat", "dog")
    centres = rng.normal(size=(len(names), 8))
    splits = {}
    for split, n in (("train", 240), ("test", 80)):
        labels = np.arange(n) % len(names)
        X = (centres[labels] + rng.normal(size=(n, 8))).astype(np.float32)
        ids = [f"{split}:{i}" for i in range(n)]
        splits[split] = SplitSource(labels, ids, [(X, np.ones(n, dtype=bool))])
    spec = {"dataset": {"name": "toys"}, "model": {"name": "toynet"}, "store_dtype": "float32"}
    file = tmp_path_factory.mktemp("stores") / "toynet.h5"
    join(file, spec=spec, request={}, provenance={}, class_names=names, splits=splits)
    return file


@pytest.fixture
def settings(tmp_path):
    return Settings(
        repeats=2,
        made_shape=(300, 12, 4),
        slope_rows=(200, 400, 800),
        slope_columns=(3, 6, 12),
        slope_width=(8, 16, 32),
        coupling_rows=20,
        closed_form_shape=(300, 12, 4),
        closed_form_queries=20,
        paired_draws=400,
        points=(0.01, 1.0),
        pairs=4,
        classes=8,
        results=tmp_path / "results",
    )


@pytest.fixture
def jobs(monkeypatch):
    """The jobs that were given to `trial`, which are done here."""
    done = []

    def here(job, limit=None):
        done.append(job)
        return trial.perform(job)

    for part in (one_c, path):
        monkeypatch.setattr(part, "trial", here)
    monkeypatch.setattr(peers, "cores", lambda: 1)
    return done
