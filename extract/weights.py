"""Where a backbone's weights come from, what identifies them, and whether they fit.

Only safetensors files are read: nothing is ever unpickled from a file that the user names.
"""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

HUB_TIMEOUT_SECONDS = 5.0
KEYS_SHOWN = 5
HEADER_LIMIT = 100_000_000  # bytes; the format's own limit


@dataclass(frozen=True)
class Weights:
    """Which weights to load.

    Attributes
    ----------
    source : {'hub', 'file', 'random'}
        Where they come from.
    path : Path or None
        The safetensors file; None for random ones, and for the few models whose weights timm
        has in another form only.
    origin : str or None
        For a person: the hub's id or the URL.
    """

    source: str
    path: Path | None
    origin: str | None


def check_weights_file(path: Path) -> Path:
    """Make sure that a file named with ``--weights`` is a readable safetensors file.

    Parameters
    ----------
    path : Path
        As the user gave it.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    UserError
        If it is missing, a pickle, or damaged.
    """
    if path.suffix.lower() in {".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar"}:
        raise UserError(
            f"--weights {path}: files of this kind are pickles, which can run code when opened; "
            "only safetensors are read. Convert it once, if you trust it:\n"
            "  python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('IN.pth', "
            "map_location='cpu', weights_only=True), 'OUT.safetensors')\""
        )
    if not path.is_file():
        raise UserError(
            f"--weights {path}: no such file; give hub, random, or the path of a .safetensors file"
        )
    read_tensor_index(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            return path
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"--weights {path}: not a safetensors file ({error}); get it again"
        ) from error


def read_tensor_index(path: Path) -> dict[str, Any]:
    """Read a safetensors file's header: what tensors it holds.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict
        ``name -> {"dtype", "shape", "data_offsets"}``.

    Raises
    ------
    UserError
        If it is no safetensors file, or is cut short.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_LIMIT):
            raise UserError(
                f"--weights {path}: not a safetensors file, or cut short ({size:,} bytes); "
                "get it again"
            )
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            if not header:
                raise UserError(
                    f"--weights {path}: a safetensors file that holds no tensors; give the "
                    "backbone's own"
                )
            end = 8 + length + _content_bytes(header)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"--weights {path}: not a safetensors file (its header cannot be read: {error}); "
                "get it again"
            ) from error
    if end != size:
        raise UserError(
            f"--weights {path}: {size:,} bytes found, {end:,} expected: it is damaged; get it again"
        )
    return dict(header)


def _content_bytes(header: Mapping[str, Any]) -> int:
    """Add up the bytes of the tensors, which must follow one another without gaps.

    Raises
    ------
    ValueError, KeyError, TypeError
        If the header is not as it must be.
    """
    end = 0
    extents = []
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        kind, shape = entry["dtype"], entry["shape"]
        whole = [type(n) is int and n >= 0 for n in (start, stop, *shape)]
        if not isinstance(kind, str) or not isinstance(shape, list) or not all(whole):
            raise ValueError(f"the entry of {name!r} is odd")
        extents.append((start, stop, name))
    for start, stop, name in sorted(extents):
        if start != end or stop < start:
            raise ValueError(f"the bytes of {name!r} are not where the others end")
        end = stop
    return end


def digest_tensors(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> str:
    """Digest named tensors, independently of the file that they came in.

    Parameters
    ----------
    tensors : iterable of (name, dtype, shape, little-endian C-order bytes)
        In any order.

    Returns
    -------
    str
        SHA-256, hex, over the entries sorted by name, each with its dtype, shape and the
        SHA-256 of its bytes.
    """
    digest = hashlib.sha256()
    entries = sorted(
        (name, dtype, list(shape), hashlib.sha256(content).hexdigest())
        for name, dtype, shape, content in tensors
    )
    for entry in entries:
        digest.update(json.dumps(entry, separators=(",", ":")).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def file_digest(path: Path, head: Iterable[str]) -> str:
    """Digest the tensors of a weights file, tensor by tensor, without its classifier head.

    The file's own tensors are digested rather than those of the built model: a position
    embedding that timm resampled to the image size differs in its last bits from one kind of
    CPU to the next, and the image size is in the store's key anyway.

    Parameters
    ----------
    path : Path
        A checked safetensors file.
    head : iterable of str
        Names of the classifier modules, left out because embeddings do not depend on them.

    Returns
    -------
    str
        As `digest_tensors`.
    """
    index = read_tensor_index(path)
    prefixes = tuple(f"{name}." for name in head)

    def entries() -> Iterator[tuple[str, str, tuple[int, ...], bytes]]:
        with open(path, "rb") as stream:
            base = 8 + int.from_bytes(stream.read(8), "little")
            for name, entry in index.items():
                if name.startswith(prefixes):
                    continue
                start, stop = entry["data_offsets"]
                stream.seek(base + start)
                yield name, entry["dtype"], tuple(entry["shape"]), stream.read(stop - start)

    return digest_tensors(entries())


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Digest a model's state dict (random weights, and the few that timm has no file for).

    Parameters
    ----------
    state : mapping of str to torch.Tensor
        On the CPU.

    Returns
    -------
    str
        As `digest_tensors`.
    """
    import torch

    def content(tensor: torch.Tensor) -> bytes:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""

    return digest_tensors(
        (name, str(tensor.dtype), tuple(tensor.shape), content(tensor))
        for name, tensor in state.items()
    )


