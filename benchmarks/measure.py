"""Run a command and write down its seconds and its peak memory: ``OUT.json COMMAND...``.

A process of its own, which imports nothing: on Linux the peak memory that the system reports for a
child is never below that of the process that started it, so a benchmark that holds a store in
memory cannot measure a child itself.
"""

import json
import os
import subprocess
import sys
import time


def main(out: str, command: list[str]) -> int:
    """Run the command; write ``seconds``, ``cpu_seconds``, ``peak_bytes`` and ``code``."""
    start = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    code = child.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with open(out, "w", encoding="utf-8") as stream:
        cpu = usage.ru_utime + usage.ru_stime
        found = {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak, "code": code}
        json.dump(found, stream)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
