"""One job of a part, in a process of its own: ``python -m benchmarks.check_cuda.job JOB.json``.

Rows go to a file line by line as they are found, so that a job that is ended has left those.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.check_cuda.parts import all_parts
from benchmarks.check_cuda.rows import Context
from benchmarks.check_cuda.sizes import FULL, TINY


def main(path: Path) -> None:
    """Do what the file says; its ``part`` is None to describe the device."""
    job = json.loads(path.read_text(encoding="utf-8"))
    out = Path(job["out"])
    if job["part"] is None:
        from benchmarks.check_cuda.device import facts

        out.write_text(json.dumps(facts()) + "\n", encoding="utf-8")
        return
    import torch

    from classify.results.file import json_ready

    sizes = TINY if job["rehearse"] else FULL
    device = torch.device("cpu") if job["rehearse"] else torch.device("cuda", 0)
    context = Context(device, sizes, path.parent, job["threads"])
    (part,) = [part for part in all_parts(sizes) if part.name == job["part"]]
    with out.open("a", encoding="utf-8") as stream:
        for row in part.load()(context, job["argument"]):
            content = json_ready({**asdict(row), "verdict": row.verdict})
            stream.write(json.dumps(content) + "\n")
            stream.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
