"""What holds for all tests, and for the processes that they start."""

from __future__ import annotations

import signal

# Jobs in the background of some shells start with Ctrl-C ignored, and hand that on to the processes
# that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
