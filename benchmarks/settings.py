"""What the parts are told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rows import Rows, from_store, made
from benchmarks.search import LADDER

NETWORKS = (
    "mobilenetv2_100",
    "resnet50",
    "resnet50-bf16",
    "convnext_tiny",
    "vit_small_patch16_224",
)
STRATEGIES = ("multinomial", "ovr", "ovo")


@dataclass(frozen=True)
class Settings:
    """Options of ``python -m benchmarks``.

    Attributes
    ----------
    stores : tuple of Path
        Feature stores; none stands for made data.
    C : tuple of float
        Weights of the losses.
    repeats : int
        Paired runs.
    peers : tuple of str
        Keys of `benchmarks.peers.PEERS`.
    strategies : tuple of str
        Which heads.
    peer_tol, peer_limit : float
        Where the search for a peer's tolerance starts; seconds that one of its fits may take.
    points : tuple of float
        The values of C at which ``path`` times scikit-learn.
    pairs : int
        Pairs of classes that ``hundred`` times scikit-learn on.
    classes : int
        Classes that ``hundred`` makes.
    made_shape : tuple of int
        Rows, columns and classes of made data.
    slope_rows, slope_columns, slope_width : tuple of int
        What ``slopes`` goes through; the middle one of each is the base.
    coupling_rows : int
        Rows of ``coupling``.
    networks : tuple of str
        Keys of `benchmarks.engines.CASES`.
    growth_images : tuple of int
        Images that ``growth`` goes through.
    table_rows : int
        Rows of the tables that ``tables`` reads.
    scaling_images, scaling_rows : tuple of int
        The three sizes at which ``scaling`` checks its model of either stage.
    paired_draws : int
        Families of tests that ``paired-tests`` simulates for each case.
    few_cases : tuple of (int, int)
        Classes, and rows of each, of ``few``.
    few_features : int
        Their width.
    closed_form_shape : tuple of int
        Rows, columns and classes of made data of ``closed-form``.
    closed_form_queries : int
        Rows that its ``knn`` answers.
    results : Path
        Where JSON files go.
    """

    stores: tuple[Path, ...] = ()
    C: tuple[float, ...] = (0.01,)
    repeats: int = 3
    peers: tuple[str, ...] = ("scikit-learn",)
    strategies: tuple[str, ...] = STRATEGIES
    peer_tol: float = 1e-5
    peer_limit: float = 600.0
    points: tuple[float, ...] = (1e-5, 1e-3, 1e-2, 1e-1)
    pairs: int = 60
    classes: int = 100
    made_shape: tuple[int, int, int] = (10_000, 512, 10)
    slope_rows: tuple[int, ...] = (5_000, 10_000, 20_000, 40_000, 80_000)
    slope_columns: tuple[int, ...] = (8, 16, 32, 64, 128)
    slope_width: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    coupling_rows: int = 10_000
    networks: tuple[str, ...] = NETWORKS
    growth_images: tuple[int, ...] = (10_000, 30_000, 60_000)
    table_rows: int = 1_000_000
    scaling_images: tuple[int, ...] = (3_000, 9_000, 18_000)
    scaling_rows: tuple[int, ...] = (20_000, 40_000, 80_000)
    paired_draws: int = 4_000
    few_cases: tuple[tuple[int, int], ...] = ((200, 3), (1000, 2))
    few_features: int = 1280
    closed_form_shape: tuple[int, int, int] = (50_000, 1280, 10)
    closed_form_queries: int = 10_000
    results: Path = field(default=Path(__file__).parent / "results")

    def data(self) -> Iterator[Rows]:
        """Give the rows of each store in turn, or made ones."""
        for store in self.stores:
            yield from_store(store)
        if not self.stores:
            yield made(*self.made_shape)

    def closed_form_data(self) -> Iterator[Rows]:
        """Give the rows of each store in turn, or those of ``closed-form``."""
        yield from self.data() if self.stores else iter([made(*self.closed_form_shape)])

    def record(self) -> dict[str, Any]:
        """Return what goes into the JSON files."""
        told = asdict(self)
        told["stores"] = [store.name for store in self.stores]
        del told["results"]
        return {**told, "ladder": list(LADDER)}
