"""Something measured several times: its median, and its range."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A measured number.

    Attributes:
        median: Of all measurements.
        low: The smallest, or the lower quartile.
        high: The largest, or the upper quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """From the smallest to the largest; None of nothing."""
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def shown(self, form: Callable[[float], str]) -> str:
        """`45 s (41 s to 52 s)`; the median alone where the ends look like it."""
        median, low, high = form(self.median), form(self.low), form(self.high)
        return median if low == median == high else f"{median} ({low} to {high})"


def speed_spread(speeds: Sequence[float], quartiles: Sequence[tuple[float, float]]) -> Spread | None:
    """Of tokens/s: the median over runs, and from the lowest quartile over their updates to the highest."""
    bounds = [bound for pair in quartiles for bound in pair]
    return Spread(statistics.median(speeds), min(bounds), max(bounds)) if speeds and bounds else None
