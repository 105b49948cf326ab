"""Faults: too large a batch, features and a network that do not fit, and a run that is killed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.check_cuda import inputs
from benchmarks.check_cuda.rows import Context, Row
from benchmarks.check_cuda.sizes import Network
from benchmarks.check_cuda.stage_one import compared, only_store
from benchmarks.check_cuda.stage_two import C, estimator
from benchmarks.processes import ROOT

# Attempts to kill a run between its first shard and its end, and seconds of each.
ATTEMPTS = 3
PATIENCE = 60.0
# Memory in which not even a network fits.
NOTHING = 4_000_000


def faults(context: Context, which: str) -> Iterator[Row]:
    """Provoke one kind of fault, and look at what is left."""
    yield from {"batch": batch, "memory": memory, "killed": killed}[which](context)


@contextlib.contextmanager
def at_most(context: Context, size: float) -> Iterator[None]:
    """Let torch have so many bytes of the device; a CPU has no such limit."""
    import torch

    if not context.on_cuda:
        yield
        return
    total = torch.cuda.get_device_properties(context.device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(size / total, 1.0), context.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, context.device)


def words_for(context: Context, network: Network, folder: str, *more: str) -> list[str]:
    """Spell a run of stage one on scikit-learn's digits."""
    return [
        "--dataset=digits", f"--model={network.name}", "--weights=random",
        f"--image-size={network.size}", f"--device={context.device.type}", "--precision=fp32",
        f"--features-dir={context.folder / folder}", "--compile=off", *more,
    ]  # fmt: skip


def command(words: list[str]) -> tuple[int, str]:
    """Run ``python -m extract`` in this process: its exit code, and what it said."""
    from data.common.cli import run
    from extract.__main__ import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = run(main, words)
    return code, said.getvalue()


def batch(context: Context) -> Iterator[Row]:
    """Give stage one too little memory for its batch: it must halve it and go on."""
    from data import open_features
    from data.reading import read_header
    from extract.engines.device import default_batch_size

    network = context.sizes.fault_network
    with at_most(context, context.sizes.fault_memory):
        code, said = command(words_for(context, network, "little"))
    what = f"{network.name}, batch too large for {context.sizes.fault_memory / 1e9:g} GB"
    if code:
        yield Row(what, f"exit code {code}: {_last(said)}", "halves it", False)
        return
    store = only_store(context.folder / "little")
    size, usual = read_header(store).provenance["batch_size"], default_batch_size(context.device)
    halved = size < usual and "out of memory" in said
    yield Row(what, f"batches of {size} in place of {usual}", "halves it", halved)
    code, said = command(words_for(context, network, "enough"))
    if code:
        yield Row("the same with enough memory", f"exit code {code}: {_last(said)}", "", False)
        return
    halves, usual_rows = (
        open_features(path).train.features.astype(np.float32)
        for path in (store, only_store(context.folder / "enough"))
    )
    yield compared("its rows against those of whole batches", halves, usual_rows, "fp32", {})


def memory(context: Context) -> Iterator[Row]:
    """Give a fit less memory than its features take, and stage one less than its network."""
    from data.common.cli import EXIT_USER

    X, y = inputs.features((20_000, 256, 5), context.device)
    here = X.cpu().numpy()
    del X
    with at_most(context, here.nbytes / 2), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fitted = estimator("ovr", context).fit(here, y)
    told = any("too little memory" in str(warning.message) for warning in said)
    yield Row("features that do not fit", f"fitted on {fitted.device_}",
              "the CPU, and says so", fitted.device_ == "cpu" and told)  # fmt: skip
    yield _same_fit(fitted, here, y)
    with at_most(context, NOTHING):
        code, text = command(words_for(context, context.sizes.fault_network, "nothing"))
    clear = code == EXIT_USER and text.count("error:") == 1 and "Traceback" not in text
    yield Row("a network that does not fit", f"exit code {code}: {_last(text)}",
              "one message", clear)  # fmt: skip


def _same_fit(fitted: Any, X: Any, y: Any) -> Row:
    from classify import OneVsRestLogistic

    expected = OneVsRestLogistic(C).fit(X, y)
    same = fitted.coef_.tobytes() == expected.coef_.tobytes()
    return Row("its heads against a fit on the CPU", "same bits" if same else "other bits",
               "same bits", same)  # fmt: skip


def killed(context: Context) -> Iterator[Row]:
    """Kill a run after its first shard, go on, and compare with a run that was left alone."""
    network = context.sizes.killed_network
    size = f"--batch-size={min(64, context.sizes.rate_batch)}"
    for attempt in range(ATTEMPTS):
        folder = f"killed-{attempt}"
        words = words_for(context, network, folder, size)
        if _kill_after_a_shard(words, context.folder / folder):
            break
    else:
        yield Row(f"{network.name}, killed in the middle", "it always ended first", "", False)
        return
    code, said = command(words)
    kept = "going on: " in said
    text = f"exit code {code}, " + ("went on" if kept else "began again")
    yield Row(f"{network.name}, killed in the middle", text, "goes on", code == 0 and kept)
    code, _ = command(words_for(context, network, "whole", size))
    digests = [_digest(only_store(context.folder / name)) for name in (folder, "whole")]
    yield Row("its store against one made at once",
              "same bits" if digests[0] == digests[1] else "other bits", "same bits",
              code == 0 and digests[0] == digests[1])  # fmt: skip


def _kill_after_a_shard(words: list[str], folder: Path) -> bool:
    """Start a run, and end it by force as soon as a shard is there; False where it was faster."""
    child = subprocess.Popen(
        [sys.executable, "-m", "extract", *words], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    try:
        while child.poll() is None and time.monotonic() < deadline:
            if any(folder.glob(".work/*/shard-*.h5")):
                break
            time.sleep(0.002)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    return child.returncode == -signal.SIGKILL and any(folder.glob(".work/*/shard-*.h5"))


def _digest(store: Path) -> str:
    """Hash all features of a store."""
    from data import open_features

    found, features = hashlib.sha256(), open_features(store)
    for split in (features.train, features.test):
        found.update(np.ascontiguousarray(split.features).data)
    return found.hexdigest()


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing was said"
