"""A frozen timm model: its weights, its preprocessing, and the vector that it gives an image."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.cache_folder import expand_user
from data.errors import UserError
from extract import names, weights
from extract.preprocess import Preprocessing, resolve_preprocessing, size_text

if TYPE_CHECKING:
    import torch
    from torch import nn

POOLS = ("default", "avg", "token")


@dataclass(frozen=True)
class BackboneRequest:
    """What the user asks of a backbone; everything left at None is the model's own.

    Attributes
    ----------
    model : str
        timm's name, with or without a tag.
    weights : str
        ``hub``, ``random``, or the path of a safetensors file.
    model_args : dict
        Arguments for timm's constructor.
    image_size : int, tuple of (int, int) or None
        Side of the network input, in pixels.
    pool : {'default', 'avg', 'token'}
        How the embedding is pooled.
    seed : int
        Of random weights; unused otherwise.
    crop_pct, interpolation, mean, std
        Overrides of the preprocessing.
    """

    model: str
    weights: str = "hub"
    model_args: Mapping[str, Any] | None = None
    image_size: int | tuple[int, int] | None = None
    pool: str = "default"
    seed: int = 0
    crop_pct: float | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Backbone:
    """A network without its classifier, in evaluation mode, that cannot be trained.

    Attributes
    ----------
    name : str
        timm's name; with the tag of its weights when they come from the hub.
    module : torch.nn.Module
        On the CPU, in float32, until somebody moves it.
    model_args : dict
        Arguments that the user gave to the constructor.
    pool : str
        ``default``, ``avg`` or ``token``.
    preprocessing : Preprocessing
        Fully resolved.
    source : weights.Weights
        Where the weights come from.
    digest : str
        SHA-256 of the weights.
    seed : int or None
        Of random weights.
    width : int
        Length of the embedding, as measured by a forward pass.
    prepared : dict
        What engines have made of the module, so that it is made once.
    """

    def __init__(
        self,
        request: BackboneRequest,
        name: str,
        module: nn.Module,
        preprocessing: Preprocessing,
        source: weights.Weights,
        digest: str,
    ) -> None:
        self.name = name
        self.module = module
        self.model_args = dict(request.model_args or {})
        self.pool = request.pool
        self.preprocessing = preprocessing
        self.source = source
        self.digest = digest
        self.seed = request.seed if source.source == "random" else None
        self.prepared: dict[str, Any] = {}
        self.width = _measured_width(module, name, preprocessing.size)

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
        }


def is_convolutional(module: nn.Module) -> bool:
    """Tell whether most of a network's weights are kernels larger than one pixel or 1x1 ones.

    Parameters
    ----------
    module : torch.nn.Module
        The network.

    Returns
    -------
    bool
        True for convolutional networks, false for transformers and mixers.
    """
    parameters = list(module.parameters())
    kernels = sum(p.numel() for p in parameters if p.ndim == 4)
    return 2 * kernels > sum(p.numel() for p in parameters)


def embed_normalised(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Give the vectors that the network's own classifier would see.

    Parameters
    ----------
    module : torch.nn.Module
        A frozen timm model.
    images : torch.Tensor of float, shape (n, 3, height, width)
        Normalised.

    Returns
    -------
    torch.Tensor, shape (n, width)
        timm's pre-logits vectors.
    """
    return vector_function(module)(images)


def vector_function(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Give the function behind `embed_normalised`, with nothing left in it to find out.

    Parameters
    ----------
    module : torch.nn.Module
        A frozen timm model.

    Returns
    -------
    callable
        From normalised images to vectors; torch can compile and export it.
    """
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


def load_backbone(request: BackboneRequest) -> Backbone:
    """Create a frozen backbone with its weights and its preprocessing.

    Parameters
    ----------
    request : BackboneRequest
        What the user asks for.

    Returns
    -------
    Backbone
        On the CPU, in evaluation mode, without gradients and without a classifier.

    Raises
    ------
    UserError
        For an unknown model, weights that cannot be had or do not fit, a pooling or an image
        size that the model does not support.
    """
    names.check_model_name(request.model)
    name = names.hub_name(request.model) if request.weights == "hub" else request.model
    config = names.pretrained_config(name)
    preprocessing = resolve_preprocessing(
        config,
        {
            key: getattr(request, key)
            for key in ("image_size", "crop_pct", "interpolation", "mean", "std")
        },
    )
    source = _find_weights(request.weights, name, config)
    module = _build(request, name, config, preprocessing.image_size, source)
    if source.path is not None:
        digest = weights.file_digest(source.path, _head_names(config))
    else:
        digest = weights.state_digest(module.state_dict())
    _set_pool(module, name, request.pool)
    module.eval().requires_grad_(False)
    return Backbone(request, name, module, preprocessing, source, digest)


def _find_weights(choice: str, name: str, config: Mapping[str, Any]) -> weights.Weights:
    if choice == "random":
        return weights.Weights("random", None, None)
    if choice == "hub":
        return weights.hub_weights(name, config)
    path = weights.check_weights_file(expand_user(choice))
    return weights.Weights("file", path.resolve(), None)


def _head_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classifier modules: one, several (distilled models), or none."""
    classifier = config.get("classifier")
    if not classifier:
        return ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _build(
    request: BackboneRequest,
    name: str,
    config: Mapping[str, Any],
    image_size: int | tuple[int, int],
    source: weights.Weights,
) -> nn.Module:
    """Call timm's constructor, and check that every weight found its place."""
    import timm
    import torch

    arguments: dict[str, Any] = dict(request.model_args or {})
    names.check_model_args(arguments)
    if config.get("fixed_input_size"):
        # These build their position embedding for one size, and timm resamples stored weights.
        arguments["img_size"] = image_size
    overlay = {} if source.path is None else {"file": str(source.path), "custom_load": False}
    # What timm would warn of, missing and unexpected weights, is checked and said here.
    logging.getLogger("timm").setLevel(logging.ERROR)
    with torch.random.fork_rng(devices=[]), weights.recorded_loading() as results:
        torch.manual_seed(request.seed)
        try:
            module = timm.create_model(
                name,
                pretrained=source.source != "random",
                pretrained_cfg_overlay=overlay,
                num_classes=0,
                **arguments,
            )
        except RuntimeError as error:
            if "size mismatch" in str(error) or "state_dict" in str(error):
                raise weights.misfit(name, source.path or name, error) from error
            raise _construction_error(name, arguments, error) from error
        except (TypeError, ValueError, AssertionError, KeyError, AttributeError) as error:
            if source.path is not None and _builds_without_weights(name, arguments):
                raise UserError(
                    f"{source.path} does not fit {name}: timm cannot convert its tensors "
                    f"({type(error).__name__}: {error})"
                ) from error
            raise _construction_error(name, arguments, error) from error
    if source.path is not None and not results:
        raise UserError(f"{source.path}: timm has no loader for {name} from safetensors")
    weights.check_fit(name, source.path or source.origin, results, _head_names(config))
    return module


def _builds_without_weights(name: str, arguments: Mapping[str, Any]) -> bool:
    import timm
    import torch

    try:
        with torch.device("meta"):
            timm.create_model(name, num_classes=0, **arguments)
    except (TypeError, ValueError, AssertionError, KeyError, AttributeError, RuntimeError):
        return False
    return True


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
