"""Real little CIFAR archives, and a web server that misbehaves on request."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from data.images.sources import cifar


class TinyCifar:
    """One dataset of a few records, of the official form, with its archive and its folder."""

    def __init__(self, official, records=(7, 5), test_records=6):
        rng = np.random.default_rng(0)
        train = tuple(
            (name, count) for (name, _), count in zip(official.train, records, strict=False)
        )
        test = tuple((name, test_records) for name, _ in official.test)
        self.layout = dataclasses.replace(official, train=train, test=test)
        self.pixels, self.labels, self.members = {}, {}, {}
        for name, count in (*train, *test):
            self.pixels[name] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            columns = [rng.integers(0, top, count, dtype=np.uint8) for top in official.n_labels]
            self.labels[name] = columns[-1].astype(np.int64)
            planes = self.pixels[name].transpose(0, 3, 1, 2).reshape(count, -1)
            self.members[name] = np.column_stack([*columns, planes]).astype(np.uint8).tobytes()
        self.class_names = tuple(f"class {index}" for index in range(official.n_labels[-1]))
        self.members[self.layout.names] = ("\n".join(self.class_names) + "\n\n").encode()

    def pack(self, path, members=None, extra=(), **replaced):
        """Write an archive; `extra` are (TarInfo, bytes or None) put before the members."""
        members = {**self.members, **replaced} if members is None else members
        with tarfile.open(path, "w:gz") as archive:
            for info, content in extra:
                archive.addfile(info, None if content is None else io.BytesIO(content))
            for name, content in members.items():
                info = tarfile.TarInfo(f"{self.layout.folder}/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return self.digest(path)

    def unpack(self, folder):
        folder.mkdir(parents=True)
        for name, content in self.members.items():
            (folder / name).write_bytes(content)

    @staticmethod
    def digest(path):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    def make_official(self, monkeypatch, path):
        """Make this archive the published one, and its dataset the one of that name."""
        self.layout = dataclasses.replace(
            self.layout, sha256=self.digest(path), n_bytes=Path(path).stat().st_size
        )
        monkeypatch.setitem(cifar.ARCHIVES, self.layout.name, self.layout)


@pytest.fixture
def tiny(monkeypatch):
    """CIFAR-10 in 18 records: `load_dataset("cifar10")` expects these."""
    made = TinyCifar(cifar.ARCHIVES["cifar10"])
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", made.layout)
    return made


@pytest.fixture
def tiny100(monkeypatch):
    """CIFAR-100 in 11 records."""
    made = TinyCifar(cifar.ARCHIVES["cifar100"], records=(5,))
    monkeypatch.setitem(cifar.ARCHIVES, "cifar100", made.layout)
    return made


class Server:
    """Answers each request with the next of `script`, and with the last one from then on."""

    def __init__(self):
        self.script = []
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                step = outer.script[min(outer.requests, len(outer.script) - 1)]
                outer.requests += 1
                step(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/archive.tar.gz"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    @staticmethod
    def send(body, kind="application/x-gzip", length=None, status=200, **headers):
        def step(handler):
            handler.send_response(status)
            handler.send_header("Content-Type", kind)
            if length != -1:
                handler.send_header("Content-Length", str(length or len(body)))
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        return step

    @staticmethod
    def drop():
        def step(handler):
            handler.connection.close()

        return step


@pytest.fixture
def server(monkeypatch):
    """A server on 127.0.0.1, reached without a proxy; pauses between attempts are skipped."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    running = Server()
    yield running
    running.close()
