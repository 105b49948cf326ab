"""The files of a network of transformers: in a folder, or on the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.common.cache_folder import expand_user
from data.common.errors import UserError
from extract.model import weights
from extract.model.checkpoints import SUFFIXES, find_weights_file
from extract.model.providers.interface import Asked
from extract.model.providers.towers import one_line
from extract.model.sources import json_config

PREFIX = "transformers"
CONFIG = "config.json"
# Either may hold the settings of the image processor.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# In the order in which transformers looks for them.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What a configuration says for people, or of how it was saved, decides no number in float32.
_FOR_PEOPLE = frozenset(
    ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
)
_FOR_PEOPLE |= {"id2label", "label2id", "finetuning_task", "problem_type", "_commit_hash"}
_FOR_PEOPLE |= {"auto_map"}  # code of a repository, which does not run


def folder_of(model: str) -> Path | None:
    """Give the folder that a name means; None for a name of the hub."""
    text = model.partition(":")[2]
    if not text:
        return None
    path = expand_user(text)
    return path if path.is_dir() or text.startswith(("/", ".", "~")) or path.is_absolute() else None


def fetched(model: str) -> Path:
    """Fetch the configurations of a repository into the hub's cache; give their folder."""
    repository = model.partition(":")[2]
    path = weights.hub_file(model, repository, CONFIG)
    if path is None:
        raise UserError(
            f"--model {model}: the repository has no {CONFIG}; give one that transformers can load"
        )
    for name in PROCESSORS:
        weights.hub_file(model, repository, name)
    return path.parent


def raw_config(folder: Path, model: str) -> dict[str, Any]:
    """Read the configuration of a network, as ``save_pretrained`` writes it."""
    path = folder / CONFIG
    raw = json_config(path, model, f"{CONFIG}, {PROCESSORS[0]} and weights", "save_pretrained")
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise UserError(
            f"--model {model}: {path} has no model_type; give what transformers' save_pretrained "
            "writes (a folder of timm's is local-dir:FOLDER, one of open_clip's is "
            "open_clip:local-dir:FOLDER)"
        )
    return raw


def cleaned(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what decides no number, at every level."""
    kept = {key: item for key, item in raw.items() if key not in _FOR_PEOPLE}
    return {key: cleaned(item) if isinstance(item, dict) else item for key, item in kept.items()}


def weights_in(folder: Path, model: str) -> Path:
    """Find the weights in a folder as transformers does."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    raise UserError(
        f"--model {model}: the folder {folder} holds {', '.join(found[:5]) or 'no weights'}; "
        f"expected {WEIGHTS[0]}, or give the file with --weights"
    )


def parts_of(path: Path) -> list[Path]:
    """List a file of weights; of an index, the index and the files that it names."""
    if path.suffix != ".json":
        return [path]
    parts = [path.parent / name for name in _named_in(path)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise UserError(f"{path} names {missing[0]}, which is not beside it; get it again")
    return [path, *parts]


def _named_in(index: Path) -> list[str]:
    """List the files that an index of weights names, all of them beside it."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [Path(name).name for name in dict.fromkeys(names)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is not an index of weights ({one_line(error)})") from error


def find_weights(asked: Asked, folder: Path | None, repository: str) -> weights.Weights:
    """Find the file of weights, or the index of its parts."""
    if asked.weights == "hub" and folder is None:
        for name in WEIGHTS:
            path = weights.hub_file(asked.model, repository, name)
            if path is None:
                continue
            for part in _named_in(path) if path.suffix == ".json" else ():
                weights.hub_file(asked.model, repository, part)
            return weights.Weights("hub", path, weights.with_commit(repository, path))
        raise UserError(
            f"--model {asked.model}: the repository has none of {', '.join(WEIGHTS)}; give the "
            "weights with --weights FILE"
        )
    if asked.weights == "hub":
        assert folder is not None
        return weights.Weights("file", weights_in(folder, asked.model).absolute(), None)
    path = expand_user(asked.weights)
    if path.suffix != ".json":
        path = weights.check_weights_file(find_weights_file(path))
    return weights.Weights("file", path.absolute(), None)
