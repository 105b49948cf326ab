"""The nearest rows by cosine on a device: the twin of `classify.heads.neighbours`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from classify.solver.torch_backend.design import arithmetic, tensor_of

# Queries that meet a block of rows at once: 8,192 rows make 270 MB of keys.
QUERIES = 4096


def nearest_keys(
    blocks: Iterable[tuple[slice, npt.NDArray[Any]]],
    queries: npt.NDArray[np.float32],
    k: int,
    at: str,
) -> npt.NDArray[np.int64]:
    """Return the keys of the nearest rows, nearest first, (n_queries, k).

    `blocks` are rows of raw features and which they are; `queries` have norm 1. Keys are those of
    `classify.heads.neighbours.keys_of`: all different, so that the same are found each time.
    """
    device = torch.device(at)
    with arithmetic(device):
        parts = tensor_of(queries).to(device).split(QUERIES)
        best = [torch.empty((len(part), 0), dtype=torch.int64, device=device) for part in parts]
        for where, rows in blocks:
            block = _unit(tensor_of(rows).to(device))
            places = torch.arange(where.start, where.stop, device=device)
            for i, part in enumerate(parts):
                keys = _keys(part @ block.T, places)
                best[i] = _smallest(torch.cat([best[i], _smallest(keys, k)], dim=1), k)
        return torch.cat([keys.sort(dim=1).values for keys in best]).cpu().numpy()


def _smallest(keys: torch.Tensor, k: int) -> torch.Tensor:
    return keys.topk(min(k, keys.shape[1]), dim=1, largest=False, sorted=False).values


def _keys(similarities: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    bits = (similarities + 0.0).view(torch.int32)
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return ((~ascending).to(torch.int64) << 32) | places


def _unit(block: torch.Tensor) -> torch.Tensor:
    block = block.double()
    largest = block.abs().amax(dim=1, keepdim=True)
    scaled = block / largest.masked_fill(largest == 0, 1.0)
    norm = (scaled * scaled).sum(dim=1, keepdim=True).sqrt()
    return (scaled / norm.masked_fill(norm == 0, 1.0)).float()
