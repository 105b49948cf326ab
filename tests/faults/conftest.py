"""One small world of real files for the fault tests: datasets, a store, a run, and broken ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from figures import leave_figures_empty

# Helpers that tests import by name lie beside them.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Everything that the table of errors names; no test may change a file of it."""
    from fault_world import build

    with pytest.MonkeyPatch.context() as patched:
        leave_figures_empty(patched)
        return build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def expected(tmp_path_factory):
    """What an uninterrupted run of `command_lines.extraction` gives."""
    from command_lines import again, content

    return content(again(tmp_path_factory.mktemp("uninterrupted"))[0])
