"""What paired differences over seeds allow to be said.

Every arm was trained with the same seeds and the same data order, so arms are compared seed by seed: d = variant - base, in
nats, and below zero is better. What varies from seed to seed alike in both cancels out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import special

Kind = Literal["better", "worse", "equivalent", "cannot tell", "no verdict"]

ALPHA = 0.05
POWER = 0.8
FEWEST = 3
MOST = 10_000  # seeds: nobody trains more


@dataclass(frozen=True)
class Paired:
    """Differences of one variant from the base, one a seed.

    Attributes:
        n: Seeds.
        mean: Of the differences.
        sd: Their standard deviation, with n - 1; 0 for a single seed.
    """

    n: int
    mean: float
    sd: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> Paired:
        """Of at least one difference, all finite."""
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
        """Cohen's d for paired samples: the mean in standard deviations of the differences. None where they do not vary."""
        return self.mean / self.sd if self.sd > 0 else None

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float]:
        """Student's confidence interval of the mean; without bounds for a single seed."""
        if self.n < 2:
            return -math.inf, math.inf
        half = self.error * float(special.stdtrit(self.n - 1, (1 + level) / 2))
        return self.mean - half, self.mean + half

    def p_different(self) -> float:
        """Student's paired t-test, two-sided, of a mean of zero; 1 for a single seed."""
        return 1.0 if self.n < 2 else 2 * self._below(-abs(self.mean))

    def p_equivalent(self, delta: float) -> float:
        """Two one-sided t-tests (Schuirmann 1987) of a mean at -delta or below, or at +delta or above: the larger p.

        1 for a single seed.
        """
        if self.n < 2:
            return 1.0
        return max(self._below(-(self.mean + delta)), self._below(self.mean - delta))

    def _below(self, value: float) -> float:
        """P(T <= value / error), with n - 1 degrees of freedom."""
        if self.error == 0:  # a single seed, or no spread at all
            return 0.5 if value == 0 else float(value > 0)
        return float(special.stdtr(self.n - 1, value / self.error))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): all below 0.05 hold together with an error of 5 % at most."""
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected


def power_of_difference(n: int, mean: float, sd: float, alpha: float = ALPHA) -> float:
    """How often n seeds find a true mean difference, by the paired t-test (two-sided)."""
    if n < 2:
        return 0.0
    if sd == 0:
        return float(mean != 0)
    shift, critical = mean / sd * math.sqrt(n), float(special.stdtrit(n - 1, 1 - alpha / 2))
    return _noncentral(n - 1, shift, -critical) + 1 - _noncentral(n - 1, shift, critical)


def power_of_equivalence(n: int, mean: float, sd: float, delta: float, alpha: float = ALPHA) -> float:
    """How often n seeds show a true mean difference to be within delta: at least this often, by Bonferroni's bound."""
    if n < 2:
        return 0.0
    if sd == 0:
        return float(abs(mean) < delta)
    critical, root = float(special.stdtrit(n - 1, 1 - alpha)), math.sqrt(n) / sd
    above = 1 - _noncentral(n - 1, (mean + delta) * root, critical)
    below = _noncentral(n - 1, (mean - delta) * root, -critical)
    return max(0.0, above + below - 1)


def seeds_needed(seen: Paired, delta: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """How many seeds would tell, were the true mean and spread those seen: either a difference, or that it is within delta.

    None where more than 10,000 would be needed.
    """

    def enough(n: int) -> bool:
        difference = power_of_difference(n, seen.mean, seen.sd, alpha)
        return max(difference, power_of_equivalence(n, seen.mean, seen.sd, delta, alpha)) >= power

    if not enough(MOST):
        return None
    few, many = seen.n, MOST  # power grows with the seeds, so the smallest number lies between
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def _noncentral(freedom: int, shift: float, value: float) -> float:
    """P(T <= value) for the noncentral t distribution; the normal one where scipy's series gives out."""
    share = float(special.nctdtr(freedom, shift, value))
    if math.isfinite(share):
        return share
    spread = math.sqrt(1 + value * value / (2 * freedom))
    return float(special.ndtr((value * (1 - 1 / (4 * freedom)) - shift) / spread))


@dataclass(frozen=True)
class Verdict:
    """What can be said of one variant.

    Attributes:
        kind: `better` or `worse` (the corrected p of the difference is below 0.05), `equivalent` (the corrected p of a
            difference of delta or more is), `cannot tell`, or `no verdict` with fewer than 3 seeds.
        paired: The differences.
        interval: 95 % confidence, of this variant by itself.
        p: Of no difference, corrected for the number of variants.
        p_equivalent: Of a difference of delta or more, likewise.
        delta: What counts as equivalent.
        variants: How many there are, for the correction.
    """

    kind: Kind
    paired: Paired
    interval: tuple[float, float]
    p: float
    p_equivalent: float
    delta: float
    variants: int = 1

    @property
    def seeds(self) -> int | None:
        """About how many seeds would tell, if the spread stays as it is; None where more than 10,000 would be needed."""
        return seeds_needed(self.paired, self.delta, ALPHA / self.variants)


def verdicts(variants: Sequence[Sequence[float]], delta: float) -> list[Verdict]:
    """A verdict on each variant, from its differences to the base, one a seed.

    Args:
        variants: Differences, at least one each, in nats (or in bits per byte, as `delta` is).
        delta: Differences smaller than this do not matter; above 0.
    """
    seen = [Paired.of(differences) for differences in variants]
    ps = holm([paired.p_different() for paired in seen])
    equivalent = holm([paired.p_equivalent(delta) for paired in seen])
    return [_verdict(*each, delta, len(seen)) for each in zip(seen, ps, equivalent, strict=True)]


def _verdict(seen: Paired, p: float, p_equivalent: float, delta: float, variants: int) -> Verdict:
    kind: Kind = "cannot tell"
    if seen.n < FEWEST:
        kind = "no verdict"
    elif p < ALPHA:
        kind = "better" if seen.mean < 0 else "worse"
    elif p_equivalent < ALPHA:
        kind = "equivalent"
    return Verdict(kind, seen, seen.interval(), p, p_equivalent, delta, variants)
