"""A t-test that stays valid however often one looks: seeds can be added one at a time until there is a verdict.

From Wang & Ramdas (arXiv:2310.03722, the scale-invariant t-test martingale with a Gaussian mixture): for n values with sum S
and sum of squares V,

    E_n = √(c² / (n + c²)) · ((n + c²) V / ((n + c²) V - S²))^(n/2)

is a martingale with mean 1 from the first value on, if the values are normal with mean 0 and any variance. It averages the
likelihood ratios of the standardised mean, mean / sd, over a normal distribution with the spread 1 / c. By Ville's
inequality it reaches 1 / α, for any n, with a probability of at most α. So the means for which it stays below 1 / α form an
interval that holds for all n at once. In terms of Student's t, with ρ = c² / (n + c²),

    E_n = √ρ · ((n - 1 + t²) / (n - 1 + ρ t²))^(n/2)

A verdict is read from the interval of all values so far, and not from the intersection of all earlier intervals: that
could be empty, and it would depend on the order of the seeds.
"""

from __future__ import annotations

import math

PRECISION = 0.1
"""c². Standardised means of about 1 / c = 3 are expected. Chosen for 3 to 12 values at α = 0.05: larger values of c² find
small differences sooner, but then three values can never be significant (c² ≥ 3 / 19)."""


def e_value(n: int, t: float) -> float:
    """The evidence of n values with this Student's t against the mean that t was computed for; at most ρ^(-(n - 1) / 2)."""
    rho = PRECISION / (n + PRECISION)
    return math.sqrt(rho) * (rho + (1 - rho) * (n - 1) / (n - 1 + t * t)) ** (-n / 2)


def p_value(n: int, t: float) -> float:
    """The anytime-valid p-value: the smallest α at which the mean lies outside the interval."""
    return min(1.0, 1 / e_value(n, t))


def quantile(n: int, alpha: float) -> float:
    """The absolute value of t at which the evidence reaches 1 / alpha; infinite if it cannot with so few values."""
    rho = PRECISION / (n + PRECISION)
    share = ((alpha * math.sqrt(rho)) ** (2 / n) - rho) / (1 - rho)
    return math.sqrt((n - 1) * (1 / share - 1)) if share > 0 else math.inf
