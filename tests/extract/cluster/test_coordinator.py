"""The same shards on real clusters, Dask's and Ray's, of two processes: the same bits."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from data.common import clusters
from data.reading import read_header, verify_store
from extract.cluster import coordinator as cluster
from extract.cluster import crew as crews
from extract.cluster import dask as crew_dask
from extract.shards import plan as shards

ROOT = Path(__file__).parents[3]
LONG = bool(os.environ.get("ICEBOX_FAULTS"))  # `make faults`
# Sent by value, as what belongs to no module is: a worker that dies once, in the middle.
DEADLY = """
def deadly(task):
    import os, pathlib, signal
    from extract.cluster.worker import embed_shard
    mark = pathlib.Path({mark!r})
    if task.start == 64 and task.split == "train" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return embed_shard(task)
"""
RAY = """
import ray
started = ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 << 20)
print(started.address_info["gcs_address"], flush=True)
input()
"""

SCRIPT = """
import sys
from data.common.cli import run
from extract import cluster, shards
from extract.__main__ import main
shards.SHARD_ROWS = 32
"""
RUN = """
cluster.embed_shard = deadly
sys.exit(run(main, sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def cut_small(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 32)


@pytest.fixture
def forked_workers():
    """Have Dask fork its workers from a process that has imported torch, but in `make faults`.

    How Dask starts them by itself: tests/classify/fit/test_cluster.py.
    """
    dask = pytest.importorskip("dask")
    utils = pytest.importorskip("distributed.utils")
    if LONG:
        yield
        return
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        imported = ["distributed", "torch", "timm", "extract.cluster.worker", "extract.shards.fill"]
        utils.get_mp_context().set_forkserver_preload(imported)
        yield


def content(path):
    report = verify_store(path)
    return report.header.key, {entry.name: entry.sha256 for entry in report.datasets}


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """Make one worker die, once; return the file that says that it did."""
    names = {"__name__": "__main__"}
    mark = tmp_path / "died"
    exec(DEADLY.format(mark=str(mark)), names)
    monkeypatch.setattr(cluster, "embed_shard", names["deadly"])
    return mark


def check_retried(path, kind, mark, expected, where):
    assert mark.exists()
    assert content(path) == expected
    by = read_header(path).provenance["cluster"]
    assert by["kind"] == kind
    assert 1 <= by["workers"] <= 3
    assert not list(where.glob(".work/*/*"))


def test_a_worker_that_dies_costs_a_retry_and_not_a_bit(
    call, small, small_job, tmp_path, deadly, forked_workers
):
    expected = content(small().path)
    where = tmp_path / "cluster"
    done = call(*small_job, "--features-dir", where, "--cluster", "dask", "--jobs", "2")
    assert done.code == 0, done.err
    check_retried(done.path, "dask", deadly, expected, where)


@pytest.mark.skipif(not os.environ.get("ICEBOX_FAULTS"), reason="a minute: make faults")
def test_a_worker_that_dies_on_a_ray_cluster_that_is_there(small, small_job, tmp_path):
    pytest.importorskip("ray")
    expected = content(small().path)
    where, mark = tmp_path / "cluster", tmp_path / "died"
    # The cluster lets in who has its token, which a process reads from here when it loads Ray.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with subprocess.Popen(
        [sys.executable, "-c", RAY],
        cwd=ROOT,
        env={**os.environ, **token},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        lines = iter(running.stdout.readline, "")
        address = next(line for line in lines if ":" in line and " " not in line.strip()).strip()
        words = ("--features-dir", where, "--cluster", "ray", "--address", address)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT + DEADLY.format(mark=str(mark)) + RUN]
            + [str(word) for word in (*small_job, *words)],
            cwd=ROOT,
            env={**os.environ, **token},
            capture_output=True,
            text=True,
        )
        running.communicate("\n", timeout=60)
    assert done.returncode == 0, done.stderr
    check_retried(done.stdout.strip(), "ray", mark, expected, where)


@pytest.fixture
def image_folder(tmp_path):
    """Digits as files of several sizes, one of which is no image."""
    digits = load_digits()
    for row in range(90):
        part = "test" if row % 5 == 4 else "train"
        path = tmp_path / "images" / part / str(digits.target[row] % 2) / f"{row:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((digits.images[row] * 15).astype("uint8"))
        picture.resize((8 + row % 3, 9)).save(path)
    (tmp_path / "images" / "train" / "0" / "bad.png").write_text("not an image")
    # Sound, but for how it is to be turned.
    Image.new("L", (9, 9), 99).save(path.parents[2] / "train/0/odd.png", exif=b"Exif\0\0no TIFF")
    return tmp_path / "images"


def of_folder(call, small_job, image_folder, features, *more):
    words = [word for word in small_job if word not in ("--limit", "100")]
    words[words.index("digits")] = str(image_folder)
    return call(*words, "--features-dir", features, *more)


