"""How a run computes: the engine, the batch size, and what else decides last bits."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Plan:
    """What a run chose for itself: kept with its shards, so that a resumed run does the same.

    None of it is in the store's key, but all of it can change last bits.
    """

    batch_size: int  # rows in every forward pass
    engine: str  # what runs the network: one of `extract.options.ENGINES`
    device: str  # its name
    threads: int  # torch's threads on the CPU
    torch: str  # its version
    openvino: str | None = None  # its version, where it is the engine
    decoder: str | None = None  # of image files, and its version; None where none is decoded
    instead_of: str | None = None  # the engine that was asked for and failed
    # Digest of which rows a finished store gives, and of that store; None where none does
    taken: str | None = None
    # The features that the network gives side by side, as `features.choice.words_of` writes them;
    # empty where a store's own is alone. Fused with others, a product may end in other last bits
    features: str = ""
    shard_rows: int = 0  # rows of a shard, in whole batches; 0 until a run is cut into shards

    def halved(self) -> Plan:
        """Give the same plan with half the batch size, for a device that is short of memory."""
        half = self.batch_size // 2
        return replace(self, batch_size=half, shard_rows=whole_batches(self.shard_rows, half))


def whole_batches(rows: int, batch_size: int) -> int:
    """Round a number of rows down to full batches, at least one."""
    return max(rows // batch_size, 1) * batch_size
