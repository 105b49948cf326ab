"""A frozen timm model: its weights, its preprocessing, and the vector that it gives an image."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from data.common.errors import UserError
from extract.model import names, weights
from extract.model import sources as model_sources
from extract.model.bundled import CHOICE, read_bundled
from extract.model.checkpoints import Tensors, read_networks
from extract.model.features.choice import FeatureChoice, words_of
from extract.model.features.network import module_of, settled, vector_function
from extract.model.input_sizes import size_that_fits
from extract.model.outline import without_weights
from extract.model.pixels import PIXELS, build_pixels
from extract.model.preprocessing import Preprocessing, resolve_preprocessing, size_text
from extract.model.providers.interface import Found
from extract.model.providers.registry import provider_of
from extract.model.silence import silenced
from extract.model.sources import Named
from extract.model.weights_fit import Filling, HeadKeys, announce, filled_by

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class BackboneRequest:
    """What the user asks of a backbone; everything left at None is the model's own."""

    # timm's name, with or without a tag, ``hf-hub:OWNER/NAME``, ``local-dir:FOLDER``, ``pixels``,
    # or a name of `extract.model.providers`
    model: str
    # ``hub`` (for a folder, those in it), ``bundled``, ``random``, or the path of a file or of its
    # folder.
    weights: str = "hub"
    model_args: Mapping[str, Any] | None = None  # arguments for timm's constructor
    image_size: int | tuple[int, int] | None = None  # side of the network input, in pixels
    pool: str = "default"  # how the embedding is pooled: one of `features.choice.POOLS`
    layer: str | int | None = None  # which layer is: ``-1``, ``last4``; None for the head's
    seed: int = 0  # of random weights; unused otherwise
    crop_pct: float | None = None  # overrides of the preprocessing
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    # What the ``spec`` of a store has kept of a model's own ``config.json``.
    config: Mapping[str, Any] | None = None
    # Whether a user has typed the name, so that code of the user's that it names may run.
    trusted: bool = False


class Backbone:
    """A network without its classifier, in evaluation mode, that cannot be trained."""

    def __init__(
        self,
        request: BackboneRequest,
        named: Named,
        module: nn.Module,
        preprocessing: Preprocessing,
        source: weights.Weights,
        digest: str,
    ) -> None:
        self.name = named.name
        self.config = named.own
        self.network = module  # timm's, without its classifier
        self.model_args = dict(request.model_args or {})
        self.preprocessing = preprocessing
        self.source = source
        self.digest = digest
        self.seed = request.seed if source.source == "random" else None
        self.read: Mapping[str, str] = {}  # files that a factory has read, and their digests
        layer = None if request.layer is None else str(request.layer)
        self._give((FeatureChoice(request.pool, layer),))

    def _give(self, choices: Sequence[FeatureChoice]) -> None:
        """Settle which features the module gives, side by side."""
        size = self.preprocessing.size
        self.choices = tuple(settled(choice, self.network) for choice in choices)
        if self.choices != (FeatureChoice(),):
            _run_blank(self.network, self.name, size)  # a size that it cannot take shows here
        self.module = module_of(self.network, self.name, self.choices, size)
        self.widths = _widths(self.module, self.name, size)
        self.prepared: dict[str, Any] = {}

    def giving(self, choices: Sequence[FeatureChoice]) -> Backbone:
        """Give a backbone with the same weights whose vectors are those of other features."""
        if tuple(map(self.settled, choices)) == self.choices:
            return self
        other = copy.copy(self)
        other._give(choices)
        return other

    def settled(self, choice: FeatureChoice) -> FeatureChoice:
        """Write a choice in the form that the spec of this network's stores has."""
        return settled(choice, self.network)

    @property
    def width(self) -> int:
        """How wide the vectors are, of all features together."""
        return sum(self.widths)

    def columns(self, choice: FeatureChoice) -> slice:
        """Say which columns of the vectors are those of one feature."""
        number = self.choices.index(choice)
        start = sum(self.widths[:number])
        return slice(start, start + self.widths[number])

    @property
    def features(self) -> str:
        """Which features the vectors are, in one line."""
        return words_of(self.choices)

    @property
    def is_convolutional(self) -> bool:
        """Whether most weights are convolution kernels, for which channels-last is faster."""
        return is_convolutional(self.module)

    @property
    def n_parameters(self) -> int:
        """How many numbers the network has learned."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def model_spec(self) -> dict[str, Any]:
        """Return the ``model`` entry of a store's ``spec``."""
        return {
            "name": self.name,
            "args": self.model_args,
            "weights": {"source": self.source.source, "digest": self.digest},
            **({} if self.config is None else {"config": self.config}),
        }


