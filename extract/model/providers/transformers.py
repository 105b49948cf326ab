"""``--model transformers:NAME``: image networks of transformers, with their own processor.

The vector is the image embedding of a network for images and text (``get_image_features``, not
normalised), else the ``pooler_output``; the class token where the file has no weights of a pooler.
``trust_remote_code`` stays off: no code of a repository runs.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data.common.cache_folder import expand_user
from data.common.cli import log
from data.common.errors import UserError, nearest
from data.common.packages import package_version
from extract.model import weights
from extract.model.checkpoints import find_weights_file
from extract.model.outline import without_weights
from extract.model.preprocessing import Preprocessing
from extract.model.providers.image_tower import CHOICES, CLASS_TOKEN, image_tower, missing_pooler
from extract.model.providers.interface import Asked, Found, Loaded, Row
from extract.model.providers.processor import preprocessing_of
from extract.model.providers.towers import (
    check_installed,
    check_vectors,
    one_line,
    overridden,
    read_tensors,
    refuse_pool,
    seeded,
    some,
)
from extract.model.providers.transformers_files import (
    CONFIG,
    PREFIX,
    PROCESSORS,
    cleaned,
    fetched,
    find_weights,
    folder_of,
    parts_of,
    raw_config,
    weights_in,
)
from extract.model.silence import silenced
from extract.model.sources import Named

if TYPE_CHECKING:
    import torch

EXTRA = PREFIX
_ADVICE = "give another --image-size, or another --model"


_UNKNOWN = Preprocessing(
    224, 1.0, "center-floor", "bicubic", True, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
)


class _Own(NamedTuple):
    """What loading needs again."""

    config: Any  # of transformers
    kind: type  # of the network
    folder: Path | None  # of the user's; None for the hub
    repository: str
    vector: str | None  # which of `CHOICES`, where a ``spec`` says so


class TransformersProvider:
    """Image networks of transformers."""

    name = "transformers"

    def owns(self, model: str) -> bool:
        """Tell by the prefix."""
        return model.startswith(f"{PREFIX}:")

    def portable_name(self, model: str) -> str:
        """Leave out the way to a folder."""
        folder = folder_of(model)
        return model if folder is None else f"{PREFIX}:{folder.resolve().name}"

    def in_folder(self, model: str) -> bool:
        """Tell a folder from a name of the hub."""
        return folder_of(model) is not None

    def files_of(self, model: str, choice: str) -> list[Path]:
        """List the configurations in a folder, and the files of weights with all their parts."""
        found: list[Path] = []
        folder = folder_of(model)
        if folder is not None:
            found += [folder / CONFIG, *(folder / name for name in PROCESSORS)]
            if choice == "hub" and (folder / CONFIG).is_file():
                found += parts_of(weights_in(folder, model))
        if choice not in ("hub", "random"):
            path = expand_user(choice)
            found += parts_of(path if path.is_file() else find_weights_file(path))
        return [path for path in found if path.is_file()]

    def versions(self) -> dict[str, str]:
        """Give the version of transformers."""
        return {EXTRA: package_version(EXTRA) or "none"}

    def check(self, model: str, choice: str) -> None:
        """Make sure that the library is there, and of a folder what is in it."""
        check_installed(EXTRA, model, EXTRA)
        folder = folder_of(model)
        if folder is not None:
            raw_config(folder, model)
            if choice == "hub":
                weights_in(folder, model)
        elif not model.partition(":")[2]:
            raise UserError(
                f"--model {model}: names nothing; give {PREFIX}:OWNER/NAME or {PREFIX}:FOLDER"
            )

    def describe(self, asked: Asked) -> Found:
        """Read the configuration of the network and that of its processor."""
        model = asked.model
        check_installed(EXTRA, model, EXTRA)
        for name in asked.model_args or {}:
            raise UserError(
                f"--model-arg {name}: networks of transformers take their arguments from their "
                f"{CONFIG}; leave it out"
            )
        if asked.config is not None:
            return self._described_again(asked, dict(asked.config))
        folder = folder_of(model)
        place = fetched(model) if folder is None else folder
        raw = raw_config(place, model)
        config, kind = _network(raw, model)
        settings = preprocessing_of(processor_of(place, model), model)
        own = {"provider": self.name, "config": cleaned(raw)}
        named = Named(self.portable_name(model), model, {}, {}, own)
        repository = model.partition(":")[2]
        return Found(
            named, overridden(settings, asked), _Own(config, kind, folder, repository, None)
        )

    def _described_again(self, asked: Asked, own: dict[str, Any]) -> Found:
        """Take what the ``spec`` of a store has kept; nothing is looked for."""
        if not isinstance(own.get("config"), dict) or own.get("vector") not in CHOICES:
            raise UserError(
                f"the spec of {asked.model} has no config and vector; take it unchanged"
            )
        config, kind = _network(own["config"], asked.model)
        settings = overridden(_UNKNOWN, asked)  # whoever reads a spec takes its preprocessing
        repository = asked.model.partition(":")[2]
        named = Named(asked.model, asked.model, {}, {}, own)
        return Found(named, settings, _Own(config, kind, None, repository, own["vector"]))

    def load(self, asked: Asked, found: Found) -> Loaded:
        """Build the network, fill it, and keep what makes the vector of an image."""
        refuse_pool(asked)
        own: _Own = found.own
        if asked.weights == "random":
            source = weights.Weights("random", None, None)
            network = seeded(asked.seed, partial(_random, own))
            missing: set[str] = set()
        else:
            source = find_weights(asked, own.folder, own.repository)
            network, missing = _filled(own, source, asked.model)
        vector = CLASS_TOKEN if missing_pooler(missing) else None
        size = found.preprocessing.size
        tower, vector = image_tower(network.float(), size, asked.model, own.vector or vector)
        check_vectors(tower, asked.model, size, _ADVICE)
        named = replace(found.named, own={**(found.named.own or {}), "vector": vector})
        drawn = {f"network.{name}" for name in missing}  # of a pooler that gives no vector
        kept = {name: t for name, t in tower.state_dict().items() if name not in drawn}
        return Loaded(named, tower, source, weights.state_digest(kept))

    def listed(self, pattern: str) -> list[Row] | None:
        """List kinds of networks that have an image processor; a name or folder is one network."""
        check_installed(EXTRA, pattern, EXTRA)
        wanted = pattern.partition(":")[2] or "*"
        if "/" in wanted or folder_of(pattern) is not None:
            return None
        return _kinds(wanted)


def _network(raw: Mapping[str, Any], model: str) -> tuple[Any, type]:
    """Find the configuration and the class that transformers has for a kind of network."""
    with silenced("transformers"):
        from transformers import CONFIG_MAPPING, AutoModel

    kind = str(raw["model_type"]) if isinstance(raw.get("model_type"), str) else ""
    if kind not in CONFIG_MAPPING:
        own = " with code of its own, which is not run" if "auto_map" in raw else ""
        near = nearest(kind, CONFIG_MAPPING.keys())
        raise UserError(
            f"--model {model}: this transformers has no networks of the kind '{kind}'{own}; "
            f"{near or 'install the version that has written it'}"
        )
    try:
        with silenced("transformers"), without_weights():
            config = CONFIG_MAPPING[kind].from_dict(cleaned(raw))
            outline = AutoModel.from_config(config)
    except Exception as error:  # whatever a configuration of somebody else's makes it raise
        raise UserError(
            f"--model {model}: transformers cannot build a network of its {CONFIG} "
            f"({one_line(error)}); give another"
        ) from error
    takes = getattr(outline, "main_input_name", "pixel_values")
    if takes != "pixel_values" and not hasattr(outline, "get_image_features"):
        raise UserError(
            f"--model {model}: {type(outline).__name__} takes {takes}, not images; give a network "
            "for images (python -m extract list transformers:)"
        )
    return config, type(outline)


def processor_of(folder: Path, model: str) -> Any:
    """Have transformers build the image processor that a folder describes."""
    with silenced("transformers"):
        from transformers import AutoImageProcessor

        try:
            return AutoImageProcessor.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # the library raises those of many kinds
            missing = not any((folder / name).is_file() for name in PROCESSORS)
            what = f"there is no {PROCESSORS[0]}" if missing else one_line(error)
            raise UserError(
                f"--model {model}: has no image processor that transformers can load ({what}); "
                "give a network for images, with its processor beside it"
            ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers neither advise nor draw a bar of its own."""
    with silenced("transformers"):
        from transformers.utils import logging

        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            yield
        finally:
            if bars:
                logging.enable_progress_bar()


