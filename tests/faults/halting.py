"""Run a command line whose functions stop or kill it at a named step; not a test.

``python halting.py halt|kill|pause STEP[@N] ... -- extract|classify ARGUMENTS``: when a function is
called for the N-th time the process says "there" and waits, or is killed with SIGKILL.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def arm(how, step):
    """Replace the function of a dotted name, such as ``os.replace@3``."""
    name, _, number = step.partition("@")
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:cut]))
            break
        except ImportError:
            continue
    for part in parts[cut:-1]:
        owner = getattr(owner, part)
    original = getattr(owner, parts[-1])
    calls = 0

    def called(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == int(number or 1):
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            print("there", flush=True)
            time.sleep(60)
        return original(*args, **kwargs)

    setattr(owner, parts[-1], called)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in jobs of some shells
    split = sys.argv.index("--")
    program, *words = sys.argv[split + 1 :]
    main = importlib.import_module(f"{program}.__main__").main
    if program == "extract":
        import torch

        import extract.shards

        torch.set_num_threads(1)
        extract.shards.SHARD_ROWS = 32
    for step in sys.argv[2:split]:
        arm(sys.argv[1], step)
    from data.cli import run

    sys.exit(run(main, words))
