"""`kill -9` and Ctrl-C of whole command lines: what stays, what is said, how it goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command_lines import (
    NO_FIGURES,
    again,
    content,
    extraction,
    files_of,
    finish,
    interrupt,
    interrupted,
    start,
)
from fault_world import TINY, call, digests, write_store
from warm_processes import WarmProcess

LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`
RANDOM_TIMES = 50 if LONG else 3


# Steps of a run, and how often the function is called before it is killed there.
STEPS = {
    "before the plan is in place": "os.replace@1",
    "in the first batch": "extract.engines.embed.Embedder.embed@1",
    "in a batch": "extract.engines.embed.Embedder.embed@5",
    "reserving a shard": "data.shards.reserve@2",
    "reading a shard back": "data.shards._read@2",
    "syncing a shard": "data.common.files.sync_file@3",
    "renaming a shard": "os.replace@3",
    "joining": "data.writing.reserve@1",
    "finishing the store": "data.writing.Skeleton.finish@1",
    "reading the store back": "data.writing.verify_store@1",
    "removing the shards": "extract.run.shutil.rmtree@2",
}


QUICK = ["in a batch", "reading a shard back", "renaming a shard", "finishing the store"]


@pytest.mark.parametrize("step", STEPS if LONG else [*QUICK, "removing the shards"])
def test_a_killed_extraction_goes_on_to_the_same_bits_and_leaves_nothing(step, tmp_path, expected):
    finish(extraction(tmp_path, "kill", STEPS[step]), -signal.SIGKILL)
    store, err = again(tmp_path)
    assert content(store) == expected
    assert files_of(tmp_path) == [str(store.relative_to(tmp_path))]
    assert ("found" in err) == (step == "removing the shards")


def test_an_extraction_killed_at_random_times_again_and_again(tmp_path, expected):
    chance = random.Random(0)
    usual = 5 if WarmProcess is subprocess.Popen else 1  # seconds of a whole run
    for _ in range(RANDOM_TIMES):
        process = extraction(tmp_path)
        time.sleep(chance.uniform(0, usual))
        process.kill()
        process.communicate()
        for path in tmp_path.glob("*/*.h5"):
            if not path.name.startswith("."):
                assert content(path) == expected, "what has its final name is whole"
    store, _ = again(tmp_path)
    assert content(store) == expected
    assert files_of(tmp_path) == [str(store.relative_to(tmp_path))]


@pytest.mark.parametrize("step", ["in the first batch", "in a batch", "joining"])
def test_ctrl_c_of_an_extraction(step, tmp_path, expected):
    said = interrupt(extraction(tmp_path, "halt", STEPS[step], cold=step == "in a batch"))
    assert "same command" in said
    store, err = again(tmp_path)
    assert content(store) == expected
    assert ("going on" in err) == (step != "in the first batch")
    assert files_of(tmp_path) == [str(store.relative_to(tmp_path))]


@pytest.fixture
def slow_server():
    """A server on 127.0.0.1 that sends a few bytes of an archive, and then no more."""
    asked, stop = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"\x1f\x8b" * 2000)
            self.wfile.flush()
            asked.set()
            stop.wait(60)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/archive.tar.gz", asked
    stop.set()
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_leaves_no_archive(slow_server, tmp_path, how):
    url, asked = slow_server
    words = ["--dataset=cifar10", *TINY, f"--data-url={url}", f"--data-sha256={'0' * 64}"]
    words += [f"--data-dir={tmp_path}/raw", f"--features-dir={tmp_path}/features"]
    process = start("halt", [], "extract", *words)
    assert asked.wait(60), process.communicate()
    process.send_signal(how)
    _, err = finish(process, 130 if how == signal.SIGINT else -how)
    assert not (tmp_path / "raw" / "cifar-10-binary.tar.gz").exists()
    if how == signal.SIGINT:
        assert err.strip().splitlines()[-1].startswith("interrupted: ")
        assert "same command" in err
        assert files_of(tmp_path) == []


FITTING = {
    "choosing C": "classify.selection.select_C",
    "fitting": "classify.estimator_base.LinearHeads._solve@2",
    "evaluating": "classify.fit.answers.evaluate",
    "writing the heads": "classify.fit.output.save_head@2",
    "drawing the report": "classify.fit.output.write_report",
    "putting it in place": "os.rename",
}


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path / "a.h5", [0, 1, 2] * 20, [0, 1, 2] * 4, ["a", "b", "c"])


def fit(store, reports, how, *steps, cold=False):
    words = [store, f"--reports-dir={reports}", "--jobs=1", "--c-grid=0.1,1", "--no-few-shot"]
    words += ["--strategy=multinomial", "--strategy=ovr"]
    return start(how, [*NO_FIGURES, *steps], "classify", "fit", *words, cold=cold)


@pytest.mark.parametrize("step", FITTING)
def test_ctrl_c_of_a_fit_leaves_no_half_of_a_report(step, store, tmp_path):
    reports = tmp_path / "reports"
    said = interrupt(fit(store, reports, "halt", FITTING[step], cold=step == "fitting"))
    assert f"nothing was written for {store}" in said
    assert "same command" in said
    assert digests(reports) == {}


@pytest.mark.parametrize("step", ["writing the heads", "drawing the report", "putting it in place"])
def test_what_a_killed_fit_leaves_goes_with_the_next(step, store, tmp_path):
    reports = tmp_path / "reports"
    finish(fit(store, reports, "kill", FITTING[step]), -signal.SIGKILL)
    assert all("/.tmp-" in f"/{name}" for name in digests(reports))
    page, _ = finish(fit(store, reports, "halt"))
    run = Path(page.strip()).parent
    assert [path.name for path in run.parent.iterdir()] == [run.name]


COMPARING = {
    "reading the runs": "classify.report.comparison.find_runs",
    "comparing": "classify.report.comparison.summarise",
    "writing": "classify.report.comparison.write_pages",
    "the old one is aside": "os.rename@2",
}


@pytest.mark.parametrize("step", COMPARING if LONG else ["comparing", "the old one is aside"])
def test_ctrl_c_of_a_comparison_leaves_the_one_before(step, world, tmp_path, unwritten_figures):
    words = ["compare", str(Path(world["run"]).parent), f"--reports-dir={tmp_path}"]
    assert call(["classify", *words]).code == 0
    before = digests(tmp_path)
    steps = [*NO_FIGURES, COMPARING[step]]
    assert "same command" in interrupt(start("halt", steps, "classify", *words))
    assert digests(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["comparison"]


DRAWING = {
    "drawing": "classify.report.run_report.draw_figures",
    "writing": "classify.report.run_report.write_pages",
}


@pytest.mark.parametrize("step", DRAWING if LONG else ["writing"])
def test_ctrl_c_of_a_report_that_is_drawn_again(step, world, tmp_path, unwritten_figures):
    run = tmp_path / "run"
    shutil.copytree(world["run"], run)
    before = digests(run)
    words = ["report", str(run)]
    assert "same command" in interrupt(
        start("halt", [*NO_FIGURES, DRAWING[step]], "classify", *words)
    )
    assert digests(run) == before
    assert call(["classify", *words]).code == 0
    assert list(digests(run)) == list(before)


def command_of(pid):
    """Give the command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def stage_one_of(process):
    """Wait for the process that runs the backbone, and for it to be under way."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for pid in children.read_text().split():
            if b"images" in command_of(pid):
                time.sleep(0.1)
                return int(pid)
        time.sleep(0.01)
    raise AssertionError(process.communicate())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.parametrize("who", ["the group", "the command alone"])
def test_ctrl_c_of_a_prediction_while_the_backbone_runs(who, world, tmp_path):
    """A terminal sends it to all processes of the command; `kill -INT` to one."""
    words = ["predict", world["head"], world["good"]]
    process = start("halt", [], "classify", *words, apart=True, TMPDIR=str(tmp_path))
    stage_one = stage_one_of(process)
    (os.killpg if who == "the group" else os.kill)(process.pid, signal.SIGINT)
    assert "same command" in interrupted(process)
    until = time.monotonic() + 20
    while command_of(stage_one):
        assert time.monotonic() < until, "it goes on without the command that it was for"
        time.sleep(0.01)
    assert digests(tmp_path) == {}


@pytest.mark.parametrize(
    "step", ["classify.predict.load_head", "classify.report.answers_page.write_page"]
)
def test_ctrl_c_of_a_prediction_before_and_after(step, world, tmp_path):
    page = tmp_path / "answers.html"
    words = ["predict", world["head"], world["good"], f"--html={page}"]
    interrupt(start("halt", [step], "classify", *words))
    assert digests(tmp_path) == {}
