"""Whether the Hugging Face hub answers: one short request, as the hub's own client would send it.

``HF_HUB_OFFLINE``, ``HF_ENDPOINT`` and the proxies of the environment are respected.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from icebox.checks.finding import NOTE, OK, WARNING, Finding, plainly
from icebox.inventory.words import without_password

SECONDS = 2.0
DEFAULT = "https://huggingface.co"
WITHOUT = "--weights bundled, random and FILE need no network"


class HubRequest:
    """A request on its way, in a thread: resolving a name has no timeout of its own."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds, self._began = seconds, time.monotonic()
        self.endpoint = (os.environ.get("HF_ENDPOINT") or DEFAULT).rstrip("/")
        self._answer: dict[str, Any] = {}
        self._thread: threading.Thread | None = None
        if not is_offline() and self.endpoint.startswith(("http://", "https://")):
            self._thread = threading.Thread(target=self._ask, daemon=True)
            self._thread.start()

    def _ask(self) -> None:
        began = time.monotonic()
        try:
            # A name and password are not needed for a sign of life, and errors would repeat them.
            url = without_password(self.endpoint, mark="")
            request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - checked
            # Not `urlopen`, which remembers the proxies of its first call.
            urllib.request.build_opener().open(request, timeout=self._seconds).close()
            answer: dict[str, Any] = {"reachable": True}
        except urllib.error.HTTPError as error:
            # It answered, unless a proxy or a gateway says that it could not be asked.
            lost = error.code in (407, 502, 503, 504)
            answer = {"reachable": not lost, "reason": f"the answer is {error.code}"}
        except Exception as error:  # of a name that cannot be encoded, a broken proxy's address
            reason = getattr(error, "reason", error)
            timed_out = isinstance(reason, TimeoutError) or "timed out" in str(reason)
            text = self._slow() if timed_out else _in_words(reason)
            answer = {"reachable": False, "reason": text}
        self._answer = {**answer, "seconds": round(time.monotonic() - began, 3)}

    def _slow(self) -> str:
        return f"no answer within {self._seconds:g} seconds"

    def answer(self) -> dict[str, Any]:
        """Wait for the answer, at most as long as the request may take."""
        if self._thread is not None:
            left = self._began + self._seconds + 0.5 - time.monotonic()
            self._thread.join(max(0.0, left))
        return self._answer or {"reachable": False, "reason": self._slow()}


def _in_words(reason: object) -> str:
    text = str(getattr(reason, "strerror", None) or reason)
    return text if not isinstance(reason, BaseException) or text else plainly(reason)


def is_offline() -> bool:
    """Tell whether the hub's client was told not to use the network."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in names)


def check_hub(request: HubRequest | None) -> Iterator[Finding]:
    """Say whether weights can be fetched; None where the user wants no request."""
    if request is None:
        yield Finding("hub", NOTE, "not asked (--offline)", values={"asked": False})
        return
    shown = without_password(request.endpoint)
    values: dict[str, Any] = {"asked": False, "endpoint": shown}
    proxies = {
        name: without_password(url)
        for name, url in urllib.request.getproxies().items()
        if name in ("http", "https", "no", "all")
    }
    if proxies:
        values["proxies"] = proxies
    if is_offline():
        text = "offline, as HF_HUB_OFFLINE says: only what is in the cache is found"
        yield Finding("hub", NOTE, text, values=values)
        return
    if not request.endpoint.startswith(("http://", "https://")):
        yield Finding(
            "hub", WARNING, f"HF_ENDPOINT is {shown!r}, which is no web address",
            ("unset HF_ENDPOINT, or give an address such as https://huggingface.co",), values,
        )  # fmt: skip
        return
    answer = request.answer()
    values |= {"asked": True, **answer}
    proxy = proxies.get(request.endpoint.partition(":")[0])
    by = f" through the proxy {proxy}" if proxy and not _bypassed(request.endpoint) else ""
    if answer["reachable"]:
        yield Finding("hub", OK, f"{shown} answers{by} ({answer['seconds']:.1f} s)", values=values)
        return
    yield Finding(
        "hub", WARNING, f"{shown} cannot be reached{by}: {answer['reason']}", (WITHOUT,), values
    )


def _bypassed(endpoint: str) -> bool:
    from urllib.parse import urlsplit

    try:
        return bool(urllib.request.proxy_bypass(urlsplit(endpoint).hostname or ""))
    except (ValueError, OSError):
        return False
