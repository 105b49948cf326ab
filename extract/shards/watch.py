"""How fast a run goes: the rate, the time it will take, the memory it needed."""

from __future__ import annotations

import time

from extract.model.names import FAST_MODEL

ESTIMATE_AFTER_SECONDS = 3.0
ESTIMATE_WORTH_SECONDS = 60.0
SLOW_SECONDS = 600.0
SLOW_BATCH_SECONDS = 20.0


class Watch:
    """Measures the rate, and says once, after the first batches, how long the run will take."""

    def __init__(self, total: int, done: int, device: str, model: str) -> None:
        self.computed = 0
        self.seconds = 0.0
        self._left = total - done
        self._device = device
        self._model = model
        self._steady: tuple[float, int] | None = None
        self._said = False
        self._start = time.perf_counter()

    def update(self, rows: int) -> list[str]:
        """Count a finished batch."""
        self._left -= rows
        self.computed += rows
        now = time.perf_counter()
        self.seconds = now - self._start
        if self._steady is None:
            self._steady = (now, self.computed)
            # The first batch also warms up; where it took long, that hardly counts.
            if self.seconds < SLOW_BATCH_SECONDS:
                return []
            self._said = True
            return self._estimate(rows / self.seconds)
        elapsed = now - self._steady[0]
        if self._said or elapsed < ESTIMATE_AFTER_SECONDS:
            return []
        self._said = True
        return self._estimate((self.computed - self._steady[1]) / elapsed)

    def _estimate(self, rate: float) -> list[str]:
        seconds = self._left / rate
        if seconds < ESTIMATE_WORTH_SECONDS:
            return []
        lines = [
            f"about {duration(seconds)} for the {self._left:,} images left, at {rate:.3g} images/s "
            f"on this {self._device.upper()}; Ctrl-C keeps what is done"
        ]
        if self._device == "cpu" and seconds > SLOW_SECONDS and "mobilenet" not in self._model:
            lines.append(
                "on a CPU a small network is many times faster, if somewhat less accurate: "
                f"--model {FAST_MODEL}"
            )
        return lines


def duration(seconds: float) -> str:
    """Write a time span as a person would say it: '40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