def is_convolutional(module: nn.Module) -> bool:
    """Tell whether most of a network's weights are kernels larger than one pixel or 1x1 ones."""
    parameters = list(module.parameters())
    kernels = sum(p.numel() for p in parameters if p.ndim == 4)
    return 2 * kernels > sum(p.numel() for p in parameters)


def embed_normalised(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Give the vectors that the network's own classifier would see.

    Shapes: `images` (n, 3, height, width); returns (n, width).
    """
    return vector_function(module)(images)


class Described(NamedTuple):
    """What is known of a backbone before it is built."""

    named: Named
    preprocessing: Preprocessing
    own: Any = None  # what a provider needs again


def describe(request: BackboneRequest) -> Described:
    """Find the model and its preprocessing, which needs neither weights nor the network."""
    provider = provider_of(request.model)
    if provider is not None:
        return Described(*provider.describe(request))
    named = model_sources.find_model(
        request.model, request.config, from_hub=request.weights == "hub"
    )
    wishes = {
        key: getattr(request, key)
        for key in ("image_size", "crop_pct", "interpolation", "mean", "std")
    }
    return Described(named, resolve_preprocessing(named.pretrained_cfg, wishes))


def load_backbone(request: BackboneRequest, described: Described | None = None) -> Backbone:
    """Create a frozen backbone with its weights and its preprocessing."""
    described = describe(request) if described is None else described
    named, preprocessing = described.named, described.preprocessing
    provider = provider_of(request.model)
    if provider is not None:
        loaded = provider.load(request, Found(*described))
        backbone = Backbone(
            request, loaded.named, loaded.module, preprocessing, loaded.source, loaded.digest
        )
        backbone.read = loaded.read
        return backbone
    config = named.pretrained_cfg
    source = model_sources.find_weights(
        request.model if named.own is not None else named.name, request.weights, config
    )
    module, digest = _build(request, named, preprocessing.image_size, source)
    module.eval().requires_grad_(False)
    return Backbone(request, named, module, preprocessing, source, digest)


def _head_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classifier modules: one, several (distilled models), or none."""
    classifier = config.get("classifier")
    if not classifier:
        return ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _build(
    request: BackboneRequest,
    named: Named,
    image_size: int | tuple[int, int],
    source: weights.Weights,
) -> tuple[nn.Module, str]:
    """Have timm build the model, check that every weight found its place, and digest them."""
    import torch

    if named.architecture == PIXELS:
        return build_pixels(request.model_args or {}), weights.state_digest({})
    names.check_model_args(dict(request.model_args or {}))
    arguments: dict[str, Any] = {**named.args, **(request.model_args or {})}
    if named.pretrained_cfg.get("fixed_input_size"):
        # These build their position embedding for one size, and timm resamples stored weights.
        arguments["img_size"] = image_size
    filling = None
    if source.source != "random":
        filling = Filling(
            named.name,
            source.path or source.origin,
            _networks_of(source),
            HeadKeys(
                _head_names(named.pretrained_cfg), lambda: _dropped_with_head(named, arguments)
            ),
        )
    # What timm would warn of, missing and unexpected weights, is checked and said here.
    with silenced("timm", warnings=False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        module = _filled(named, arguments, filling)
    if filling is None or filling.networks is None:
        return module, weights.state_digest(module.state_dict())
    if not filling.done:
        raise UserError(f"{source.path}: timm has no loader for {named.name}")
    announce(filling)
    return module, weights.network_digest(filling.kept())


def _networks_of(source: weights.Weights) -> Mapping[str, Tensors] | None:
    """Read the tensors; None where timm reads them itself."""
    if source.path is None:
        return None
    return read_bundled(source.path) if source.source == CHOICE else read_networks(source.path)


def _created(named: Named, arguments: Mapping[str, Any], pretrained: bool, classes: int) -> Any:
    """Call timm's constructor."""
    import timm

    own = None if named.own is None else dict(named.pretrained_cfg)
    return timm.create_model(
        named.architecture,
        pretrained=pretrained,
        pretrained_cfg=own,
        num_classes=classes,
        **arguments,
    )


def _filled(named: Named, arguments: Mapping[str, Any], filling: Filling | None) -> nn.Module:
    """Build a backbone without its classifier; say which option is at fault where that fails."""
    try:
        if filling is None:
            return _created(named, arguments, False, 0)
        with filled_by(filling):
            return _created(named, arguments, True, 0)
    except UserError as error:
        if filling is None or "img_size" not in arguments:
            raise
        raise _other_size(named, arguments, filling) or error from error
    except (TypeError, ValueError, AssertionError, KeyError, AttributeError, RuntimeError) as error:
        raise _construction_error(named.name, arguments, error) from error


def _other_size(named: Named, arguments: Mapping[str, Any], filling: Filling) -> UserError | None:
    """Tell weights for another input size from those of another model; None where they are not."""
    if filling.networks is None:
        return None

    def fits(side: int) -> bool:
        trial = Filling(filling.name, filling.path, filling.networks, filling.head)
        try:
            with silenced("torch"), without_weights(), filled_by(trial):
                _created(named, {**arguments, "img_size": side}, True, 0)
        except (UserError, TypeError, ValueError, AssertionError, KeyError, AttributeError):
            return False
        except RuntimeError:
            return False
        return True

    asked = arguments["img_size"]
    side = asked if isinstance(asked, int) else asked[-1]
    with without_weights():
        built = _created(named, arguments, False, 0).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in built.items()}
    found = size_that_fits(side, named.pretrained_cfg, shapes, filling.shapes(shapes), fits)
    if found is None:
        return None
    return UserError(
        f"{filling.path} does not fit {named.name} with images of {_pixels(asked)} pixels: these "
        f"weights were made for {found}x{found}, and timm cannot resample them\n"
        f"Give --image-size {found}"
    )


def _pixels(size: int | tuple[int, int]) -> str:
    return f"{size}x{size}" if isinstance(size, int) else "x".join(map(str, size))


def _dropped_with_head(named: Named, arguments: Mapping[str, Any]) -> Collection[str]:
    """Name what timm's model has with a classifier and has not without one."""
    classes = named.pretrained_cfg.get("num_classes") or 1000
    with without_weights():
        whole = _created(named, arguments, False, classes).state_dict().keys()
        return whole - _created(named, arguments, False, 0).state_dict().keys()


def _construction_error(name: str, arguments: Mapping[str, Any], error: Exception) -> UserError:
    shown = " ".join(f"{key}={value}" for key, value in arguments.items()) or "none"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f"timm cannot build {name} with the arguments {shown}: {reason}\n"
        "Check --model-arg and --image-size."
    )


