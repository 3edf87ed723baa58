"""The verdict on a variant, from its paired differences.

All verdicts of a comparison follow from one set of intervals, each at level 1 - 0.05 / variants (Bonferroni): all intervals
hold together in at least 95 % of comparisons, even if variants are correlated. So verdict, interval and p-value cannot
contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from minigpt.lab.statistics.paired import ALPHA, Paired, seeds_needed

Kind = Literal["better", "worse", "equivalent", "cannot tell", "no verdict"]

FEWEST = 3
"""Number of seeds below which there is no verdict."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one variant.

    Attributes:
        kind: `better` or `worse` if the interval lies on one side of 0, `equivalent` if it contains 0 and lies within
            delta, else `cannot tell`; `no verdict` with fewer than 3 seeds.
        paired: The differences.
        interval: All variants' intervals hold together in 95 % of comparisons; without bounds with fewer than 3 seeds.
        p: p-value of no difference, corrected for the family: below 0.05 exactly if 0 is outside the interval.
        p_equivalent: p-value of a difference of delta or more, corrected too: below 0.05 exactly if the interval lies
            within delta.
        delta: Differences smaller than this count as equivalent.
        family: Number of variants that are judged together, for the correction.
    """

    kind: Kind
    paired: Paired
    interval: tuple[float, float]
    p: float
    p_equivalent: float
    delta: float
    family: int = 1

    @property
    def plain_interval(self) -> tuple[float, float]:
        """95 % confidence interval for this variant without the correction for other variants."""
        return self.paired.interval()

    @property
    def seeds(self) -> int | None:
        """About how many seeds would give a verdict with the same spread; None if more than 10,000."""
        return seeds_needed(self.paired, self.delta, ALPHA / self.family)


def verdicts(variants: Sequence[Sequence[float]], delta: float, *, family: int | None = None) -> list[Verdict]:
    """A verdict on each variant, from its differences to the base, one per seed.

    Args:
        variants: Differences, at least one each, in nats (or in bits per byte, like `delta`).
        delta: Differences smaller than this do not matter; above 0.
        family: Number of variants that are judged together; None for these.
    """
    number = len(variants) if family is None else family
    return [_verdict(Paired.of(differences), delta, number) for differences in variants]


def _verdict(seen: Paired, delta: float, family: int) -> Verdict:
    if seen.n < FEWEST:
        return Verdict("no verdict", seen, (-math.inf, math.inf), 1.0, 1.0, delta, family)
    low, high = seen.interval(1 - ALPHA / family)
    differs, is_within = high < 0 or low > 0, -delta < low and high < delta
    kind: Kind = "equivalent" if is_within else "cannot tell"
    if differs:
        kind = "better" if high < 0 else "worse"
    p = _agreeing(family * seen.p_different(), differs)
    p_equivalent = _agreeing(family * seen.p_equivalent(delta), is_within)
    return Verdict(kind, seen, (low, high), p, p_equivalent, delta, family)


def _agreeing(p: float, is_below: bool) -> float:
    """The p-value, kept on the interval's side of 0.05.

    scipy's quantiles and probabilities may differ in the last digit.
    """
    return min(p, math.nextafter(ALPHA, 0)) if is_below else min(1.0, max(p, ALPHA))
