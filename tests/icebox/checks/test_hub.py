"""The hub: a server on 127.0.0.1 that answers, refuses, is slow, or is a proxy."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from icebox.checks.finding import NOTE, OK, WARNING
from icebox.checks.hub import HubRequest, check_hub

VARIABLES = (
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "http_proxy", "https_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY",
)  # fmt: skip


@pytest.fixture
def server(monkeypatch):
    """Answers as its `status` says; keeps the paths that it was asked for."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            made.seen.append(self.path)
            time.sleep(made.wait)
            self.send_response(made.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.status, made.wait, made.seen = 200, 0.0, []
    made.address = f"http://127.0.0.1:{made.server_port}"
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", made.address + "/")
    yield made
    made.shutdown()
    made.server_close()


def found(seconds=2.0):
    [one] = check_hub(HubRequest(seconds))
    return one


@pytest.mark.parametrize("status", [200, 401, 404, 405])
def test_a_server_that_answers_is_reachable(server, status):
    server.status = status
    one = found()
    assert one.level == OK and one.text.startswith(f"{server.address} answers (0.")
    assert one.values["reachable"] and server.seen == ["/"]


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_that_cannot_ask_is_none(server, status):
    server.status = status
    one = found()
    assert one.level == WARNING and f"the answer is {status}" in one.text
    assert "--weights bundled" in one.advice[0]


def test_nobody_waits_longer_than_the_time(server):
    server.wait = 1.0
    began = time.monotonic()
    one = found(0.2)
    assert time.monotonic() - began < 0.9
    assert one.level == WARNING and one.text.endswith("no answer within 0.2 seconds")


def test_a_name_that_is_not_resolved_in_time(server, monkeypatch):
    def slow(*_, **__):
        time.sleep(1.5)
        raise OSError("late")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    began = time.monotonic()
    assert found(0.1).level == WARNING
    assert time.monotonic() - began < 1.2


def test_a_closed_port(server, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    one = found()
    assert one.level == WARNING and one.text.endswith("cannot be reached: Connection refused")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_who_is_offline_is_not_asked(server, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    one = found()
    assert one.level == NOTE and not server.seen and one.values["asked"] is False


def test_the_option_asks_nothing():
    [one] = check_hub(None)
    assert one.level == NOTE and "--offline" in one.text


@pytest.mark.parametrize("endpoint", ["ftp://x", "huggingface.co", "http://[::1"])
def test_an_endpoint_that_is_no_address(server, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert found().level == WARNING


def test_a_proxy_is_used_and_named_without_its_password(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", server.address.replace("//", "//me:secret@"))
    one = found()
    assert one.level == OK and server.seen[0].startswith("http://hub.invalid")
    assert "through the proxy http://***@127.0.0.1" in one.text
    assert "secret" not in str(one.to_json())
    server.status = 407
    assert found().level == WARNING


def test_the_endpoint_is_shown_without_its_password(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.address.replace("//", "//me:secret@"))
    one = found()
    assert one.level == OK and "secret" not in str(one.to_json())
