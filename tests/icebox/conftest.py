"""A small store of features, as `icebox import` makes it."""

import numpy as np
import pytest

from data.common.cli import run
from icebox.__main__ import main


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Return a store of 90 rows in three classes that do not overlap much."""
    folder = tmp_path_factory.mktemp("imported")
    rng = np.random.default_rng(0)
    for split, n in (("train", 60), ("test", 30)):
        labels = np.arange(n) % 3
        X = rng.normal(size=(3, 5))[labels] * 3 + rng.normal(size=(n, 5))
        np.savez(folder / f"{split}.npz", features=X.astype(np.float32), labels=labels)
    files = [str(folder / f"{split}.npz") for split in ("train", "test")]
    assert run(main, ["import", *files, "--name=toy", f"--features-dir={folder}/features"]) == 0
    [path] = (folder / "features" / "toy").glob("*.h5")
    return path
