"""Student's interval, made wider on the side to which the sample's tail points.

With skewed differences Student's t-test says "different" too often, and almost always in the same way: the seeds lie close
together, and the true mean lies beyond them on the side of the long tail, where no seed happened to fall, or few. So each
half of the interval gets its own factor. It is 1 on the side of the short tail, and on the other side

    1 + skewness² · min(1, 10 / n)

The interval contains Student's. So wherever Student's test keeps its error, in normal, heavy-tailed and heteroscedastic
differences, this one does. The factor does not depend on the level, so intervals are nested, and a p-value follows from
Student's distribution at t / factor.

What is tested is the mean, because the mean loss over seeds is what a variant costs. No interval keeps its error for the
mean of every shape (Bahadur & Savage 1956): with n seeds, a value that occurs once in 10 n seeds is rarely seen, and can
move the mean anywhere. A test of the median would need no shape, but with fewer than six seeds it can never be significant
at 5 % (all n seeds agree by chance in 2 of 2^n cases).

The first-order correction of Student's quantile q for skewness is skewness · (2 q² + 1) / (6 √n) (Johnson 1978, Hall 1992).
It is too small for a few seeds, because a small sample seldom contains its tail. The square, and 10, were chosen by
simulation (benchmarks/verdicts.py): they halve the false verdicts of ten seeds, and lose at most 15 % of the power that
Student's test has at 80 %. With many seeds the factor approaches 1 faster than the correction does, and the interval
becomes Student's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float64
from scipy import special

_Number = TypeVar("_Number", float, Float64[np.ndarray, " number"])

_FULL = 10
"""Up to this number of seeds the squared skewness counts in full."""


def skewness(deviations: Sequence[float]) -> float:
    """The third standardised moment of deviations from their mean; 0 without spread.

    Its absolute value is at most (n - 2) / √(n - 1).
    """
    largest = max(map(abs, deviations))
    if largest == 0:
        return 0.0
    scaled = [deviation / largest for deviation in deviations]  # cubes of tiny numbers would be 0
    second = math.fsum(value**2 for value in scaled) / len(scaled)
    return math.fsum(value**3 for value in scaled) / len(scaled) / second**1.5


def stretch(n: int, skew: _Number) -> _Number:
    """The factor of the half-width on the side to which a positive skewness points."""
    return 1 + min(1, _FULL / n) * ((skew + abs(skew)) / 2) ** 2


def outliers(differences: Sequence[float], alpha: float) -> tuple[int, ...]:
    """The indices of values that lie far from the others: the generalised ESD test (Rosner 1983).

    The value that is furthest from the mean of the others is removed, up to a third of the values one after another. Each
    is compared with the rest by Student's t of a new value (Grubbs 1950). All removed values up to the last significant
    one are outliers, so that two outliers cannot hide each other. In normal samples, about a share of alpha has any.
    """
    left, removed, found = list(range(len(differences))), [], 0
    for _ in range(len(differences) // 3):
        values = [differences[index] for index in left]
        mean = math.fsum(values) / len(values)
        furthest = max(left, key=lambda index: abs(differences[index] - mean))
        left.remove(furthest)
        removed.append(furthest)
        if _p_of_new_value([differences[index] for index in left], differences[furthest]) * len(values) < alpha:
            found = len(removed)
    return tuple(sorted(removed[:found]))


def _p_of_new_value(values: Sequence[float], new: float) -> float:
    """Two-sided p-value that a new value has the same normal distribution as these."""
    n, mean = len(values), math.fsum(values) / len(values)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) * (1 + 1 / n))
    if error == 0:
        return float(new == mean)
    return 2 * float(special.stdtr(n - 1, -abs(new - mean) / error))


def spread_of_skewness(n: int) -> float:
    """The standard deviation of the skewness of n normal values (Fisher 1930)."""
    return math.sqrt(6 * (n - 2) / ((n + 1) * (n + 3)))


def usual_skewness(n: int, rare: float) -> float:
    """The absolute skewness that a share `rare` of normal samples exceeds.

    From a symmetric beta distribution with the exact bounds and variance. It is exact for three values.
    """
    most = (n - 2) / math.sqrt(n - 1)
    shape = (most**2 / spread_of_skewness(n) ** 2 - 1) / 2
    return most * (2 * float(special.betaincinv(shape, shape, 1 - rare / 2)) - 1)


def usual_stretches(n: int, number: int = 16) -> Float64[np.ndarray, " number"]:
    """Equally likely factors of a stretched side in normal samples; the other side's factor is 1 in each of them."""
    if n < 3:
        return np.ones(number)
    return np.array([stretch(n, usual_skewness(n, (place + 0.5) / number)) for place in range(number)])
