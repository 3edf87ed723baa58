"""Two kinds of work timed in turn until the ratio of their times is known to a stated width.

What else runs on a machine slows down whatever is measured while it runs. Timed one after another, two equal models differ
by as much as the machine's load did in between; timed in turn, both are slowed down alike, and the ratio of each pair of
turns hardly changes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_FIRST_LOOK = 9  # pairs: the fewest that the interval of a look can be had from
_LOOKS = 10  # after 9, 18, 36, ... pairs
_ERROR = 0.05  # of the interval, whenever it is that measuring stops
_TURN = 0.02  # seconds that a turn takes at least: short work is repeated in it


@dataclass(frozen=True)
class Ratio:
    """How long the second kind of work takes, the first being 1.

    Attributes:
        value: Median of the pairs' ratios.
        low: Lower end of its 95 % interval.
        high: Upper end.
        pairs: How many were timed.
        first: Median seconds of the first kind.
        second: Of the second.
        variation: How far apart the quartiles of the first kind's times are, in medians: what equal work varied by.
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
        """How far an end of the interval is from the ratio, as a part of it: the larger of both."""
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

    The interval is that of a median by the order of the pairs' ratios: nothing is assumed of how the noise is distributed.
    It is looked at after 9, 18, 36, ... pairs, ten times at most, and each look has a tenth of the error; so to stop where
    it is narrow enough does not make it wrong more often.

    Args:
        first: Does the work once and returns the seconds it took.
        second: Likewise.
        width: What `Ratio.width` is to be.
        at_most: Seconds after which measuring ends, nine pairs being done.
        now: A clock.

    Returns:
        The ratio, whose width may be larger than asked for where the time was over.
    """
    pairs: list[tuple[float, float]] = []
    for _ in range(2):  # to warm up
        first()
        second()
    began, look_at = now(), _FIRST_LOOK
    while True:
        # Whatever grows or shrinks steadily meets both kinds equally: each one is first in every other pair.
        if len(pairs) % 2:
            after = _turn(second)
            pairs.append((_turn(first), after))
        else:
            pairs.append((_turn(first), _turn(second)))
        is_over = now() - began >= at_most and len(pairs) >= _FIRST_LOOK
        if len(pairs) == look_at or is_over:
            ratio = _ratio(pairs)
            if ratio.width <= width or is_over or look_at >= _FIRST_LOOK * 2 ** (_LOOKS - 1):
                return ratio
            look_at *= 2


def median_interval(values: Sequence[float], error: float = _ERROR) -> tuple[float, float]:
    """An interval that holds the median of what the values were drawn from, but for `error`: from one of them to another.

    The smallest and the largest where there are too few for any such interval.
    """
    ordered, n = sorted(values), len(values)
    allowed = 2**n * round(error * 1e6) // 2_000_000  # ways for n values to lie so that the median is below the interval
    outside, ways, rank = 0, 1, 0  # in which fewer than `rank` of them lie below it, and in which just `rank` do
    while rank < n // 2 and outside + ways <= allowed:
        outside += ways
        ways = ways * (n - rank) // (rank + 1)
        rank += 1
    rank = max(1, rank)
    return ordered[rank - 1], ordered[n - rank]


def _turn(work: Callable[[], float]) -> float:
    """Seconds of the work, the mean over a turn."""
    total, times = 0.0, 0
    while total < _TURN:
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
