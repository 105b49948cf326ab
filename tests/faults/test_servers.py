"""Servers that misbehave, for a whole command line: few attempts, one message, nothing kept."""

from __future__ import annotations

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command_lines import finish, start
from fault_world import TINY, digests

BODY = b"\x1f\x8b" + bytes(range(256)) * 400
SHA256 = hashlib.sha256(BODY).hexdigest()
HTML = b"<!DOCTYPE html><title>Sign in</title>"


def truncated(handler, _):
    reply(handler, BODY[:1000], length=len(BODY))


def corrupted(handler, _):
    reply(handler, BODY[:-1] + b"?")


def replaced(handler, _):
    reply(handler, b"\x1f\x8b another archive")


def dropping(handler, _):
    handler.connection.close()


def redirecting(handler, _):
    if handler.path == "/login":
        return reply(handler, HTML, kind="text/html")
    handler.send_response(302)
    handler.send_header("Location", "/login")
    handler.end_headers()
    return None


def slow(handler, _):
    """Send the wrong file, in ten pieces over a second."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    for start_at in range(0, len(BODY), len(BODY) // 10 + 1):
        handler.wfile.write(b"?" * len(BODY[start_at : start_at + len(BODY) // 10 + 1]))
        handler.wfile.flush()
        time.sleep(0.1)


def reply(handler, body, kind="application/gzip", length=None):
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(length or len(body)))
    handler.end_headers()
    handler.wfile.write(body)


# How it misbehaves, how often it is asked, and what the user is told.
CASES = {
    truncated: (4, ["connection was lost", "(4 attempts)", "try again later"]),
    corrupted: (2, [f"{len(BODY):,} bytes with SHA-256", SHA256, "--data-sha256"]),
    replaced: (2, ["18 bytes with SHA-256", SHA256, "nothing was kept"]),
    dropping: (4, ["connection was lost", "(4 attempts)", "try again later"]),
    redirecting: (2, ["gave an HTML page, not an archive", "the address of the file itself"]),
    slow: (2, ["wrong checksum", SHA256]),
}


@pytest.fixture
def serve():
    servers = []

    def serve(behave):
        times = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                times.append(time.monotonic())
                behave(self, len(times))

            def log_message(self, *args):
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(http)
        return f"http://127.0.0.1:{http.server_port}/archive.tar.gz", times

    yield serve
    for http in servers:
        http.shutdown()
        http.server_close()


def test_what_a_server_may_do(serve, tmp_path):
    """All at once, since most of the time is spent in pauses between attempts."""
    running = {}
    for behave in CASES:
        url, times = serve(behave)
        root = tmp_path / behave.__name__
        words = ["--dataset=cifar10", *TINY, f"--data-url={url}", f"--data-sha256={SHA256}"]
        words += [f"--data-dir={root}/raw", f"--features-dir={root}/features"]
        running[behave] = (start("halt", [], "extract", *words), times, root)
    for behave, (process, times, root) in running.items():
        asked, told = CASES[behave]
        _, err = finish(process, 2)
        assert "Traceback" not in err
        message = err[err.index("error: ") :]
        assert len(message.strip().splitlines()) <= 3
        for piece in told:
            assert piece in message, (behave.__name__, message)
        assert len(times) == asked, behave.__name__
        if asked == 4:  # the pauses grow
            one, two, three = (times[i + 1] - times[i] for i in range(3))
            assert three > two + 0.5 > one + 0.5
        assert digests(root) == {}
