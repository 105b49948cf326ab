"""The words for features: ``--pool`` and ``--layer``, checked without a network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data.common.errors import UserError, nearest

DEFAULT, AVG, MAX, TOKEN, TOKEN_AVG = "default", "avg", "max", "token", "token+avg"
POOLS = (DEFAULT, AVG, MAX, TOKEN, TOKEN_AVG)
# More blocks than any network has: a number with more digits is a slip.
_MOST = 9999


@dataclass(frozen=True)
class FeatureChoice:
    """How a network's output is pooled, and the layer that it is taken from."""

    pool: str = DEFAULT
    layer: str | None = None  # ``-1``, ``-2``, ..., or ``last2``, ...; None for what the head takes

    @property
    def word(self) -> str:
        """Write it in one word, such as ``avg``, ``token@-2`` or ``token+avg@last4``."""
        return self.pool if self.layer is None else f"{self.pool}@{self.layer}"

    @property
    def n_layers(self) -> int:
        """How many of the last layers are needed; 0 where none is named."""
        return 0 if self.layer is None else int(re.sub(r"[^0-9]", "", self.layer))

    def indices(self, n_layers: int) -> list[int]:
        """Give which of so many layers are taken, from the first to the last."""
        first = n_layers - self.n_layers
        if self.layer is None:
            return []
        return [first] if self.layer.startswith("-") else list(range(first, n_layers))

    def options(self) -> str:
        """Write it as on the command line."""
        return f"--pool {self.pool}" + ("" if self.layer is None else f" --layer {self.layer}")


def check_pool(word: str) -> str:
    """Refuse a pooling that there is not."""
    if word not in POOLS:
        raise UserError(
            f"--pool {word}: there is no such pooling; give one of {', '.join(POOLS)}\n"
            f"{nearest(word, POOLS)}".strip()
        )
    return word


def check_layer(word: str) -> str:
    """Write a layer in the one form that a key has, and refuse what is none."""
    found = re.fullmatch(r"-0*([0-9]+)|last0*([0-9]+)", word.strip().lower())
    number = int(found[1] or found[2]) if found and len(word) < 12 else 0
    if found is None or not 1 <= number <= _MOST:
        raise UserError(
            f"--layer {word}: give -1 for the last layer, -2 for the one before it and so on, or "
            "last4 for the last four side by side"
        )
    return f"-{number}" if found[1] or number == 1 else f"last{number}"


def words_of(choices: Sequence[FeatureChoice]) -> str:
    """Write several choices in one line, in their order."""
    return " ".join(choice.word for choice in choices)


def choices_of(words: str) -> tuple[FeatureChoice, ...]:
    """Read what `words_of` wrote."""
    parts = [word.partition("@") for word in words.split()]
    return tuple(FeatureChoice(pool, layer or None) for pool, _, layer in parts)
