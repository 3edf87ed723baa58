"""Paired differences over seeds: mean, spread, interval and tests, and the power of these.

All variants are trained with the same seeds and the same data order, so they are compared seed by seed:
d = variant - base, in nats; below zero is better. Variation that both share for a seed cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

from minigpt.lab.statistics import robust, sequential

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Paired:
    """Differences of one variant from the base, one per seed.

    Attributes:
        n: Number of seeds.
        mean: Mean of the differences.
        sd: Standard deviation of the differences, with n - 1; 0 for a single seed.
        skew: Skewness of the differences; above 0 if the long tail is above the mean.
        looking: Whether seeds were added one at a time, with a look after each. Then intervals and p-values hold for all
            numbers of seeds at once.
    """

    n: int
    mean: float
    sd: float
    skew: float = 0.0
    looking: bool = False

    @classmethod
    def of(cls, differences: Sequence[float], *, looking: bool = False) -> Paired:
        """From at least one difference, all finite."""
        n, first = len(differences), differences[0]
        beyond = [difference - first for difference in differences]  # exactly 0 if all differences are equal
        mean = math.fsum(beyond) / n
        deviations = [difference - mean for difference in beyond]
        spread = math.fsum(deviation**2 for deviation in deviations)
        sd = math.sqrt(spread / (n - 1)) if n > 1 else 0.0
        return cls(n, first + mean, sd, robust.skewness(deviations) if n > 2 else 0.0, looking)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.sd / math.sqrt(self.n)

    @property
    def effect(self) -> float | None:
        """Cohen's d for paired samples: mean / standard deviation of the differences; None if that is 0."""
        return self.mean / self.sd if self.sd > 0 else None

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float]:
        """The confidence interval of the mean, wider on the side of the long tail; without bounds for a single seed."""
        quantile = critical(self.n, 1 - level, looking=self.looking)
        if quantile == math.inf:
            return -math.inf, math.inf
        below, above = robust.stretch(self.n, -self.skew), robust.stretch(self.n, self.skew)
        return self.mean - quantile * below * self.error, self.mean + quantile * above * self.error

    def p_different(self) -> float:
        """The smallest 1 - level at which the interval does not contain 0; 1 for a single seed."""
        return self._p_beyond(abs(self.mean), self.skew if self.mean < 0 else -self.skew)

    def p_equivalent(self, delta: float) -> float:
        """The smallest 1 - level at which the interval lies within delta; 1 for a single seed.

        The larger p of the tests at both ends, as in two one-sided t-tests (Schuirmann 1987).
        """
        return max(self._p_beyond(self.mean + delta, -self.skew), self._p_beyond(delta - self.mean, self.skew))

    def _p_beyond(self, distance: float, skew: float) -> float:
        """The smallest 1 - level at which an end of the interval is closer to the mean than this distance."""
        if self.n < 2 or distance <= 0:
            return 1.0
        width = robust.stretch(self.n, skew) * self.error
        t = distance / width if width > 0 else math.inf
        return sequential.p_value(self.n, t) if self.looking else 2 * float(special.stdtr(self.n - 1, -t))


def critical(n: int, alpha: float, *, looking: bool = False) -> float:
    """Half the width of the interval without stretch, in standard errors; infinite if there are too few seeds."""
    if n < 2:
        return math.inf
    return sequential.quantile(n, alpha) if looking else float(special.stdtrit(n - 1, 1 - alpha / 2))
