"""What a row of a network that timm does not have should be: its library's own word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.common.errors import UserError
from extract.commands.witness import Witness
from extract.model.preprocessing import Preprocessing, one_size
from extract.model.providers import open_clip_config as clips
from extract.model.providers import transformers as hugging
from extract.model.providers import transformers_files as files
from extract.model.providers.image_tower import CLASS_TOKEN, IMAGE_EMBEDDING
from extract.model.providers.processor import FILTERS, pixels_of, preprocessing_of
from extract.model.silence import silenced

if TYPE_CHECKING:
    import torch

    from extract.model.backbone import Backbone


def witness_of(
    backbone: Backbone, spec: Mapping[str, Any], device: torch.device, batch_size: int
) -> Witness:
    """Choose who says what the rows of a store should be."""
    config = spec["model"].get("config") or {}
    kinds = {"open_clip": _OfOpenClip, "transformers": _OfTransformers, "factory": _OfFactory}
    kind: Any = kinds.get(str(config.get("provider")))
    if kind is None:
        return Witness(backbone.network, spec, device, batch_size)
    return kind(backbone, spec, device, batch_size)


class _OfFactory(Witness):
    """A user's own module, called as it is on what timm's transform makes of an image."""

    who = "timm's own transform and the factory's module"

    def __init__(
        self, backbone: Backbone, spec: Mapping[str, Any], device: torch.device, batch_size: int
    ) -> None:
        module: Any = backbone.module
        super().__init__(module.network, spec, device, batch_size)

    def _vectors(self, module: Any, batch: torch.Tensor) -> torch.Tensor:
        return module(batch)


class _OfOpenClip(Witness):
    """open_clip's transform and ``encode_image``, of the whole network that it has loaded."""

    who = "open_clip's own transform and encode_image"

    def __init__(
        self, backbone: Backbone, spec: Mapping[str, Any], device: torch.device, batch_size: int
    ) -> None:
        model = _whole_clip(backbone, spec)
        if model is None:
            self.who = "open_clip's own transform and image tower"
        super().__init__(backbone.module if model is None else model, spec, device, batch_size)

    def _make_transform(self, asked: Mapping[str, Any]) -> Any:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        if asked["crop_pct"] != 1.0:  # --crop-pct, which open_clip does not have
            return super()._make_transform(asked)
        modes = {ours: theirs for theirs, ours in clips.MODES.items()}
        config = PreprocessCfg(
            size=self._size,
            mean=tuple(asked["mean"]),
            std=tuple(asked["std"]),
            interpolation=asked["interpolation"],
            resize_mode=modes[asked["crop_mode"]],
        )
        return image_transform_v2(config, is_train=False)

    def _vectors(self, module: Any, batch: torch.Tensor) -> torch.Tensor:
        if hasattr(module, "encode_image"):
            return module.encode_image(batch, normalize=False)
        return module(batch)


def _whole_clip(backbone: Backbone, spec: Mapping[str, Any]) -> Any:
    """Have open_clip load the network itself; None where it cannot, such as of random weights."""
    path = backbone.source.path
    if path is None:
        return None
    text = spec["model"]["name"].removeprefix(clips.PREFIX)
    local = text.startswith((clips.FOLDER, clips.HUB))
    name = f"{clips.FOLDER}{path.parent}" if local else clips.split_name(spec["model"]["name"]).name
    config = spec["model"]["config"]["model_cfg"]
    own, other = one_size(clips.own_size(config)), backbone.preprocessing.image_size
    try:
        with silenced("open_clip", "root", "timm"):
            import open_clip

            return open_clip.create_model(
                name,
                pretrained=None if local else str(path),
                pretrained_text=False,
                force_image_size=None if backbone.preprocessing.image_size == own else other,
                quick_gelu=config["quick_gelu"],
            ).eval()
    except Exception:  # a text tower that needs a tokenizer's package, or a configuration
        return None


class _OfTransformers(Witness):
    """An image processor of transformers, and the network as ``from_pretrained`` loads it."""

    who = "transformers' own processor and model"
    exact = False  # in torch, within a grey level or two of Pillow's

    def __init__(
        self, backbone: Backbone, spec: Mapping[str, Any], device: torch.device, batch_size: int
    ) -> None:
        self._model, self._vector = spec["model"]["name"], spec["model"]["config"]["vector"]
        path, tower = backbone.source.path, backbone.module
        self._folder = _folder_of(self._model, path)
        module: Any = tower.network
        own = getattr(module.config, "vision_config", module.config)
        size = backbone.preprocessing.size
        other = getattr(own, "image_size", size) not in (size[0], list(size), size)
        self._options = {"interpolate_pos_encoding": True} if other else {}
        if path is not None and path.parent == self._folder:
            with hugging.quiet():
                from transformers import AutoModel

                module = AutoModel.from_pretrained(str(self._folder), dtype="float32").eval()
        else:
            self.who = "transformers' own processor and the network as it was loaded"
        super().__init__(module, spec, device, batch_size)

    def _make_transform(self, asked: Mapping[str, Any]) -> Any:
        processor = hugging.processor_of(self._folder, self._model)
        wanted = Preprocessing.from_spec(asked)
        options = {}
        if preprocessing_of(processor, self._model).to_spec() != wanted.to_spec():
            options = _options_of(wanted, has_share=hasattr(processor, "crop_pct"))
        return lambda image: pixels_of(processor, image, **options)

    def see_reduced(self, file: Any) -> bool:
        """Leave out what is decoded at a reduced scale: the processor cannot."""
        return False

    def _vectors(self, module: Any, batch: torch.Tensor) -> torch.Tensor:
        import inspect

        image = self._vector == IMAGE_EMBEDDING
        call = module.get_image_features if image else module.forward
        known = inspect.signature(call).parameters
        given = {name: value for name, value in self._options.items() if name in known}
        output = call(pixel_values=batch, **given)
        if self._vector == CLASS_TOKEN:
            return output.last_hidden_state[:, 0]
        return getattr(output, "pooler_output", output)


def _folder_of(model: str, path: Path | None) -> Path:
    """Find the folder with the processor: that of the weights, or the hub's."""
    if path is not None and any((path.parent / name).is_file() for name in files.PROCESSORS):
        return path.parent
    if "/" not in model:
        raise UserError(
            f"{model} was a folder, and where its processor lies is not known (the weights were "
            "random, or a file elsewhere)"
        )
    return files.fetched(model)


def _options_of(wanted: Preprocessing, *, has_share: bool) -> dict[str, Any]:
    """Write settings of the user's as arguments of a processor."""
    height, width = wanted.size
    options: dict[str, Any] = {
        "image_mean": list(wanted.mean),
        "image_std": list(wanted.std),
        "resample": FILTERS.index(wanted.interpolation),
    }
    if has_share:
        return {**options, "size": {"shortest_edge": height}, "crop_pct": wanted.crop_pct}
    crop = {"height": height, "width": width}
    if wanted.crop_mode == "squash" and wanted.crop_pct == 1.0:
        return {**options, "size": crop}
    edge = math.floor(height / wanted.crop_pct)
    return {**options, "size": {"shortest_edge": edge}, "crop_size": crop, "do_center_crop": True}
