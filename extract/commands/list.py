"""``python -m extract list``: the backbones that timm knows, with width and input size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from data.common.cache_folder import cache_folder
from data.common.cli import log
from data.common.errors import UserError, nearest
from data.common.files import write_json
from extract.model import names
from extract.model.backbone import BackboneRequest, embed_normalised, load_backbone
from extract.model.outline import without_weights
from extract.model.preprocessing import size_text
from extract.model.providers.interface import Provider, Row
from extract.model.providers.registry import provider_of

ROW = "{:<48} {:>6} {:>9}  {}"


def list_backbones(pattern: str) -> None:
    """Print one aligned row for each model, as soon as it is known.

    Widths are measured by building each model without memory for its weights, and kept in the
    user's cache folder, so that only the first listing of a model takes its time.

    Parameters
    ----------
    pattern : str
        With wildcards; without any, a part of the name is enough. With the prefix ``open_clip:`` or
        ``transformers:`` networks of these; the name of a factory describes its one network.

    Raises
    ------
    UserError
        If no model matches, with the nearest names.
    """
    provider = provider_of(pattern)
    if provider is not None:
        _list_provided(provider, pattern)
        return

    import timm

    found = timm.list_models(pattern) or timm.list_models(f"*{pattern}*")
    if not found:
        near = nearest(pattern.strip("*"), timm.list_models())
        raise UserError(
            f"no model of timm matches '{pattern}'; {near or 'try a shorter part of the name'}"
        )
    with_weights = {name.partition(".")[0] for name in timm.list_models(pretrained=True)}
    cache = _Cache()
    print(ROW.format("model", "width", "input", "weights"), flush=True)
    try:
        for name, facts in _measured(found, cache):
            weights = "hub" if name in with_weights else "none: --weights FILE or random"
            print(ROW.format(name, facts["width"] or "-", facts["input"], weights), flush=True)
    finally:
        cache.save()
    log(f"{len(found)} models; the input size can be changed with --image-size")


def _list_provided(provider: Provider, pattern: str) -> None:
    """Print the networks of a provider; of a name that is one network, what building it tells."""
    rows = provider.listed(pattern)
    if rows is None:
        # Of transformers' the weights may be large, and decide nothing here.
        choice = "random" if provider.name == "transformers" else "hub"
        backbone = load_backbone(BackboneRequest(pattern, choice, trusted=True))
        size = size_text(backbone.preprocessing.size)
        where = "the folder's" if provider.in_folder(pattern) else "hub"
        source = "the factory's" if provider.name == "factory" else where
        rows = [Row(backbone.name, backbone.width, size, source)]
    print(ROW.format("model", "width", "input", "weights"), flush=True)
    for row in rows:
        print(ROW.format(row.model, row.width or "-", row.input, row.weights), flush=True)
    log(f"{len(rows)} of {provider.name}; the input size can be changed with --image-size")


def _measured(found: list[str], cache: _Cache) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in found:
        if name not in cache.known:
            cache.known[name] = measure(name)
            cache.changed = True
        yield name, cache.known[name]


def measure(name: str) -> dict[str, Any]:
    """Measure a model's embedding width and input size, without its weights."""
    import timm
    import torch

    size = names.pretrained_config(name).get("input_size", (3, 224, 224))
    try:
        with without_weights():
            module = timm.create_model(name, num_classes=0).eval()
        with torch.device("meta"), torch.inference_mode():
            output = embed_normalised(module, torch.empty(1, *size))
    except NotImplementedError:  # encoders of language models; timm says so in these words
        return {"width": None, "input": size_text(size[-2:])}
    width = output.shape[-1] if output.ndim == 2 else None
    return {"width": width, "input": size_text(size[-2:])}


class _Cache:
    """What is known of models of the installed timm, in a JSON file of the user's cache."""

    def __init__(self) -> None:
        self.path = cache_folder() / "icebox" / f"backbones-2-timm-{version('timm')}.json"
        self.changed = False
        try:
            self.known: dict[str, dict[str, Any]] = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def save(self) -> None:
        """Write it back if it has grown; a cache that cannot be kept is no error."""
        if not self.changed:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self.known)
        except OSError as error:
            log(f"the widths are not kept: {error}")