def _run_blank(module: nn.Module, name: str, size: tuple[int, int]) -> Any:
    """Run one blank image through a network, which says whether the size works at all."""
    import torch

    from extract.model.features.module import Features

    try:
        with torch.inference_mode():
            image = torch.zeros(1, 3, *size)
            if isinstance(module, Features):
                return module.vectors(image)
            return embed_normalised(module, image)
    except NotImplementedError as error:
        raise UserError(f"--model {name}: gives no embedding of an image ({error})") from error
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        own = getattr(module, "pretrained_cfg", {}).get("input_size", (3, 0, 0))[-2:]
        raise UserError(
            f"{name} cannot take images of {size[0]}x{size[1]} pixels: {reason}\n"
            f"Its own size is {size_text(own)}; give another --image-size, or mend --model-arg."
        ) from error


def _widths(module: nn.Module, name: str, size: tuple[int, int]) -> tuple[int, ...]:
    """Measure how wide the vector of each feature is."""
    import torch

    found = _run_blank(module, name, size)
    for output in found if isinstance(found, list) else [found]:
        if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[1] == 0:
            tensor = isinstance(output, torch.Tensor)
            shape = tuple(output.shape) if tensor else type(output).__name__
            raise UserError(
                f"--model {name}: gives {shape} for an image, not one vector; choose another model"
            )
    return tuple(int(one.shape[1]) for one in (found if isinstance(found, list) else [found]))


def library_versions() -> dict[str, str]:
    """Versions of what decides the last bits, for the provenance."""
    from importlib.metadata import version

    found = {name: version(name) for name in ("torch", "timm", "h5py", "numpy")}
    return {"python": ".".join(map(str, sys.version_info[:3])), **found}
