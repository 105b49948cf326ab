"""What a row should be: a library's own transform and the plain network, for ``verify`` alone.

Nothing of our preprocessing or of our engines is used here, so that their faults show. The library
is timm; of networks that timm does not have it is open_clip or transformers, and the module of a
user's own is called as it is on timm's transform.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from extract.commands.witness_features import feature_of_spec

if TYPE_CHECKING:
    import torch
    from torch import nn

# timm resizes all of an image before it crops: 3 bytes for each pixel, and as much again.
MOST_PIXELS = 2**28
# EXIF's tag, and what its values ask for, by the numbers of `PIL.Image.Transpose`.
_ORIENTATION = 0x0112
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
_LYING = (2, 4, 5, 6)  # those that swap width and height


class Witness:
    """Embeds images as timm documents it."""

    who = "timm's own transform and model"
    # Whether the transform's pixels are Pillow's own; else of those that small images have here.
    exact = True

    def __init__(
        self, module: nn.Module, spec: Mapping[str, Any], device: torch.device, batch_size: int
    ) -> None:
        asked = spec["preprocessing"]
        size = asked["image_size"]
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        self._crop_pct, self._crop_mode = asked["crop_pct"], asked["crop_mode"]
        self._interpolation = asked["interpolation"]
        self._module: Any = module
        self._feature = feature_of_spec(module, spec)
        self._device, self._batch_size = device, batch_size
        self._waiting: list[torch.Tensor] = []
        self._rows: list[npt.NDArray[np.float32]] = []
        self._transform = self._make_transform(asked)

    def _make_transform(self, asked: Mapping[str, Any]) -> Any:
        from timm.data import create_transform

        return create_transform(
            input_size=(3, *self._size),
            is_training=False,
            interpolation=asked["interpolation"],
            mean=tuple(asked["mean"]),
            std=tuple(asked["std"]),
            crop_pct=asked["crop_pct"],
            crop_mode=asked["crop_mode"],
        )

    def see(self, image: npt.NDArray[np.uint8]) -> bool:
        """Take a decoded image; False where timm cannot resize it: it is too long and too thin."""
        from PIL import Image

        if self._is_too_long(*image.shape[:2]):
            return False
        try:
            self._take(self._transform(Image.fromarray(image)))
        except ValueError:  # the shorter side would be rounded to no pixel
            return False
        return True

    def see_reduced(self, file: str | io.BytesIO | None) -> bool:
        """Take an image file as ``--decode fast`` reads it, where that is not in full; else False.

        The whole image is resized, and turned upright only then.
        """
        from PIL import Image

        if file is None:
            return False
        with Image.open(file) as image:
            if image.format not in ("JPEG", "MPO") or self._is_too_long(*image.size):
                return False
            turn = _TURNS.get(image.getexif().get(_ORIENTATION))
            sides = image.size[::-1] if turn in _LYING else image.size
            resize, *others = self._transform.transforms
            try:
                wanted = resize(Image.new("L", sides)).size
            except ValueError:
                return False
            enough = [s for s in (2, 4, 8) if min(sides[i] / s / wanted[i] for i in (0, 1)) >= 2]
            if not enough:
                return False
            scale = max(enough)
            whole = tuple(side / scale for side in image.size)
            image.draft(None, tuple(map(int, whole)))
            filter_of = Image.Resampling[self._interpolation.upper()]
            size = wanted[::-1] if turn in _LYING else wanted
            small = image.convert("RGB").resize(size, filter_of, (0, 0, *whole))
        pixels: Any = small if turn is None else small.transpose(turn)
        for step in others:
            pixels = step(pixels)
        self._take(pixels)
        return True

    def _is_too_long(self, one: int, other: int) -> bool:
        side = max(self._size) / self._crop_pct
        longest = side**2 * max(one, other) / min(one, other)
        return self._crop_mode in ("center", "center-floor") and longest > MOST_PIXELS

    def why_not(self) -> str:
        """Say why an image was not taken."""
        return "is too long and thin for timm's transform"

    def _take(self, pixels: torch.Tensor) -> None:
        self._waiting.append(pixels)
        if len(self._waiting) == self._batch_size:
            self._embed()

    def rows(self) -> npt.NDArray[np.float32]:
        """Give the vectors of all images that were seen, in float32; shape (n, width)."""
        if self._waiting:
            self._embed()
        return np.concatenate(self._rows) if self._rows else np.zeros((0, 0), dtype=np.float32)

    def _embed(self) -> None:
        import torch

        module = self._module.to(self._device)
        batch = torch.stack(self._waiting).to(self._device)
        self._waiting.clear()
        with _ExactProducts(), torch.inference_mode():
            output = self._vectors(module, batch)
        self._rows.append(output.flatten(1).float().cpu().numpy())

    def _vectors(self, module: Any, batch: torch.Tensor) -> torch.Tensor:
        return self._feature(batch)


class _ExactProducts:
    """Switch TF32 off, and put it back."""

    def __enter__(self) -> None:
        import torch

        self._before = (
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cudnn.allow_tf32,
        )
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *_: object) -> None:
        import torch

        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before