def _random(own: _Own) -> Any:
    with quiet():
        from transformers import AutoModel

        return AutoModel.from_config(own.config)


def _filled(own: _Own, source: weights.Weights, model: str) -> tuple[Any, set[str]]:
    """Have transformers build the network with tensors that are read here; say what is missing."""
    import torch

    assert source.path is not None
    files = parts_of(source.path)
    state: dict[str, torch.Tensor] = {}
    for part in files[1:] or files:
        state |= read_tensors(part, model, None)
    kind: Any = own.kind
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            network, told = kind.from_pretrained(
                None,
                config=own.config,
                state_dict=state,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # which are refused below, by their names
                output_loading_info=True,
            )
    except Exception as error:  # whatever tensors of somebody else's make it raise
        raise UserError(
            f"{source.path} does not fit {model}: transformers cannot load its tensors "
            f"({one_line(error)}); give another --model or --weights"
        ) from error
    missing, other = set(told["missing_keys"]), told["mismatched_keys"]
    missing -= {name for name, *_ in other}
    problems = [
        f"{len(names)} {what}: {some(sorted(map(str, names)))}"
        for names, what in (
            (set() if missing_pooler(missing) else missing, "missing from the file"),
            (
                {f"{name} {tuple(here)} instead of {tuple(there)}" for name, here, there in other},
                "of another shape",
            ),
            (told["error_msgs"], "that failed"),
        )
        if names
    ]
    if problems:
        raise UserError(
            f"{source.path} does not fit {kind.__name__}: {'; '.join(problems)}\n"
            "give the weights of this very network"
        )
    left = sorted(told["unexpected_keys"])
    if left:
        log(f"{source.path}: {len(left)} tensors are not of {kind.__name__}: {some(left)}")
    return network, missing


def _kinds(wanted: str) -> list[Row]:
    """List the kinds of networks that transformers has an image processor for."""
    with silenced("transformers"):
        # By name: the classes themselves take seconds to import.
        from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
        from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    kinds = sorted(set(IMAGE_PROCESSOR_MAPPING_NAMES) & set(MODEL_MAPPING_NAMES))
    found = fnmatch.filter(kinds, wanted) or fnmatch.filter(kinds, f"*{wanted}*")
    if not found:
        raise UserError(
            f"transformers has no image networks of a kind '{wanted}'; "
            f"{nearest(wanted.strip('*'), kinds) or 'try a shorter part of it'}"
        )
    text = f"{PREFIX}:OWNER/NAME or {PREFIX}:FOLDER"
    return [Row(kind, None, "-", text) for kind in found]
