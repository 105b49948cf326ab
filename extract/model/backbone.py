"""A frozen timm model: its weights, its preprocessing, and the vector that it gives an image."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from data.common.errors import UserError
from extract.model import names, weights
from extract.model import sources as model_sources
from extract.model.bundled import CHOICE, read_bundled
from extract.model.checkpoints import Tensors, read_networks
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

POOLS = ("default", "avg", "token")


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
    pool: str = "default"  # how the embedding is pooled
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
        self.module = module
        self.model_args = dict(request.model_args or {})
        self.pool = request.pool
        self.preprocessing = preprocessing
        self.source = source
        self.digest = digest
        self.seed = request.seed if source.source == "random" else None
        self.prepared: dict[str, Any] = {}
        self.read: Mapping[str, str] = {}  # files that a factory has read, and their digests
        self.width = _measured_width(module, named.name, preprocessing.size)

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


def vector_function(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Give the function behind `embed_normalised`, with nothing left in it to find out."""
    model: Any = module  # torch's type says nothing of timm's methods
    has_head = "pre_logits" in _parameters(getattr(model, "forward_head", None))

    def vectors(images: torch.Tensor) -> torch.Tensor:
        if has_head:
            output = model.forward_head(model.forward_features(images), pre_logits=True)
        else:
            output = model(images)  # without a classifier this is the pooled feature
        if output.ndim == 4 and output.shape[-2:] == (1, 1):
            output = output.flatten(1)
        return output

    return vectors


def _parameters(function: Any) -> Collection[str]:
    """Names of a function's parameters; none for what is no function."""
    return inspect.signature(function).parameters if callable(function) else ()


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
    _set_pool(module, named.name, request.pool)
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


def _set_pool(module: nn.Module, name: str, pool: str) -> None:
    """Switch the pooling of a built model through timm's own `reset_classifier`."""
    if pool == "default":
        return
    if pool not in POOLS:
        raise UserError(f"--pool {pool}: must be one of {', '.join(POOLS)}")
    supported = ["default"]
    has_token = getattr(module, "cls_token", None) is not None
    if has_token:
        supported.append("token")
    reset = getattr(module, "reset_classifier", None)
    if reset is not None and (pool == "avg" or has_token):
        try:
            reset(0, pool)
        except (AssertionError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"--pool {pool}: {name} supports only {', '.join(supported)}"
            ) from error
        return
    if reset is not None:
        supported.append("avg")
    raise UserError(f"--pool {pool}: {name} supports only {', '.join(supported)}")


def _measured_width(module: nn.Module, name: str, size: tuple[int, int]) -> int:
    """Run one blank image through the network: the width, and whether the size works at all."""
    import torch

    try:
        with torch.inference_mode():
            output = embed_normalised(module, torch.zeros(1, 3, *size))
    except NotImplementedError as error:
        raise UserError(f"--model {name}: gives no embedding of an image ({error})") from error
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        own = getattr(module, "pretrained_cfg", {}).get("input_size", (3, 0, 0))[-2:]
        raise UserError(
            f"{name} cannot take images of {size[0]}x{size[1]} pixels: {reason}\n"
            f"Its own size is {size_text(own)}; give another --image-size, or mend --model-arg."
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or output.shape[1] == 0:
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(
            f"--model {name}: gives {shape} for an image, not one vector; choose another model"
        )
    return int(output.shape[1])


def library_versions() -> dict[str, str]:
    """Versions of what decides the last bits, for the provenance."""
    from importlib.metadata import version

    found = {name: version(name) for name in ("torch", "timm", "h5py", "numpy")}
    return {"python": ".".join(map(str, sys.version_info[:3])), **found}
