"""What a head of several stores side by side remembers of each: ``classify fit a.h5+b.h5``.

The specs are in the head's own spec, under ``parts``. Beside them the files of heads keep for each
part its store's key, the width of its features, and the file that the backbone's weights
came from, if they came from one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from data.common.shapes import mismatch
from data.format.spec import specs_of

if TYPE_CHECKING:
    from classify.solver.row_norms import Norm
    from data.format.records import Features, Header

_SHAPE = [{"key": str, "n_features": int, "weights_file~": (str, None)}]


class HeadPart(NamedTuple):
    """One of the stores whose features are side by side in the rows that a head takes."""

    key: str
    n_features: int
    weights_file: str | None  # where the backbone's weights lay, if they came from a file


def weights_file_of(header: Header) -> str | None:
    """Return the file that the weights of a store's backbone came from."""
    found = (header.provenance or {}).get("weights_file")
    return str(found) if found else None


def head_parts(features: Features) -> tuple[HeadPart, ...]:
    """List what a head remembers of each store of a sum; nothing of a store alone."""
    headers = [part.header for part in features.parts]
    return tuple(HeadPart(h.key, h.n_features, weights_file_of(h)) for h in headers)


def parts_list(parts: Sequence[HeadPart]) -> list[dict[str, Any]]:
    """Write parts as the files of heads keep them, as JSON values."""
    return [part._asdict() for part in parts]


def read_parts(found: Any, spec: Mapping[str, Any], n_features: Any) -> tuple[HeadPart, ...]:
    """Read parts, None of a store alone; a ``ValueError`` says what is wrong with them.

    Their number must be that of the spec's, and their widths add up to the head's.
    """
    specs = spec.get("parts") or []
    if found is None and not specs:
        return ()
    problem = mismatch(found, _SHAPE, "parts")
    if problem:
        raise ValueError(problem)
    if len(found) != len(specs) or len(found) < 2:
        raise ValueError(f"it has {len(found)} parts, and its spec {len(specs)}")
    widths = [part["n_features"] for part in found]
    if min(widths) < 1 or str(sum(widths)) != str(n_features):
        raise ValueError(
            f"its parts have {' + '.join(map(str, widths))} features, not {n_features}"
        )
    return tuple(
        HeadPart(part["key"], part["n_features"], part.get("weights_file")) for part in found
    )


def norm_of_parts(norm: Norm, parts: Sequence[HeadPart]) -> Norm:
    """Settle what rows are divided by: each part of a row by its own norm."""
    return tuple(part.n_features for part in parts) if norm and parts else norm


class Network(NamedTuple):
    """A backbone that a head needs for new images."""

    spec: dict[str, Any]
    weights_file: str | None
    n_features: int


def networks_of(
    spec: Mapping[str, Any],
    weights_file: str | None,
    n_features: int,
    parts: Sequence[HeadPart] = (),
) -> list[Network]:
    """List the backbones of a head: one, or that of each part, in the order of its columns."""
    if not parts:
        return [Network(dict(spec), weights_file, n_features)]
    return [
        Network(one, part.weights_file, part.n_features)
        for one, part in zip(specs_of(spec), parts, strict=True)
    ]
