"""scikit-learn's tests of its logistic regression and of its multi-class strategies, on ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = ("sklearn.linear_model.tests.test_logistic", "sklearn.tests.test_multiclass")


@pytest.mark.skipif(
    not os.environ.get("ICEBOX_FAULTS"), reason="a minute and a half: ICEBOX_FAULTS=1"
)
@pytest.mark.timeout(900)
def test_scikit_learns_own_tests_pass_but_for_those_that_are_listed(tmp_path):
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "our_classes", "-p", "no:cacheprovider",
            "--tb=line", "--pyargs", *MODULES,
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    counts = done.stdout.splitlines()[-1]
    assert "xfailed" in counts and int(counts.split(" passed")[0].split()[-1]) > 150, counts
