"""Paired differences over seeds: mean, spread, Student's interval and tests, and the power of these.

All variants are trained with the same seeds and the same data order, so they are compared seed by seed:
d = variant - base, in nats; below zero is better. Variation that both share for a seed cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import special

ALPHA = 0.05
POWER = 0.8
MOST = 10_000  # upper limit of suggested seeds


@dataclass(frozen=True)
class Paired:
    """Differences of one variant from the base, one per seed.

    Attributes:
        n: Number of seeds.
        mean: Mean of the differences.
        sd: Standard deviation of the differences, with n - 1; 0 for a single seed.
    """

    n: int
    mean: float
    sd: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> Paired:
        """From at least one difference, all finite."""
        n = len(differences)
        mean = math.fsum(differences) / n
        spread = math.fsum((difference - mean) ** 2 for difference in differences)
        return cls(n, mean, math.sqrt(spread / (n - 1)) if n > 1 else 0.0)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.sd / math.sqrt(self.n)

    @property
    def effect(self) -> float | None:
        """Cohen's d for paired samples: mean / standard deviation of the differences; None if that is 0."""
        return self.mean / self.sd if self.sd > 0 else None

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float]:
        """Student's confidence interval of the mean; without bounds for a single seed."""
        if self.n < 2:
            return -math.inf, math.inf
        half = self.error * float(special.stdtrit(self.n - 1, (1 + level) / 2))
        return self.mean - half, self.mean + half

    def p_different(self) -> float:
        """Student's paired t-test, two-sided, for a mean of zero; 1 for a single seed."""
        return 1.0 if self.n < 2 else 2 * self._below(-abs(self.mean))

    def p_equivalent(self, delta: float) -> float:
        """The smallest 1 - level at which the interval lies within delta; 1 for a single seed.

        Twice the larger p of two one-sided t-tests (Schuirmann 1987).
        """
        if self.n < 2:
            return 1.0
        return min(1.0, 2 * max(self._below(-(self.mean + delta)), self._below(self.mean - delta)))

    def _below(self, value: float) -> float:
        """P(T <= value / error), with n - 1 degrees of freedom."""
        if self.error == 0:  # a single seed, or no spread at all
            return 0.5 if value == 0 else float(value > 0)
        return float(special.stdtr(self.n - 1, value / self.error))


def power_of_difference(n: int, mean: float, sd: float, alpha: float = ALPHA) -> float:
    """Probability that n seeds detect a true mean difference, by the paired t-test (two-sided)."""
    if n < 2:
        return 0.0
    if sd == 0:
        return float(mean != 0)
    shift, critical = mean / sd * math.sqrt(n), float(special.stdtrit(n - 1, 1 - alpha / 2))
    return _noncentral(n - 1, shift, -critical) + 1 - _noncentral(n - 1, shift, critical)


def smallest_difference(n: int, sd: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true mean difference that n seeds detect with this probability; infinite for a single seed."""
    if n < 2 or sd == 0:
        return math.inf if n < 2 else 0.0
    low, high = 0.0, sd
    while power_of_difference(n, high, sd, alpha) < power:
        low, high = high, 2 * high
    for _ in range(60):  # power grows with the difference
        middle = (low + high) / 2
        low, high = (low, middle) if power_of_difference(n, middle, sd, alpha) >= power else (middle, high)
    return high


def power_of_equivalence(n: int, mean: float, sd: float, delta: float, alpha: float = ALPHA) -> float:
    """Lower bound (Bonferroni) of the probability that the 1 - alpha interval of n seeds lies within delta."""
    if n < 2:
        return 0.0
    if sd == 0:
        return float(abs(mean) < delta)
    critical, root = float(special.stdtrit(n - 1, 1 - alpha / 2)), math.sqrt(n) / sd
    above = 1 - _noncentral(n - 1, (mean + delta) * root, critical)
    below = _noncentral(n - 1, (mean - delta) * root, -critical)
    return max(0.0, above + below - 1)


def seeds_needed(seen: Paired, delta: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """How many seeds would give a verdict, a difference or equivalence.

    The true mean and spread are assumed to be those seen so far. None if more than 10,000 would be needed.
    """

    def is_enough(n: int) -> bool:
        difference = power_of_difference(n, seen.mean, seen.sd, alpha)
        return max(difference, power_of_equivalence(n, seen.mean, seen.sd, delta, alpha)) >= power

    if not is_enough(MOST):
        return None
    too_few, enough_seeds = seen.n, MOST  # power grows with the seeds, so bisection finds the smallest number
    while enough_seeds - too_few > 1:
        middle = (too_few + enough_seeds) // 2
        too_few, enough_seeds = (too_few, middle) if is_enough(middle) else (middle, enough_seeds)
    return enough_seeds


def _noncentral(freedom: int, shift: float, value: float) -> float:
    """P(T <= value) for the noncentral t distribution; the normal distribution where scipy's series fails."""
    share = float(special.nctdtr(freedom, shift, value))
    if math.isfinite(share):
        return share
    spread = math.sqrt(1 + value * value / (2 * freedom))
    return float(special.ndtr((value * (1 - 1 / (4 * freedom)) - shift) / spread))
