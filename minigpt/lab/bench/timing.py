"""Time a piece of work several times: median and range."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Measured times in seconds, without the warm-up.

    Attributes:
        median: The median.
        low: The shortest time.
        high: The longest time.
        n: Number of measurements.
    """

    median: float
    low: float
    high: float
    n: int

    def rates(self, amount: float) -> tuple[float, float, float]:
        """The amount per second: the median, the lowest and the highest rate."""
        return amount / self.median, amount / self.high, amount / self.low

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Summarize at least one measurement."""
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def measure(
    work: Callable[[], object], *, repeats: int, warmup: int = 1, now: Callable[[], float] = time.perf_counter
) -> Timing:
    """Do `work` `warmup` times without timing it, then time it `repeats` times with the clock `now`."""
    seconds = []
    for _ in range(warmup + repeats):
        start = now()
        work()
        seconds.append(now() - start)
    return Timing.of(seconds[warmup:])
