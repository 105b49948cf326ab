"""An import or export that is stopped, or that finds no room, leaves what was there before."""

import errno
import subprocess
import sys

import numpy as np
import pytest
from features_for_tests import NAMES, call, content, made, store_of, whole

from data.exchange.registry import KINDS
from data.exchange.rows import SplitRows


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y, split = whole()
    np.savez("a.npz", X=X, y=NAMES[y], split=split)
    return tmp_path


@pytest.fixture
def stopped_at(monkeypatch):
    """Has an error come up when the second block of rows is asked for."""

    def stop(cls, name, error):
        good, calls = getattr(cls, name), []

        def method(self, *args, **options):
            for block in good(self, *args, **options):
                calls.append(1)
                if len(calls) == 2:
                    raise error
                yield block

        monkeypatch.setattr(cls, name, method)

    return stop


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "No space left on device; free some space",
        ),
        (MemoryError(), 2, "the memory that is free does not suffice"),
    ],
)
def test_an_import_that_ends_early(place, capsys, stopped_at, error, code, said):
    before = files(place)
    stopped_at(SplitRows, "blocks", error)
    assert call("import", "a.npz", "--name", "s") == code
    assert said in capsys.readouterr().err
    assert files(place) == before


@pytest.mark.parametrize("to", ["parquet", "npz", "csv"])
def test_an_export_that_ends_early(place, capsys, stopped_at, to):
    from data.exchange.records import OutgoingSplit

    store = store_of(capsys, "import", "a.npz", "--name", "s")
    store_of(capsys, "export", store, "--to", to)  # an older one, which stays
    before = files(place)
    stopped_at(OutgoingSplit, "blocks", KeyboardInterrupt())
    assert call("export", store, "--to", to, "--force") == 130
    assert files(place) == before
    assert KINDS[to].suffix in "".join(before)


def test_what_was_unpacked_is_removed(place, capsys, stopped_at, warm_stage_one):
    import torch

    X, y, Xt, yt = made()
    torch.save({"X_train": torch.tensor(X), "y_train": torch.tensor(y)}, "train.pt")
    torch.save({"X_test": torch.tensor(Xt), "y_test": torch.tensor(yt)}, "test.pt")
    path = store_of(capsys, "import", "train.pt", "test.pt", "--name", "s")
    assert content(path)["test"]["features"].tobytes() == Xt.tobytes()
    assert not [name for name in files(place) if ".work" in name]
    stopped_at(SplitRows, "blocks", KeyboardInterrupt())
    assert call("import", "train.pt", "test.pt", "--name", "t") == 130
    assert not [name for name in files(place) if ".work" in name]


def test_two_imports_at_the_same_time_make_one_store(place):
    words = [sys.executable, "-m", "data", "import", "a.npz", "--name", "s"]
    running = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], ends
    paths = {out.strip() for out, _ in ends}
    assert len(paths) == 1 and len(list(place.glob("features/s/*"))) == 1
    assert sorted("found" in err for _, err in ends) == [False, True]
