"""Seconds of something that is done several times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Times in seconds, without those to warm up.

    Attributes:
        median: Of all.
        low: The shortest.
        high: The longest.
        n: How many there are.
    """

    median: float
    low: float
    high: float
    n: int

    def rates(self, amount: float) -> tuple[float, float, float]:
        """So much in these times, a second: the median, the lowest, the highest."""
        return amount / self.median, amount / self.high, amount / self.low

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Of at least one measurement."""
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def measure(
    work: Callable[[], object], *, repeats: int, warmup: int = 1, now: Callable[[], float] = time.perf_counter
) -> Timing:
    """Do `work` `warmup` times for nothing and `repeats` times by the clock `now`."""
    seconds = []
    for _ in range(warmup + repeats):
        start = now()
        work()
        seconds.append(now() - start)
    return Timing.of(seconds[warmup:])
