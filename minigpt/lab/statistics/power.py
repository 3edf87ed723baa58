"""What a number of seeds can find, and how many seeds would give a verdict. Differences are assumed to be normal.

Power counts the stretch of the interval: a normal sample is skewed by chance, to the side of the claim in half of the cases.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64
from scipy import special

from minigpt.lab.statistics.paired import ALPHA, POWER, Paired, critical
from minigpt.lab.statistics.robust import spread_of_skewness, stretch, usual_stretches

MOST = 10_000
"""Upper limit of suggested seeds."""
LIKELY = 0.5
_DRAWS = 2048


def power_of_difference(n: int, mean: float, sd: float, alpha: float = ALPHA) -> float:
    """Probability that n seeds detect a true mean difference, with a number of seeds that is fixed before (two-sided)."""
    if n < 2:
        return 0.0
    if sd == 0:
        return float(mean != 0)
    quantile, shift = critical(n, alpha), mean / sd * math.sqrt(n)
    ends = np.append(quantile * usual_stretches(n), np.full(len(usual_stretches(n)), quantile))
    return float(np.mean(_noncentral(n - 1, shift, -ends) + 1 - _noncentral(n - 1, shift, ends)))


def power_of_equivalence(n: int, mean: float, sd: float, delta: float, alpha: float = ALPHA) -> float:
    """Lower bound (Bonferroni) of the probability that the 1 - alpha interval of n seeds lies within delta."""
    if n < 2:
        return 0.0
    if sd == 0:
        return float(abs(mean) < delta)
    root, quantile = math.sqrt(n) / sd, critical(n, alpha)
    stretched = quantile * usual_stretches(n)
    unchanged = np.full_like(stretched, quantile)

    def share(below: Float64[np.ndarray, " number"], above: Float64[np.ndarray, " number"]) -> float:
        over_low = 1 - _noncentral(n - 1, (mean + delta) * root, below)
        return float(np.mean(np.maximum(0, over_low + _noncentral(n - 1, (mean - delta) * root, -above) - 1)))

    return (share(stretched, unchanged) + share(unchanged, stretched)) / 2


def level_of_last_look(n: int, alpha: float) -> float:
    """The alpha at which Student's interval is as wide as the interval that holds at each look, with n seeds.

    With it, the powers and `smallest_difference` describe the last of several looks. 0 if n seeds are too few.
    """
    return 2 * float(special.stdtr(n - 1, -critical(n, alpha, looking=True)))


def smallest_difference(n: int, sd: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true mean difference that n seeds detect with this probability; infinite for a single seed.

    Args:
        n: Number of seeds, fixed before.
        sd: Standard deviation of the differences.
        alpha: 0.05, divided by the number of variants that are judged together.
        power: The probability of a verdict.
    """
    if n < 2 or sd == 0:
        return math.inf if n < 2 else 0.0
    low, high = 0.0, sd
    while power_of_difference(n, high, sd, alpha) < power:
        low, high = high, 2 * high
    for _ in range(60):  # power grows with the difference
        middle = (low + high) / 2
        low, high = (low, middle) if power_of_difference(n, middle, sd, alpha) >= power else (middle, high)
    return high


def seeds_needed(seen: Paired, delta: float, alpha: float = ALPHA) -> tuple[int, int] | None:
    """With how many seeds, those seen included, a verdict is as likely as not, and with how many it comes 4 times in 5.

    A verdict is a difference or equivalence. The true mean and spread are not those seen: both are drawn from what the
    seeds so far leave open (see `chance_of_verdict`). None if more than 10,000 would be needed.
    """

    def smallest(share: float, enough: int) -> int:
        too_few = seen.n
        while enough - too_few > 1:  # the chance grows with the seeds, so bisection finds the smallest number
            middle = (too_few + enough) // 2
            is_enough = chance_of_verdict(seen, middle, delta, alpha) >= share
            too_few, enough = (too_few, middle) if is_enough else (middle, enough)
        return enough

    if seen.n >= MOST or chance_of_verdict(seen, MOST, delta, alpha) < POWER:
        return None
    safe = smallest(POWER, MOST)
    return smallest(LIKELY, safe), safe


def chance_of_verdict(seen: Paired, seeds: int, delta: float, alpha: float) -> float:
    """Probability of a verdict when seeds are added until there are this many, from continuations drawn at random.

    Each continuation draws the variance, the mean, and the new differences: sd² = (n - 1) sd_seen² / χ²(n - 1), and
    mean ~ N(mean_seen, sd² / n), which is the posterior with the prior 1 / sd² (Box & Tiao 1973, section 2.4).
    """
    n, new = seen.n, seeds - seen.n
    quantile = critical(seeds, alpha, looking=seen.looking)
    if quantile == math.inf or n < 2:
        return 0.0
    draw = np.random.default_rng(0)  # the same continuations for any number of seeds, as far as possible
    sd = seen.sd * np.sqrt((n - 1) / draw.chisquare(n - 1, _DRAWS))
    added = seen.mean + sd * math.sqrt(1 / n + 1 / new) * draw.normal(size=_DRAWS)  # the mean of the new differences
    skews = spread_of_skewness(seeds) * draw.normal(size=_DRAWS)
    within = sd**2 * draw.chisquare(new - 1, _DRAWS) if new > 1 else np.zeros(_DRAWS)
    squares = (n - 1) * seen.sd**2 + within + n * new / seeds * (added - seen.mean) ** 2
    half = quantile * np.sqrt(squares / (seeds - 1) / seeds)
    mean = (n * seen.mean + new * added) / seeds
    low, high = mean - half * stretch(seeds, -skews), mean + half * stretch(seeds, skews)
    return float(np.mean((low > 0) | (high < 0) | ((low > -delta) & (high < delta))))


def _noncentral(freedom: int, shift: float, values: Float64[np.ndarray, " number"]) -> Float64[np.ndarray, " number"]:
    """P(T <= value) for the noncentral t distribution; the normal distribution where scipy's series fails."""
    shares = special.nctdtr(freedom, shift, values)
    spread = np.sqrt(1 + values**2 / (2 * freedom))
    normal = special.ndtr((values * (1 - 1 / (4 * freedom)) - shift) / spread)
    return np.where(np.isfinite(shares), shares, normal)
