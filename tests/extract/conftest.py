"""Stage one's command line, called in this process, on scikit-learn's digits."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest
import torch

from data.common.cli import run
from extract.__main__ import main

# On a busy machine threads that wait for each other cost more than they bring here.
torch.set_num_threads(1)

SMALL = (
    "--dataset",
    "digits",
    "--limit",
    "100",
    "--model",
    "test_efficientnet",
    "--weights",
    "random",
    "--batch-size",
    "16",
    # Nothing is measured, and every run has the same bits.
    "--engine",
    "channels-last",
)


# An image size of a test's own takes its place: given beside it, it would ask for another store.
SIZE = ("--image-size", "32")


@dataclass
class Done:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def path(self):
        return self.out.strip().splitlines()[-1]


def _call(*argv) -> Done:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(main, [str(word) for word in argv])
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory, monkeypatch):
    """Keep what is measured here out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def call():
    """Call the command line in this process."""
    return _call


@pytest.fixture
def small_job():
    """The options of the smallest real job."""
    return *SMALL, *SIZE


@pytest.fixture
def features(tmp_path):
    return tmp_path / "features"


@pytest.fixture
def small(features):
    """Run the smallest real job, with more or other options (the last of a kind counts)."""

    def run_small(*more, word=()):
        size = () if "--image-size" in more else SIZE
        return _call(*word, *SMALL, *size, "--features-dir", features, *more)

    return run_small


@pytest.fixture
def refused():
    """Check that a command line ended as bad input must: exit 2, one short message."""

    def check(done, *named):
        assert done.code == 2, done.err
        assert done.out == ""
        assert "Traceback" not in done.err
        message = done.err[done.err.index("error: ") :]
        assert len(message.strip().splitlines()) <= 5, message
        for word in named:
            assert str(word) in message, message

    return check
