"""Models that bring their own configuration: ``hf-hub:OWNER/NAME`` and ``local-dir:FOLDER``.

These are timm's spellings, for what its ``push_to_hf_hub`` and ``save_for_hf`` write: a
``config.json`` beside the weights. What of it decides the numbers goes into a store's ``spec``, so
that the store can be verified and its heads can predict without the folder or the repository.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.common.cache_folder import expand_user
from data.common.errors import UserError
from data.common.shapes import any_may_miss, mismatch
from extract.model import bundled, names, pixels, weights
from extract.model.checkpoints import PREFERRED, find_weights_file

HUB = "hf-hub"
FOLDER = "local-dir"
CONFIG = "config.json"
# What a configuration says for people, or of where weights lie, decides no number.
_FOR_PEOPLE = frozenset(("label_names", "label_descriptions", "license", "description", "tag"))
_FOR_PEOPLE |= {"origin_url", "paper_name", "paper_ids", "notes", "architecture"}
_FOR_PEOPLE |= {
    "url",
    "file",
    "state_dict",
    "source",
    "custom_load",
    "hf_hub_id",
    "hf_hub_filename",
}
_NONE = type(None)
_SHAPE: dict[str, Any] = any_may_miss(
    {
        "architecture": str,
        "args": dict,
        "pretrained_cfg": {
            **dict.fromkeys(("input_size", "mean", "std"), list),
            **dict.fromkeys(("test_input_size", "min_input_size", "pool_size"), (list, _NONE)),
            **dict.fromkeys(("crop_pct", "test_crop_pct"), (int, float, _NONE)),
            **dict.fromkeys(("interpolation", "crop_mode"), str),
            **dict.fromkeys(("num_classes", "label_offset"), (int, _NONE)),
            "fixed_input_size": (bool, _NONE),
            **dict.fromkeys(("classifier", "first_conv"), (str, list, _NONE)),
        },
    }
)
_NUMBERS = ("input_size", "test_input_size", "mean", "std")


@dataclass(frozen=True)
class Named:
    """A model as it was named, and what timm builds for that name."""

    name: str  # for the ``spec``: no folder of this machine is in it
    architecture: str  # timm's name, with the tag where it has one
    # Arguments of timm's constructor that the model's own configuration asks for.
    args: Mapping[str, Any]
    pretrained_cfg: Mapping[str, Any]
    # For the ``spec``: what the model's ``config.json`` says; None for a name that timm knows.
    own: Mapping[str, Any] | None = None


def split_source(name: str) -> tuple[str | None, str]:
    """Split ``hf-hub:NAME`` or ``local-dir:FOLDER``; no source for timm's own names."""
    source, sign, rest = name.partition(":")
    source = source.lower().replace("_", "-")
    if not sign or source not in (HUB, FOLDER):
        return None, name
    if not rest:
        what = "OWNER/NAME" if source == HUB else "FOLDER"
        raise UserError(f"--model {name}: names nothing; give {source}:{what}")
    return source, rest


def portable_name(name: str) -> str:
    """Name a model as the ``spec`` and the ``request`` of a store do: without the way to a folder.

    What is in the folder is in the key by its digest and its configuration.
    """
    source, rest = split_source(name)
    if source == FOLDER:
        return f"{FOLDER}:{expand_user(rest).resolve().name}"
    return name if source is None else f"{source}:{rest}"


def files_of(model: str, choice: str) -> list[Path]:
    """List the files that ``--model`` and ``--weights`` name and that are there, without torch."""
    source, rest = split_source(model)
    found = []
    if source == FOLDER:
        folder = expand_user(rest)
        found.append(folder / CONFIG)
        if choice == "hub" and folder.is_dir():
            found.append(find_weights_file(folder, "--model"))
    if choice == bundled.CHOICE:
        found += filter(None, [bundled.find_file()])
    elif choice not in ("hub", "random"):
        found.append(find_weights_file(expand_user(choice)))
    return [path for path in found if path.is_file()]


def check_model(name: str, choice: str) -> None:
    """Make sure of a model's name before any work; of a folder or a package, of what is in it."""
    source, rest = split_source(name)
    if choice == bundled.CHOICE:
        bundled.check_model(name)
        bundled.find_checked()
    if name == pixels.PIXELS:
        return
    if source is None:
        names.check_model_name(name)
    elif source == FOLDER:
        _read_folder(name, expand_user(rest))


def find_model(name: str, own: Mapping[str, Any] | None, *, from_hub: bool) -> Named:
    """Find out what timm builds for a name.

    `own` is what a store's ``spec`` has kept of the model's ``config.json``, which is then not
    looked for; `from_hub` says that the name must have weights on the hub.
    """
    source, rest = split_source(name)
    if own is not None:
        return _checked(name, own, f"the spec of {name}")
    if name == pixels.PIXELS:
        return Named(name, name, {}, pixels.CONFIG)
    if source is None:
        names.check_model_name(name)
        full = names.hub_name(name) if from_hub else name
        return Named(full, full, {}, names.pretrained_config(full))
    if source == FOLDER:
        return _read_folder(name, expand_user(rest))
    path = weights.hub_file(name, rest, CONFIG)
    if path is None:
        raise UserError(
            f"--model {name}: the repository has no {CONFIG}; give one that timm can load"
        )
    return _read_folder(name, path.parent)