def hub_weights(name: str, config: Mapping[str, Any]) -> Weights:
    """Find a model's pretrained weights in the local cache, or fetch them.

    Parameters
    ----------
    name : str
        ``architecture.tag``.
    config : mapping
        timm's configuration of it.

    Returns
    -------
    Weights
        With the path of the cached file where timm has it as safetensors.

    Raises
    ------
    UserError
        If it is not in the cache and the hub cannot be reached (found out within seconds).
    """
    import huggingface_hub
    from huggingface_hub.utils import EntryNotFoundError

    repository = config.get("hf_hub_id")
    if not repository:
        url = str(config.get("url"))
        if not _is_cached_url(url):
            _check_reachable(name, url)
        return Weights("hub", None, url)
    repository, _, revision = str(repository).partition("@")
    filename = config.get("hf_hub_filename") or "model.safetensors"
    if not filename.endswith(".safetensors"):
        filename = str(Path(filename).with_suffix(".safetensors"))
    cached = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision or None)
    if isinstance(cached, str):
        return Weights("hub", Path(cached), _with_commit(repository, cached))
    _check_reachable(name, os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        path = huggingface_hub.hf_hub_download(repository, filename, revision=revision or None)
    except EntryNotFoundError:
        return Weights("hub", None, repository)  # timm has it in an older form and reads that
    except Exception as error:  # the hub's client raises those of several HTTP libraries
        raise _hub_error(name, error) from error
    return Weights("hub", Path(path), _with_commit(repository, path))


def _with_commit(repository: str, path: str) -> str:
    """Name the commit that a file of the hub's cache belongs to: ``snapshots/COMMIT/NAME``."""
    parts = Path(path).parts
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
        "--weights random tries the pipeline without any."
    )


@contextmanager
def recorded_loading() -> Iterator[list[Any]]:
    """Record what timm's loader finds missing or unexpected while it fills a model.

    timm loads non-strictly, and says nothing, whenever the number of classes is not the
    configuration's, which is always so for a backbone without a head. Every timm version ends
    in ``Module.load_state_dict``, so its result is noted there.

    Yields
    ------
    list
        One result with ``missing_keys`` and ``unexpected_keys`` for each load.
    """
    from torch import nn

    results: list[Any] = []
    original = nn.Module.load_state_dict

    def load(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        kwargs["strict"] = False
        result = original(self, state_dict, *args[1:], **kwargs)
        results.append(result)
        return result

    nn.Module.load_state_dict = load  # type: ignore[method-assign]
    try:
        yield results
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


def check_fit(name: str, path: object, results: Iterable[Any], head: Iterable[str]) -> None:
    """Make sure that a weights file filled the whole backbone and held nothing else.

    Parameters
    ----------
    name : str
        The model.
    path : object
        The weights, for the message.
    results : iterable
        From `recorded_loading`.
    head : iterable of str
        Names of the classifier modules, whose keys may be there or not.

    Raises
    ------
    UserError
        Naming the first keys that are missing or unexpected, and how many there are.
    """
    prefixes = tuple(f"{module}." for module in head)
    problems = []
    for result in results:
        for kind, keys in (
            ("missing from the file", result.missing_keys),
            ("not in the model", result.unexpected_keys),
        ):
            wrong = [key for key in keys if not key.startswith(prefixes)]
            if wrong:
                problems.append(f"{len(wrong)} {kind}: {_some(wrong)}")
    if problems:
        raise UserError(
            f"{path} does not fit {name}: {'; '.join(problems)}\n"
            "Give the --model (and --model-arg) that these weights were made with."
        )


def misfit(name: str, path: object, error: RuntimeError) -> UserError:
    """Shorten torch's report of tensors of the wrong shape to the first ones and their number."""
    lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
    if not lines:
        return UserError(f"{path} does not fit {name}: {str(error).splitlines()[0]}")
    shown = "\n".join(f"  {line.removeprefix('size mismatch for ')}" for line in lines[:2])
    return UserError(
        f"{path} does not fit {name}: {len(lines)} tensors differ in shape\n{shown}\n"
        "Give the --model (and --model-arg) that these weights were made with"
    )


def _some(keys: list[str]) -> str:
    more = f", ... ({len(keys) - KEYS_SHOWN} more)" if len(keys) > KEYS_SHOWN else ""
    return ", ".join(keys[:KEYS_SHOWN]) + more
