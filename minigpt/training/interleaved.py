"""Time two kinds of work in turn until the ratio of their times is known to a given width.

Other processes slow down whatever is measured while they run. If two equal models are timed one after the other, their times
differ as much as the machine's load does. If they are timed in turn, the load slows both equally, and the ratio of each pair
of turns hardly changes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_FIRST_LOOK = 9  # pairs; fewer do not give an interval with the confidence that one look needs
_LOOKS = 10  # after 9, 18, 36, ... pairs
_ERROR = 0.05  # probability that the final interval is wrong, over all looks together
_LEAST_SECONDS_OF_TURN = 0.02  # a turn repeats shorter work


@dataclass(frozen=True)
class Ratio:
    """The time of the second kind of work divided by that of the first.

    Attributes:
        value: Median of the pairs' ratios.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        pairs: Number of timed pairs.
        first: Median seconds of the first kind.
        second: Median seconds of the second kind.
        variation: Interquartile range of the first kind's times divided by their median: how much equal work varied.
    """

    value: float
    low: float
    high: float
    pairs: int
    first: float
    second: float
    variation: float

    @property
    def width(self) -> float:
        """Relative distance from the ratio to the further end of the interval."""
        return max(self.high / self.value, self.value / self.low) - 1

    def __str__(self) -> str:
        """`1.040 ± 0.020`."""
        return f"{self.value:.3f} ± {max(self.high - self.value, self.value - self.low):.3f}"


def measure_ratio(
    first: Callable[[], float],
    second: Callable[[], float],
    *,
    width: float,
    at_most: float,
    now: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Time both in turn until the ratio is known to `width` with 95 % confidence, or the time is over.

    The interval of the median comes from order statistics of the pairs' ratios, so it assumes no distribution of the noise.
    It is computed after 9, 18, 36, ... pairs, at most ten times. Each computation gets a tenth of the error probability, so
    stopping as soon as the interval is narrow enough keeps the confidence.

    Args:
        first: Does the work once and returns the seconds it took.
        second: Same for the second kind.
        width: Measuring stops when `Ratio.width` is this small.
        at_most: Seconds after which measuring stops, but not before nine pairs.
        now: A clock, in seconds.

    Returns:
        The ratio. If the time was over first, its width is larger than requested.
    """
    pairs: list[tuple[float, float]] = []
    for _ in range(2):  # to warm up
        first()
        second()
    began, look_at = now(), _FIRST_LOOK
    while True:
        # The order alternates, so a steady drift of the machine's speed affects both kinds equally.
        if len(pairs) % 2:
            second_seconds = _mean_seconds(second)
            pairs.append((_mean_seconds(first), second_seconds))
        else:
            pairs.append((_mean_seconds(first), _mean_seconds(second)))
        is_over = now() - began >= at_most and len(pairs) >= _FIRST_LOOK
        if len(pairs) == look_at or is_over:
            ratio = _ratio(pairs)
            if ratio.width <= width or is_over or look_at >= _FIRST_LOOK * 2 ** (_LOOKS - 1):
                return ratio
            look_at *= 2


def median_interval(values: Sequence[float], error: float = _ERROR) -> tuple[float, float]:
    """An interval that holds the median of the values' distribution with probability 1 - `error`.

    Its ends are two of the values: the smallest and the largest if there are too few for this confidence.
    """
    ordered, n = sorted(values), len(values)
    # Each value lies below or above the median: 2^n equally likely cases. In `allowed` of them the median may lie below the
    # interval. `outside` counts the cases with fewer than `rank` values below the median, `ways` those with exactly `rank`.
    allowed = 2**n * round(error * 1e6) // 2_000_000
    outside, ways, rank = 0, 1, 0
    while rank < n // 2 and outside + ways <= allowed:
        outside += ways
        ways = ways * (n - rank) // (rank + 1)
        rank += 1
    rank = max(1, rank)
    return ordered[rank - 1], ordered[n - rank]


def _mean_seconds(work: Callable[[], float]) -> float:
    """Mean seconds of the work in one turn, which repeats short work."""
    total, times = 0.0, 0
    while total < _LEAST_SECONDS_OF_TURN:
        total += work()
        times += 1
    return total / times


def _ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    ratios = [second / first for first, second in pairs]
    low, high = median_interval(ratios, _ERROR / _LOOKS)
    times = [first for first, _ in pairs]
    quarter, middle, three_quarters = statistics.quantiles(times, n=4)
    return Ratio(
        value=math.exp(statistics.median(map(math.log, ratios))),  # so that the ratio of B to A is 1 / the ratio of A to B
        low=low,
        high=high,
        pairs=len(pairs),
        first=middle,
        second=statistics.median(second for _, second in pairs),
        variation=(three_quarters - quarter) / middle,
    )
