"""``--model open_clip:NAME/TAG``: image towers of open_clip, with the preprocessing of their tags.

The embedding is what open_clip's ``encode_image`` gives, not normalised. Only the image tower is
built and loaded; what decides its numbers is kept in a store's ``spec``.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.common.cache_folder import expand_user
from data.common.errors import UserError, nearest
from data.common.packages import package_version
from extract.model import weights
from extract.model.checkpoints import find_weights_file
from extract.model.preprocessing import one_size, size_text
from extract.model.providers.interface import Asked, Found, Loaded, Row
from extract.model.providers.open_clip_config import (
    CONFIG,
    FOLDER,
    PREFIX,
    Tagged,
    check_known,
    checked,
    config_of,
    library,
    own_size,
    preprocessing_of,
    read_config,
    split_name,
)
from extract.model.providers.towers import (
    check_installed,
    check_vectors,
    fill,
    one_line,
    overridden,
    read_tensors,
    refuse_pool,
    seeded,
)
from extract.model.silence import silenced
from extract.model.sources import Named

if TYPE_CHECKING:
    import torch
    from torch import nn

EXTRA, DISTRIBUTION = "open_clip", "open_clip_torch"
_ARGUMENTS = ("quick_gelu",)
_VISUAL = "visual."
_ADVICE = "give another --image-size, or leave it out"


class OpenClipProvider:
    """Image towers of open_clip."""

    name = "open_clip"

    def owns(self, model: str) -> bool:
        """Tell by the prefix."""
        return model.startswith(PREFIX)

    def portable_name(self, model: str) -> str:
        """Leave out the way to a folder."""
        return split_name(model).text if FOLDER in model else model

    def in_folder(self, model: str) -> bool:
        """Tell ``local-dir:`` from names and repositories."""
        return model.startswith(PREFIX + FOLDER)

    def files_of(self, model: str, choice: str) -> list[Path]:
        """List the configuration in a folder, and the file of weights."""
        found = []
        if self.in_folder(model):
            folder = expand_user(split_name(model).name)
            found.append(folder / CONFIG)
            if choice == "hub" and (folder / CONFIG).is_file():
                found.append(find_weights_file(folder, "--model"))
        if choice not in ("hub", "random"):
            found.append(find_weights_file(expand_user(choice)))
        return [path for path in found if path.is_file()]

    def versions(self) -> dict[str, str]:
        """Give open_clip's version."""
        return {DISTRIBUTION: package_version(DISTRIBUTION) or "none"}

    def check(self, model: str, choice: str) -> None:
        """Make sure of the name and the tag."""
        check_installed("open_clip", model, EXTRA)
        tagged = split_name(model)
        if tagged.where is None:
            check_known(tagged, model, needs_tag=choice == "hub")
        elif tagged.where == FOLDER:
            read_config(expand_user(tagged.name) / CONFIG, model)

    def describe(self, asked: Asked) -> Found:
        """Read the network's configuration and its preprocessing."""
        check_installed("open_clip", asked.model, EXTRA)
        tagged = split_name(asked.model)
        for name in asked.model_args or {}:
            if name not in _ARGUMENTS:
                raise UserError(
                    f"--model-arg {name}: open_clip's networks take {', '.join(_ARGUMENTS)} "
                    "(true or false) and nothing else; leave it out"
                )
        if asked.config is not None:
            own = checked(dict(asked.config), f"the spec of {asked.model}")
            text = asked.model
        else:
            if tagged.where is None:
                tagged = check_known(tagged, asked.model, needs_tag=asked.weights == "hub")
            own = config_of(tagged, asked)
            text = tagged.text
        settings = preprocessing_of(own, asked.model)
        own = {"provider": self.name, **own}
        named = Named(text, tagged.name, {}, {}, own)
        return Found(named, overridden(settings, asked), tagged)

    def load(self, asked: Asked, found: Found) -> Loaded:
        """Build the image tower and fill it from a file, a folder or the hub."""
        refuse_pool(asked)
        config: dict[str, Any] = {**(found.named.own or {})}["model_cfg"]
        size = found.preprocessing.image_size
        tower = seeded(asked.seed, partial(_tower, config, size))
        if asked.weights == "random":
            source, digest = weights.Weights("random", None, None), ""
        else:
            source = _find_weights(asked, found.own)
            assert source.path is not None
            digest = _fill(tower, source.path, asked.model)
        if hasattr(tower, "set_input_size") and one_size(own_size(config)) != size:
            tower.set_input_size(size)  # as open_clip does for timm's networks inside its own
        network = first_output(tower.float().eval())
        check_vectors(network, asked.model, found.preprocessing.size, _ADVICE)
        digest = digest or weights.state_digest(tower.state_dict())
        return Loaded(found.named, network, source, digest)

    def listed(self, pattern: str) -> list[Row] | None:
        """List names and tags that match."""
        check_installed("open_clip", pattern, EXTRA)
        open_clip = library()
        wanted = pattern.removeprefix(PREFIX) or "*"
        every = [(name, tag) for name, tag in open_clip.list_pretrained()]
        tagged = {name for name, _ in every}
        every += [(name, "") for name in open_clip.list_models() if name not in tagged]
        texts = {f"{name}/{tag}" if tag else name: name for name, tag in every}
        found = fnmatch.filter(texts, wanted) or fnmatch.filter(texts, f"*{wanted}*")
        if not found:
            near = nearest(wanted.strip("*"), texts)
            raise UserError(
                f"no network of open_clip matches '{wanted}'; {near or 'try a shorter part of it'}"
            )
        rows = []
        for text in found:
            config = open_clip.get_model_config(texts[text])
            source = "hub" if "/" in text else "none: --weights FILE or random"
            size = size_text(own_size(config))
            rows.append(Row(f"{PREFIX}{text}", config["embed_dim"], size, source))
        return rows