@pytest.fixture
def dask_cluster(forked_workers):
    """A cluster that is there already."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0
    ) as running:
        yield running.scheduler_address


def test_image_files_on_a_dask_cluster_that_is_there(
    call, small_job, image_folder, tmp_path, dask_cluster
):
    there = ("--cluster", "dask", "--scheduler", dask_cluster)
    refused = of_folder(call, small_job, image_folder, tmp_path / "there", *there)
    assert refused.code == 2
    assert "bad.png" in refused.err
    assert "--skip-bad-images" in refused.err
    done = of_folder(call, small_job, image_folder, tmp_path / "there", *there, "--skip-bad-images")
    assert done.code == 0, done.err
    alone = of_folder(call, small_job, image_folder, tmp_path / "alone", "--skip-bad-images")
    assert content(done.path) == content(alone.path)
    assert read_header(done.path).provenance["skipped_images"] == ["0/bad.png"]
    unread = {"count": 1, "first": ["train/0/odd.png"]}
    for path in (done.path, alone.path):
        assert read_header(path).provenance["unread_rotations"] == unread


class Alone(crews.Crew):
    """A crew of one, in this process: what is done is done at once."""

    kind = "dask"
    stop_after = None

    def __init__(self, address):
        super().__init__(address)
        self.results = {}
        self.calls = 0

    def start(self, workers, devices):
        self.workers = workers

    def connect(self):
        raise AssertionError

    def width(self):
        return 2

    def submit(self, function, *args, on_gpu=False):
        assert not on_gpu
        self.calls += 1
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        handle = object()
        self.results[handle] = function(*args)
        return handle

    def wait(self, handles):
        return [next(iter(handles))]

    def result(self, handle):
        return self.results.pop(handle)

    def close(self, handles=()):
        self.results.clear()


@pytest.fixture
def alone(monkeypatch):
    """Have `Alone` take the place of Dask; no process is started."""
    monkeypatch.setattr(crew_dask, "DaskCrew", Alone)
    monkeypatch.setattr(clusters, "EXTRAS", {"dask": ("json", "Dask")})
    return Alone


def test_ctrl_c_keeps_shards_and_one_process_goes_on(small, alone, monkeypatch, features, tmp_path):
    monkeypatch.setattr(alone, "stop_after", 3)
    stopped = small("--cluster", "dask")
    assert stopped.code == 130
    assert "0 of 125 images are kept" in stopped.err or "32 of 125" in stopped.err
    kept = len(list(features.glob(".work/*/shard-*.h5")))
    assert kept == 2
    done = small()
    assert "going on: 64 of 125" in done.err
    assert content(done.path) == content(small("--features-dir", tmp_path / "whole").path)


def test_a_batch_that_does_not_fit_halves_it_for_all(small, alone, monkeypatch, tmp_path):
    from extract.cluster.messages import Outcome
    from extract.cluster.worker import embed_shard

    def short_of_memory(task):
        if task.plan.batch_size > 8:
            return Outcome("w", "cpu", problem="too large", out_of_memory=True)
        return embed_shard(task)

    monkeypatch.setattr(cluster, "embed_shard", short_of_memory)
    refused = small("--cluster", "dask")
    assert refused.code == 2
    assert "batches of 16 do not fit" in refused.err
    monkeypatch.setattr("extract.engines.device.CPU_BATCH", 16)
    done = small("--cluster", "dask", "--batch-size", "auto")
    assert done.code == 0, done.err
    assert "starting over with batches of 8" in done.err
    whole = small("--batch-size", "8", "--features-dir", tmp_path / "whole")
    assert content(done.path) == content(whole.path)


def test_a_receipt_is_not_believed_unread(small, alone, monkeypatch, tmp_path):
    from extract.cluster.worker import embed_shard

    broken = []

    def careless(task):
        outcome = embed_shard(task)
        if task.start == 32 and len(broken) < 2:
            broken.append(task)
            damaged = bytearray(task.shards[0].path.read_bytes())
            damaged[len(damaged) // 2] ^= 1
            task.shards[0].path.write_bytes(damaged)
        return outcome

    monkeypatch.setattr(cluster, "embed_shard", careless)
    done = small("--cluster", "dask")
    assert done.code == 0, done.err
    assert len(broken) == 2
    assert content(done.path) == content(small("--features-dir", tmp_path / "whole").path)

    def liar(task):
        outcome = embed_shard(task)
        task.shards[0].path.unlink()
        return outcome

    monkeypatch.setattr(cluster, "embed_shard", liar)
    monkeypatch.setattr(cluster, "APPEAR_SECONDS", 0.0)
    refused = small("--cluster", "dask", "--features-dir", tmp_path / "lost")
    assert refused.code == 2
    assert "--features-dir must be a folder that this machine and every worker see" in refused.err


def test_no_cluster_without_its_library(small, monkeypatch):
    monkeypatch.setattr(clusters, "EXTRAS", {"ray": ("no_such_module", "Ray")})
    refused = small("--cluster", "ray")
    assert refused.code == 2
    assert "[ray]', or leave --cluster out" in refused.err


def test_somebody_else_at_the_address_is_one_message(small, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(clusters, "CONNECT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        refused = small("--cluster", "dask", "--scheduler", address)
    assert refused.code == 2
    assert "no cluster can be reached" in refused.err
    assert "Traceback" not in refused.err
