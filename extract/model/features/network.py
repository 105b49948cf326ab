"""From the words for features to the module that gives them; what a network cannot give is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from data.common.errors import UserError
from extract.model.features.choice import (
    AVG,
    DEFAULT,
    MAX,
    TOKEN,
    TOKEN_AVG,
    FeatureChoice,
    check_layer,
    check_pool,
)
from extract.model.features.pooling import (
    bare_head,
    has_head,
    is_distilled,
    n_prefix_tokens,
    parameters_of,
    repooled,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from extract.model.features.module import Recipe

# What `forward_intermediates` must take to be of use.
_NEEDED = {"indices", "output_fmt", "intermediates_only", "stop_early", "norm"}


def vector_function(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Give the function from images to vectors, with nothing left in it to find out."""
    model: Any = module  # torch's type says nothing of timm's methods
    headed = has_head(model)

    def vectors(images: torch.Tensor) -> torch.Tensor:
        if headed:
            output = model.forward_head(model.forward_features(images), pre_logits=True)
        else:
            output = model(images)  # without a classifier this is the pooled feature
        if output.ndim == 4 and output.shape[-2:] == (1, 1):
            output = output.flatten(1)
        return output

    return vectors


def settled(choice: FeatureChoice, network: nn.Module) -> FeatureChoice:
    """Write a choice in the one form that the spec of this network's stores has.

    The head of a distilled network gives the mean of its two tokens whatever it is told, so every
    other pooling is taken from its last layer.
    """
    layer = None if choice.layer is None else check_layer(str(choice.layer))
    pool = check_pool(choice.pool)
    if layer is None and pool != DEFAULT and is_distilled(network):
        layer = "-1"
    return FeatureChoice(pool, layer)


def module_of(
    network: nn.Module, name: str, choices: Sequence[FeatureChoice], size: tuple[int, int]
) -> nn.Module:
    """Give the module whose output is the vectors of these features, side by side.

    The network itself is left as it is, and shares its weights.
    """
    if [*choices] == [FeatureChoice()]:
        return network
    subject = _Subject(network, name, size)
    if len(choices) == 1 and choices[0].layer is None and choices[0].pool != TOKEN_AVG:
        return subject.head(choices[0].pool)
    from extract.model.features.module import Abilities, Features

    recipes = [subject.recipe(choice) for choice in choices]
    pools = {pool for one in recipes for pool, index in one.parts if index is None}
    heads = {
        pool: bare_head(subject.head(pool), subject.features) for pool in sorted(pools - {DEFAULT})
    }
    layers = subject.layers
    able = Abilities(
        headed=has_head(network),
        arguments=None if layers is None else layers.arguments,
        ends_alike=layers is not None and bool(pools) and subject.ends_alike(layers),
        norm_after=layers is not None and _has_norm_after(network, layers),
    )
    return Features(network, recipes, heads, able)


class _Layers(NamedTuple):
    """What timm gives of the layers of a network, found out on one image."""

    arguments: dict[str, Any]  # for ``forward_intermediates``
    widths: tuple[int, ...]
    has_token: bool  # whether the class token comes with every layer
    final: Any  # its last output

    @property
    def number(self) -> int:
        return len(self.widths)