def first_output(tower: nn.Module) -> nn.Module:
    """Wrap a tower so that it gives its vector alone: some give the tokens beside it."""
    from torch import nn

    class ImageTower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = tower

        def forward(self, images: Any) -> Any:
            output = self.visual(images)
            return output[0] if isinstance(output, tuple) else output

    return ImageTower().eval().requires_grad_(False)


def _tower(config: Mapping[str, Any], size: int | tuple[int, int]) -> nn.Module:
    """Build the image tower as open_clip does, without the text tower beside it."""
    from open_clip.model import _build_vision_tower

    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    vision["image_size"] = size if isinstance(size, int) else tuple(size)
    for name, value in vision.items():  # the layers of a ResNet are counted in a tuple
        vision[name] = tuple(value) if isinstance(value, list) else value
    try:
        with silenced("timm", "root"):
            return _build_vision_tower(config["embed_dim"], vision, config["quick_gelu"])
    except Exception as error:  # whatever a configuration of somebody else's makes it raise
        raise UserError(
            f"open_clip cannot build the image tower of {size_text(size)} pixels from "
            f"{config['vision_cfg']} ({one_line(error)}); {_ADVICE}"
        ) from error


def _find_weights(asked: Asked, tagged: Tagged) -> weights.Weights:
    """Find the weights that ``--weights`` names; those of the hub in its cache, or fetched."""
    choice = asked.weights
    if choice == "hub" and tagged.where != FOLDER:
        repository, filenames = _repository(tagged)
        for filename in filenames:
            path = weights.hub_file(asked.model, repository, filename)
            if path is not None:
                return weights.Weights("hub", path, weights.with_commit(repository, path))
        raise UserError(
            f"--model {asked.model}: {repository} has neither of {', '.join(filenames)}; give the "
            "weights with --weights FILE"
        )
    where = tagged.name if choice == "hub" else choice
    path = find_weights_file(expand_user(where), "--model" if choice == "hub" else "--weights")
    return weights.Weights("file", weights.check_weights_file(path).absolute(), None)


def _repository(tagged: Tagged) -> tuple[str, list[str]]:
    """Name the repository of a tag, and its files of weights, those in safetensors first."""
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, given = tagged.name, HF_WEIGHTS_NAME
    if tagged.where is None:
        told = library().get_pretrained_cfg(tagged.name, tagged.tag)
        if not told.get("hf_hub"):
            raise UserError(
                f"--model {tagged.text}: open_clip has these weights at {told.get('url')} only; "
                "download them, and give the file with --weights FILE"
            )
        repository, _, filename = told["hf_hub"].rpartition("/")
        given = filename or HF_WEIGHTS_NAME
    safe = HF_SAFE_WEIGHTS_NAME if given == HF_WEIGHTS_NAME else Path(given).stem + ".safetensors"
    return repository, list(dict.fromkeys([safe, given]))


def _fill(tower: nn.Module, path: Path, model: str) -> str:
    """Load the tower's tensors from a file of the whole network; digest them as the file has them.

    A position embedding is resampled to another image size as open_clip does, and digested before.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.factory import resize_pos_embed
    from torch import nn

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = tower

    holder = Holder()
    wanted = holder.state_dict().keys()
    state: Mapping[str, torch.Tensor] = read_tensors(path, model, wanted)
    try:
        state = convert_state_dict(holder, dict(state))
    except Exception as error:  # whatever tensors of somebody else's make it raise
        raise UserError(
            f"{path} does not fit {model}: open_clip cannot convert its tensors "
            f"({one_line(error)}); give another --model"
        ) from error
    kept = {name: tensor for name, tensor in state.items() if name.startswith(_VISUAL)}
    digest = weights.network_digest(kept)
    with silenced("root"):
        resize_pos_embed(kept, holder)
    fill(holder, kept, model, path)
    return digest
