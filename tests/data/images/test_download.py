"""A download ends with the verified file under its name, or with a message and nothing there."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pooch
import pytest

from data.common.errors import UserError
from data.common.files import temporary_path
from data.dataset import load_dataset
from data.images import download as module
from data.images.download import RETRIES, download

HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.fixture
def body(tiny, tmp_path):
    path = tmp_path / "published.tar.gz"
    tiny.pack(path)
    return path.read_bytes()


@pytest.fixture
def fetch(tiny, tmp_path, server):
    """Load the dataset from the server, with the published archive's checksum."""
    data_dir = tmp_path / "raw"

    def load():
        return load_dataset(
            "cifar10",
            data_dir=data_dir,
            data_url=server.url,
            data_sha256=tiny.digest(tmp_path / "published.tar.gz"),
        )

    load.data_dir = data_dir
    return load


def left_in(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_download_is_verified_and_used_again_without_a_network(tiny, body, fetch, server):
    server.script = [server.send(body)]
    umask = os.umask(0o027)
    try:
        first = fetch()
    finally:
        os.umask(umask)
    assert (fetch.data_dir / tiny.layout.archive).stat().st_mode & 0o777 == 0o640
    assert left_in(fetch.data_dir) == [tiny.layout.archive]
    assert (fetch.data_dir / tiny.layout.archive).read_bytes() == body
    assert first.origin["url"] == server.url
    second = fetch()
    assert server.requests == 1
    assert second.digest == first.digest


def test_official_address_is_the_default(tiny, body, tmp_path, server, monkeypatch):
    tiny.make_official(monkeypatch, tmp_path / "published.tar.gz")
    wanted = []
    monkeypatch.setattr(
        "data.images.sources.cifar.download", lambda *args, **kwargs: wanted.append((args, kwargs))
    )
    with pytest.raises(FileNotFoundError):  # since nothing was fetched
        load_dataset("cifar10", data_dir=tmp_path / "raw")
    (url, final), known = wanted[0]
    assert url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert final == tmp_path / "raw" / "cifar-10-binary.tar.gz"
    assert known == {"sha256": tiny.layout.sha256, "n_bytes": tiny.layout.n_bytes}


@pytest.mark.parametrize("failure", ["drop", "truncated", "error 503", "busy 429", "short"])
def test_passing_failures_are_tried_again(tiny, body, fetch, server, failure):
    server.script = {
        "drop": [server.drop(), server.drop(), server.send(body)],
        "truncated": [server.send(body[: len(body) // 2], length=len(body)), server.send(body)],
        "error 503": [server.send(b"later", status=503), server.send(body)],
        "busy 429": [server.send(b"later", status=429), server.send(body)],
        # Without a length, a body that breaks off looks like a complete one.
        "short": [server.send(body[:-7], length=-1), server.send(body)],
    }[failure]
    assert fetch().origin["verified"] is True
    assert server.requests == len(server.script)
    assert left_in(fetch.data_dir) == [tiny.layout.archive]


def refused(fetch, match):
    with pytest.raises(UserError, match=match) as caught:
        fetch()
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    assert left_in(fetch.data_dir) == []
    return message


def test_retries_are_bounded_and_the_last_word_says_what_to_do(tiny, body, fetch, server, capsys):
    server.script = [server.send(body[:100], length=len(body))]
    message = refused(fetch, "connection was lost")
    assert server.requests == 1 + RETRIES
    assert str(fetch.data_dir / tiny.layout.archive) in message  # where to put the file by hand
    shown = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if "attempt" in line]
    assert len(shown) == RETRIES
    assert not pooch.get_logger().isEnabledFor(logging.INFO)  # it would say the same again


def test_not_found_is_not_tried_again(tiny, body, fetch, server):
    server.script = [server.send(b"no", status=404)]
    message = refused(fetch, "the server says 404 Not Found")
    assert server.url in message
    assert server.requests == 1


def test_html_page_instead_of_the_file(body, fetch, server):
    server.script = [server.send(HTML, kind="text/html")]
    refused(fetch, "HTML page, not an archive")
    assert server.requests == 1


def test_wrong_bytes_are_refused_when_they_come_twice(tiny, body, fetch, server):
    wrong = body[:-9] + bytes([body[-9] ^ 1]) + body[-8:]
    server.script = [server.send(wrong)]
    message = refused(fetch, "wrong checksum")
    assert server.requests == 2
    assert f"{len(wrong):,} bytes" in message
    assert "--data-sha256" in message


def test_bodies_that_differ_each_time_end_too(body, fetch, server):
    server.script = [server.send(body[:-n], length=-1) for n in range(1, 2 + RETRIES)]
    refused(fetch, "wrong checksum")
    assert server.requests == 1 + RETRIES


def test_connection_refused(tiny, body, fetch, server):
    server.script = [server.send(body)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
        refused(fetch, "the connection was refused")


def test_server_that_falls_silent(body, fetch, server, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    monkeypatch.setattr(module, "RETRIES", 1)
    over = threading.Event()
    server.script = [lambda handler: over.wait(20)]
    try:
        refused(fetch, "did not answer within 0.1 seconds")
    finally:
        over.set()


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "doi:10.1/x", "/data/x"])
def test_only_http(body, fetch, server, url):
    server.url = url
    refused(fetch, "not an http")


def test_transport_compression_does_not_change_the_file(tiny, body, fetch, server):
    """A server that labels every .gz file as compressed for transport, unless told not to."""
    asked = []

    def step(handler):
        asked.append(handler.headers["Accept-Encoding"])
        headers = {"Content_Encoding": "gzip"} if "gzip" in asked[-1] else {}
        server.send(body, **headers)(handler)

    server.script = [step]
    fetch()
    assert (fetch.data_dir / tiny.layout.archive).read_bytes() == body
    assert asked == ["identity"]


def test_leftovers_of_a_killed_download_are_removed_and_other_files_stay(tiny, body, fetch, server):
    left = temporary_path(fetch.data_dir / "folder")
    part = left.with_name(left.name.replace(str(os.getpid()), str(2**22 + 1)))  # of no process
    part.mkdir(parents=True)
    (part / "tmp123").write_bytes(body[:50])
    (fetch.data_dir / "cifar-100-binary.tar.gz").write_bytes(b"somebody's")
    server.script = [server.send(body)]
    fetch()
    assert left_in(fetch.data_dir) == [tiny.layout.archive, "cifar-100-binary.tar.gz"]


def test_where_locks_do_not_lock_both_downloads_end_well(tiny, body, server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "lock", lambda path, on_wait: contextlib.nullcontext(True))
    together = threading.Barrier(2, timeout=10)

    def both(handler):
        together.wait()
        server.send(body)(handler)

    server.script = [both]
    final = tmp_path / "raw" / tiny.layout.archive
    sha256 = tiny.digest(tmp_path / "published.tar.gz")
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(download, server.url, final, sha256=sha256) for _ in range(2)]:
            done.result()
    assert server.requests == 2
    assert final.read_bytes() == body
    assert left_in(final.parent) == [final.name]


def test_interrupted_download_leaves_nothing(tiny, body, fetch, server, monkeypatch):
    def interrupt(path, on_bytes=None):
        raise KeyboardInterrupt

    server.script = [server.send(body)]
    monkeypatch.setattr(module, "sha256_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert left_in(fetch.data_dir) == []


def test_two_at_once_download_once(tiny, body, server, tmp_path):
    release = threading.Event()

    def slow(handler):
        release.wait(5)
        server.send(body)(handler)

    server.script = [slow]
    final = tmp_path / "raw" / "archive.tar.gz"
    sha256 = tiny.digest(tmp_path / "published.tar.gz")
    workers = [
        threading.Thread(target=download, args=(server.url, final), kwargs={"sha256": sha256})
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    time.sleep(0.3)
    release.set()
    for worker in workers:
        worker.join(10)
    assert final.read_bytes() == body
    assert server.requests == 1


def test_data_dir_that_cannot_be_made(tiny, body, server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="not a folder"):
        download(server.url, tmp_path / "file" / "raw" / "x.tar.gz", sha256="0" * 64)
    assert server.requests == 0