def find_weights(name: str, choice: str, config: Mapping[str, Any]) -> weights.Weights:
    """Find the weights that ``--weights`` names, of a model from `find_model`."""
    source, rest = split_source(name)
    if name == pixels.PIXELS:
        pixels.check_no_weights(choice)
        return weights.Weights(pixels.NO_WEIGHTS, None, None)
    if choice == bundled.CHOICE:
        bundled.check_model(name)
        found = bundled.find_checked()
        return weights.Weights(bundled.CHOICE, found.path, found.origin, bundled.LICENSE)
    if choice == "random":
        return weights.Weights("random", None, None)
    if choice == "hub" and source is None:
        return weights.hub_weights(name, config)
    if choice == "hub" and source == HUB:
        return _hub_weights(name, rest)
    folder = rest if choice == "hub" else choice
    path = find_weights_file(expand_user(folder))
    return weights.Weights("file", weights.check_weights_file(path).resolve(), None)


def _hub_weights(name: str, repository: str) -> weights.Weights:
    """Find or fetch the weights of a repository, as timm prefers them."""
    unreachable = None
    for filename in PREFERRED:
        try:
            path = weights.hub_file(name, repository, filename)
        except UserError as error:  # without a network, another form may be in the cache
            unreachable = unreachable or error
            continue
        if path is not None:
            origin = weights.with_commit(repository, path)
            return weights.Weights("hub", weights.check_weights_file(path), origin)
    raise unreachable or UserError(
        f"--model {name}: the repository has neither {PREFERRED[0]} nor {PREFERRED[1]}; give the "
        "weights with --weights FILE"
    )


def check_config(path: Path, model: str, holds: str, writer: str) -> None:
    """Refuse a folder without the configuration that a library writes."""
    if not path.is_file():
        what = "has none" if path.parent.is_dir() else "is no folder"
        raise UserError(
            f"--model {model}: expected a folder with {holds}, as {writer} writes it; "
            f"{path.parent} {what}"
        )


def json_config(path: Path, model: str, holds: str, writer: str) -> Any:
    """Read the configuration in a folder; a `UserError` says that it is not there, or no JSON."""
    check_config(path, model, holds, writer)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--model {model}: {path} is no JSON ({error}); write it again") from error


def _read_folder(name: str, folder: Path) -> Named:
    """Read the configuration in a folder as timm does."""
    from timm.models._hub import load_model_config_from_path

    path = folder / CONFIG
    check_config(path, name, f"{CONFIG} and weights", "timm's save_for_hf")
    try:
        config, architecture, args = load_model_config_from_path(folder)
        own = {"architecture": architecture, "args": dict(args), "pretrained_cfg": dict(config)}
        own = json.loads(json.dumps(own, allow_nan=False))  # lists for tuples, as in a spec
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UserError(
            f"--model {name}: {path} is not a configuration that timm has written "
            f"({type(error).__name__}: {error}); write it with timm's save_for_hf"
        ) from error
    return _checked(portable_name(name), own, str(path))


def _checked(name: str, own: Mapping[str, Any], where: str) -> Named:
    """Refuse a configuration that timm cannot carry out, or that names files of its own."""
    import timm
    from timm.models import PretrainedCfg

    problem = mismatch(own, _SHAPE, "config") or _odd_numbers(own.get("pretrained_cfg", {}))
    if problem or not own.keys() >= {"architecture", "args", "pretrained_cfg"}:
        raise UserError(
            f"{where}: {problem or 'no architecture, args or pretrained_cfg'}; take it unchanged"
        )
    architecture = str(own["architecture"])
    if not timm.is_model(architecture):
        raise UserError(f"{where}: timm has no architecture '{architecture}'; give another --model")
    config = {key: item for key, item in own["pretrained_cfg"].items() if key not in _FOR_PEOPLE}
    known = set(PretrainedCfg.__dataclass_fields__)
    unknown = sorted(config.keys() - known)
    if unknown:
        raise UserError(
            f"{where}: this timm does not know {', '.join(unknown)}; install the newer timm that "
            "has written it"
        )
    args = {key: item for key, item in own["args"].items() if key != "num_classes"}
    if config.get("fixed_input_size"):
        args.pop("img_size", None)  # is the configuration's input_size, which can be changed
    names.check_model_args({key: item for key, item in args.items() if key != "img_size"}, where)
    kept = {"architecture": architecture, "args": args, "pretrained_cfg": config}
    return Named(name, architecture, args, _with_tuples(config), kept)


def _odd_numbers(config: Mapping[str, Any]) -> str:
    """Name a list that is not of three positive numbers; a mean may be negative."""
    for name in _NUMBERS:
        values = config.get(name)
        low = -math.inf if name == "mean" else 0
        if values is not None and not (
            len(values) == 3
            and all(type(v) in (int, float) and low < v < math.inf for v in values)
            and (not name.endswith("size") or all(type(v) is int for v in values))
        ):
            return f"{name} is {values}, expected three numbers"
    return ""


def _with_tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in config.items()}
