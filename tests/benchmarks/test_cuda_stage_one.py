"""The CUDA benchmark of stage one, as far as a CPU can run it."""

import sys

import pytest
import torch
from warm_processes import run_warm

from benchmarks.cuda_stage_one import measure
from benchmarks.processes import ROOT


def test_the_rates_are_of_the_same_network():
    device = torch.device("cpu")
    row = measure("test_efficientnet", device, "fp32", "channels-last", 20, 8, 1, size=32)
    assert set(row["rates"]) == {"network", "resident", "streamed"}
    assert row["shares"]["resident"] == row["rates"]["resident"] / row["rates"]["network"]
    assert all(rate > 0 for rate in row["rates"].values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so():
    done = run_warm(
        [sys.executable, "-m", "benchmarks.cuda_stage_one"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
    assert "Traceback" not in done.stderr
