"""The median and range of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median and range of repeated measurements of one number.

    Attributes:
        median: The median of all measurements.
        low: The smallest, or the lower quartile.
        high: The largest, or the upper quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The median, smallest and largest value; None without values."""
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def shown(self, form: Callable[[float], str]) -> str:
        """For example `45 s (41 s to 52 s)`; only the median if both ends look the same."""
        median, low, high = form(self.median), form(self.low), form(self.high)
        return median if low == median == high else f"{median} ({low} to {high})"


def speed_spread(speeds: Sequence[float], quartiles: Sequence[tuple[float, float]]) -> Spread | None:
    """The median tokens/s over runs, with the lowest and the highest quartile over their updates."""
    bounds = [bound for pair in quartiles for bound in pair]
    return Spread(statistics.median(speeds), min(bounds), max(bounds)) if speeds and bounds else None
