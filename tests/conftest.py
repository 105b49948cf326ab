"""What holds for all tests, and for the processes that they start."""

from __future__ import annotations

import os
import signal

# Jobs in the background of some shells start with Ctrl-C ignored, and hand that on to the processes
# that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests side by side (`pytest -n 2`) share the processors: threads that wait for each other would
# cost more than they bring. Read when numpy and torch are loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