class _Subject:
    """A network beside what it gives of one image, by which its abilities are found out."""

    def __init__(self, network: nn.Module, name: str, size: tuple[int, int]) -> None:
        import torch

        self.network: Any = network
        self.name = name
        generator = torch.Generator().manual_seed(0)
        self.image = torch.rand(1, 3, *size, generator=generator) - 0.5
        self.layers: _Layers | None = None
        self._features: Any = None

    @property
    def features(self) -> Any:
        """What the network's head takes."""
        import torch

        if self._features is None:
            with torch.inference_mode():
                self._features = self.network.forward_features(self.image)
        return self._features

    def recipe(self, choice: FeatureChoice) -> Recipe:
        """Say of what the vector of a feature consists."""
        from extract.model.features.module import Recipe

        if choice.layer is None:
            return Recipe(tuple((pool, None) for pool in choice.pool.split("+")))
        layers = self._layers_for(choice)
        taken = choice.indices(layers.number)
        if choice.pool == TOKEN_AVG:  # the patches of the last layer alone, as DINOv2 has it
            return Recipe((*((TOKEN, index) for index in taken), (AVG, taken[-1])))
        pool = _own_pool(self.network, layers) if choice.pool == DEFAULT else choice.pool
        return Recipe(tuple((pool, index) for index in taken))

    def head(self, pool: str) -> nn.Module:
        """Give the network with its head switched to a pooling."""
        headed = has_head(self.network)
        found = repooled(self.network, pool, self.features) if headed else None
        if found is not None:
            return found
        able = [DEFAULT]
        if headed:
            able += [p for p in (AVG, MAX, TOKEN) if repooled(self.network, p, self.features)]
        lacks = ""
        if pool == TOKEN and not n_prefix_tokens(self.network):
            lacks = "it has no class token, and "
        more = ""
        if pool != TOKEN and _NEEDED <= parameters_of(_intermediates_of(self.network)):
            more = f", or --layer -1 --pool {pool}, which pools the last layer without the head"
        advice = "give one of these" if able != [DEFAULT] else "leave --pool out"
        raise UserError(
            f"--pool {pool}: {self.name} cannot give it: {lacks}its head supports only "
            f"{', '.join(able)}; {advice}{more}"
        )

    def ends_alike(self, layers: _Layers) -> bool:
        """Tell whether the pass that gives the layers ends with what the head takes, to the bit."""
        import torch

        one, two = layers.final, self.features if has_head(self.network) else None
        return (
            isinstance(one, torch.Tensor)
            and isinstance(two, torch.Tensor)
            and torch.equal(one, two)
        )

    def _layers_for(self, choice: FeatureChoice) -> _Layers:
        """Find out which layers there are, and whether they have what a choice asks for."""
        if self.layers is None:
            self.layers = self._found(choice)
        found = self.layers
        if choice.n_layers > found.number:
            raise UserError(
                f"--layer {choice.layer}: {self.name} has {found.number} layers; give -1 to "
                f"-{found.number}, or last2 to last{found.number}"
            )
        if TOKEN in choice.pool and not found.has_token:
            some = n_prefix_tokens(self.network)
            lacks = "no class token in every layer" if some else "no class token"
            raise UserError(
                f"{choice.options()}: {self.name} has {lacks}; give --pool avg or --pool max"
            )
        return found

    def _found(self, choice: FeatureChoice) -> _Layers:
        import torch

        from extract.model.features.module import parts_of

        known = parameters_of(_intermediates_of(self.network))
        reason = "timm gives none of it"
        # With the final norm and with the tokens, where there are such.
        prefixes = [True, False] if "return_prefix_tokens" in known else [False]
        for norm, prefix in [(n, p) for n in (True, False) for p in prefixes]:
            if not _NEEDED <= known:
                break
            arguments: dict[str, Any] = {"norm": norm, "output_fmt": "NCHW"}
            if prefix:
                arguments["return_prefix_tokens"] = True
            try:
                with torch.inference_mode():
                    final, every = self.network.forward_intermediates(self.image, **arguments)
            # Networks without them fall over in words of their own.
            except (AssertionError, TypeError, ValueError, RuntimeError, UnboundLocalError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                continue
            parts = [parts_of(one) for one in every]
            if parts and all(places.ndim == 4 for places, _ in parts):
                tokens = all(prefix is not None for _, prefix in parts)
                has_token = tokens and getattr(self.network, "cls_token", None) is not None
                widths = tuple(int(places.shape[1]) for places, _ in parts)
                return _Layers(arguments, widths, has_token, final)
        raise UserError(
            f"--layer {choice.layer}: {self.name} has no layers to choose from ({reason}); leave "
            "--layer out, or choose another --model"
        )


def _intermediates_of(network: Any) -> Any:
    return getattr(network, "forward_intermediates", None)


def _own_pool(network: Any, layers: _Layers) -> str:
    """Say how a network pools its last layer, in the words that hold for every layer."""
    from extract.model.features.module import BOTH_TOKENS

    if layers.has_token and is_distilled(network):
        return BOTH_TOKENS
    pool = getattr(network, "global_pool", None)
    if layers.has_token and pool == TOKEN:
        return TOKEN
    return MAX if pool == MAX else AVG


def _has_norm_after(network: Any, layers: _Layers) -> bool:
    """Tell whether a transformer's head has a norm after the pooling, which then fits all layers."""
    from torch import nn

    norm = getattr(network, "fc_norm", None)
    alike = len(set(layers.widths)) == 1
    return isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity) and alike
