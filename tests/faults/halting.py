"""Run a command line whose functions stop or kill it at a named step; not a test.

``python halting.py HOW [HOW:]STEP[@N] ... -- extract|classify ARGUMENTS``: when a function is
called for the N-th time, the process

- ``halt``: says "there" and waits to be ended,
- ``pause``: says "there" and waits for a line on stdin,
- ``kill``: is killed with SIGKILL,
- ``skip``: goes on as if the function had succeeded, at every call,
- ``shuffle``: gets the listing of a folder in another order, at every call,
- ``blank``: writes an empty figure, at every call (of matplotlib's ``Figure.savefig``),
- ``memory``: goes on with no more than 8 MB of address space beyond what it has then,
- ``disk``: goes on without files larger than 2,000 bytes.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


class Shuffled:
    """What `os.scandir` gives, backwards or in any order but the one of before."""

    def __init__(self, listing):
        self.entries = list(listing)
        random.shuffle(self.entries)

    def __iter__(self):
        return self

    def __next__(self):
        if not self.entries:
            raise StopIteration
        return self.entries.pop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.entries.clear()


def limit(what):
    """Set a limit of the process for all that follows."""
    import resource

    kind, most = resource.RLIMIT_FSIZE, 2000
    if what == "memory":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        kind, most = resource.RLIMIT_AS, used + (8 << 20)
    resource.setrlimit(kind, (most, most))


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
        if how == "skip":
            return None
        if how == "blank":
            return args[1].write('<svg width="1pt" height="1pt" viewBox="0 0 1 1"></svg>')
        if how == "shuffle":
            return Shuffled(original(*args, **kwargs))
        if calls == int(number or 1):
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how in ("memory", "disk"):
                limit(how)
                return original(*args, **kwargs)
            print("there", flush=True)
            if how == "pause":
                sys.stdin.readline()
            else:
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

        import extract.shards.plan

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        extract.shards.plan.SHARD_ROWS = 32
    for step in sys.argv[2:split]:
        how, _, name = step.rpartition(":")
        arm(how or sys.argv[1], name)
    from data.common.cli import run

    sys.exit(run(main, words))
