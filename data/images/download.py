"""One archive from the network to its final name: whole and verified, or not there at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.common.cli import log, progress
from data.common.errors import UserError
from data.common.files import (
    check_writable,
    lock,
    sha256_file,
    sync_file,
    sync_folder,
    temporary_folder,
)
from data.common.raw_io import disk_trouble
from data.images.decode import looks_like_html

if TYPE_CHECKING:
    from tqdm import tqdm

RETRIES = 3
TIMEOUT = 30.0  # seconds without a byte, or for the connection
_PASSING = (408, 425, 429)  # client errors that another try may cure


def download(url: str, final: Path, *, sha256: str, n_bytes: int | None = None) -> None:
    """Fetch a file with pooch, verify it, and only then give it its name.

    Errors that may pass (a lost connection, a timeout, a server error, a body that breaks off)
    are tried again `RETRIES` times with growing pauses. A second process that wants the same
    file waits for the first one's and uses it. What a killed download leaves lies in a hidden
    folder beside the file, and the next download removes it.
    """
    import pooch
    import requests

    if not url.lower().startswith(("http://", "https://")):
        raise UserError(
            f"--data-url {url} is not an http:// or https:// address; "
            f"a file that you have already goes to {final}"
        )
    check_writable(final.parent)
    pooch.get_logger().setLevel("WARNING")  # its notes would come between the lines below

    with (
        lock(final.with_name(f".{final.name}.lock"), on_wait=lambda: _say_waiting(final)),
        temporary_folder(final.parent) as part,
    ):
        if final.is_file():  # the process that held the lock has fetched it
            return
        store = pooch.create(
            path=part,
            base_url="",
            registry={final.name: f"sha256:{sha256}"},
            urls={final.name: url},
            retry_if_failed=RETRIES,
        )
        fetcher = _Fetcher(final, sha256, n_bytes)
        try:
            fetched = store.fetch(final.name, downloader=fetcher)
            # Pooch's temporary files are their owner's alone; the folder has the usual rights.
            os.chmod(fetched, part.stat().st_mode & 0o666)
            sync_file(fetched)
            os.replace(fetched, final)
            sync_folder(final.parent)
        except (requests.RequestException, _Wrong) as error:
            raise UserError(
                f"cannot download {url}: {_plainly(error)} ({1 + RETRIES} attempts)\n"
                f"try again later, or fetch the file elsewhere and put it at {final}"
            ) from error
        except OSError as error:
            raise UserError(disk_trouble(final, error, fetcher.size or n_bytes)) from error


class _Wrong(ValueError):
    """The body is not the file. A ValueError, because pooch tries again after those."""


class _Fetcher:
    """Pooch's HTTP downloader, with a look at what came before pooch compares the digest."""

    def __init__(self, final: Path, sha256: str, n_bytes: int | None) -> None:
        self.final = final
        self.sha256 = sha256
        self.n_bytes = n_bytes
        self.size: int | None = None  # of the body, as the server announces it
        self.attempts = 0
        self.wrong: str | None = None  # the digest of a wrong body, to know it when it comes again

    def __call__(self, url: str, output_file: str, _store: Any, check_only: bool = False) -> None:
        import pooch
        import requests

        self.attempts += 1
        if self.attempts > 1:
            log(f"the download failed; attempt {self.attempts} of {1 + RETRIES}")
        bar = _Bar(f"downloading {self.final.name}")
        http = pooch.HTTPDownloader(
            progressbar=bar,
            chunk_size=1 << 18,
            timeout=TIMEOUT,
            # Some servers label a .tar.gz as compressed for transport; requests would unpack it.
            headers={"Accept-Encoding": "identity"},
        )
        try:
            http(url, output_file, None)
        except requests.HTTPError as error:
            assert error.response is not None  # requests attaches it to a bad status
            status = error.response.status_code
            if 400 <= status < 500 and status not in _PASSING:
                raise UserError(
                    f"cannot download {url}: the server says {status} {error.response.reason}\n"
                    f"check the address, give a mirror with --data-url and --data-sha256, "
                    f"or put the file at {self.final}"
                ) from error
            raise
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UserError(f"--data-url {url} is not a usable address: {error}") from error
        finally:
            self.size = bar.total or self.size
            bar.close()
        self._check(url, Path(output_file))

    def _check(self, url: str, body: Path) -> None:
        """Raise `UserError` if another attempt would bring the same, `_Wrong` if it may not."""
        with body.open("rb") as stream:
            head = stream.read(512)
        if looks_like_html(head):
            raise UserError(
                f"{url} gave an HTML page, not an archive (a login, error or preview page?)\n"
                f"give the address of the file itself, or put the file at {self.final}"
            )
        found = sha256_file(body)
        if found == self.sha256:
            return
        size = body.stat().st_size
        expected = f"{self.n_bytes:,} bytes and " if self.n_bytes is not None else ""
        problem = (
            f"wrong checksum: {size:,} bytes with SHA-256 {found} came, "
            f"{expected}SHA-256 {self.sha256} was expected"
        )
        if found == self.wrong:
            raise UserError(
                f"{url}: {problem}\nif this is a mirror's own archive that you trust, give its "
                "checksum with --data-url and --data-sha256; nothing was kept"
            )
        self.wrong = found
        raise _Wrong(problem)


class _Bar:
    """What pooch needs of a progress bar, shown once there is something to show."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.total = 0
        self.shown: tqdm[Any] | None = None

    def update(self, count: int) -> None:
        if self.shown is None:
            self.shown = progress(self.total, self.text, "B")
            self.shown.unit_scale = True
        # Pooch counts whole chunks, the last one too.
        self.shown.update(min(count, max(self.total - self.shown.n, 0)) if self.total else count)

    def reset(self) -> None:
        """Do nothing: pooch calls it to count everything again at the end."""

    def close(self) -> None:
        if self.shown is not None:
            self.shown.close()
            self.shown = None


def _say_waiting(final: Path) -> None:
    log(f"another process is downloading {final.name}; waiting for it")


def _plainly(error: BaseException) -> str:
    """Say in a few words what requests wraps in many."""
    import requests

    text = str(error)
    if isinstance(error, requests.Timeout) or "timed out" in text:
        return f"the server did not answer within {TIMEOUT:g} seconds"
    if isinstance(error, requests.exceptions.SSLError):
        return f"no secure connection: {text[:200]}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "aborted" in text:
        return "the connection was lost on the way"
    if isinstance(error, requests.exceptions.ConnectionError):
        if "resol" in text or "Name or service" in text:
            return "the server's name cannot be resolved; is there a network?"
        if "refused" in text:
            return "the connection was refused"
        return f"no connection: {text[:200]}"
    return text[:300]
