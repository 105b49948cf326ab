"""The heads that ``--head`` names, one line each; their modules are loaded when asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from classify.heads.interface import HeadKind


class Entry(NamedTuple):
    """How a head is called in text for people, and where it is defined."""

    title: str
    # ``module:Class`` of a `HeadKind`; empty for what the solver fits along a path of C
    kind: str = ""


HEADS: dict[str, Entry] = {
    "multinomial": Entry("multinomial"),
    "ovr": Entry("OvR"),
    "ovo": Entry("OvO"),
}
# What is fitted where no head is named.
DEFAULT = ("multinomial", "ovr", "ovo")


def is_solved(name: str) -> bool:
    """Tell whether the solver fits a head, along a path of C."""
    return not HEADS[name].kind


def head_kind(name: str) -> HeadKind:
    """Load a head that the solver does not fit."""
    module, _, kind = HEADS[name].kind.partition(":")
    found: HeadKind = getattr(import_module(module), kind)(name)
    return found
