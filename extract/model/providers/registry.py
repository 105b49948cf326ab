"""Which provider a name belongs to; everything else is timm's (`extract.model.sources`)."""

from __future__ import annotations

from pathlib import Path

from extract.model import sources
from extract.model.bundled import CHOICE, check_model
from extract.model.providers.code_files import find_code
from extract.model.providers.factory import FactoryProvider
from extract.model.providers.interface import Provider
from extract.model.providers.open_clip import OpenClipProvider
from extract.model.providers.transformers import TransformersProvider

# In this order: a factory is what no other owns.
PROVIDERS: tuple[Provider, ...] = (OpenClipProvider(), TransformersProvider(), FactoryProvider())


def provider_of(model: str) -> Provider | None:
    """Find the provider of a network; None for timm's."""
    return next((provider for provider in PROVIDERS if provider.owns(model)), None)


def portable_name(model: str) -> str:
    """Name a model as the ``spec`` and the ``request`` of a store do."""
    provider = provider_of(model)
    return sources.portable_name(model) if provider is None else provider.portable_name(model)


def in_folder(model: str) -> bool:
    """Tell whether the weights are files of the user's, beside the network's configuration."""
    provider = provider_of(model)
    if provider is None:
        return sources.split_source(model)[0] == sources.FOLDER
    return provider.in_folder(model)


def files_of(model: str, choice: str) -> list[Path]:
    """List the files that ``--model`` and ``--weights`` name and that are there, without torch."""
    provider = provider_of(model)
    found = sources.files_of if provider is None else provider.files_of
    return found(model, choice)


def versions_of(model: str) -> dict[str, str]:
    """Give the versions of the libraries that decide the numbers, beside torch and timm."""
    provider = provider_of(model)
    return {} if provider is None else provider.versions()


def code_folder(model: str) -> str | None:
    """Give the folder on Python's path in which a factory's code lies; None of other networks."""
    provider = provider_of(model)
    if not isinstance(provider, FactoryProvider):
        return None
    return str(find_code(model.partition(":")[0], model).root)


def check_name(model: str, choice: str) -> None:
    """Make sure of a model's name before any work."""
    provider = provider_of(model)
    if provider is None:
        sources.check_model(model, choice)
        return
    if choice == CHOICE:
        check_model(model)
    provider.check(model, choice)
