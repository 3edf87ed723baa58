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

from minigpt.errors import count
from minigpt.lab.statistics.paired import ALPHA, Paired
from minigpt.lab.statistics.power import seeds_needed
from minigpt.lab.statistics.robust import outliers, usual_skewness

Kind = Literal["better", "worse", "equivalent", "cannot tell", "no verdict"]

FEWEST = 3
"""Number of seeds below which there is no verdict."""

_RARE = 0.1
"""A sample is called skewed if a normal one is so skewed less often than this."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one variant.

    Attributes:
        kind: `better` or `worse` if the interval lies on one side of 0, `equivalent` if it contains 0 and lies within
            delta, else `cannot tell`; `no verdict` with fewer than 3 seeds.
        paired: The differences.
        interval: All variants' intervals hold together in 95 % of comparisons; without bounds with fewer than 3 seeds, and
            if too few seeds are seen for an interval that holds however often one looks.
        p: p-value of no difference, corrected for the family: below 0.05 exactly if 0 is outside the interval.
        p_equivalent: p-value of a difference of delta or more, corrected too: below 0.05 exactly if the interval lies
            within delta.
        delta: Differences smaller than this count as equivalent.
        family: Number of variants that are judged together, for the correction.
        outliers: Indices of the seeds whose differences lie far from the others.
        caution: Why the sample resembles those that give false verdicts, as a sentence without a full stop; empty if it
            does not.
    """

    kind: Kind
    paired: Paired
    interval: tuple[float, float]
    p: float
    p_equivalent: float
    delta: float
    family: int = 1
    outliers: tuple[int, ...] = ()
    caution: str = ""

    @property
    def plain_interval(self) -> tuple[float, float]:
        """95 % confidence interval for this variant without the correction for other variants."""
        return self.paired.interval()

    @property
    def seeds(self) -> tuple[int, int] | None:
        """With how many seeds a verdict is as likely as not, and with how many it comes 4 times in 5.

        None if more than 10,000 would be needed.
        """
        return seeds_needed(self.paired, self.delta, ALPHA / self.family)


def verdicts(
    variants: Sequence[Sequence[float]], delta: float, *, looking: bool = False, family: int | None = None
) -> list[Verdict]:
    """A verdict on each variant, from its differences to the base, one per seed.

    Args:
        variants: Differences, at least one each, in nats (or in bits per byte, like `delta`).
        delta: Differences smaller than this do not matter; above 0.
        looking: Whether seeds are added until there is a verdict. Then the numbers of differences may differ, and each
            interval holds for all numbers of seeds at once.
        family: Number of variants that are judged together; None for those given.
    """
    family = len(variants) if family is None else family
    return [_verdict(differences, delta, family, looking) for differences in variants]


def _verdict(differences: Sequence[float], delta: float, family: int, looking: bool) -> Verdict:
    seen = Paired.of(differences, looking=looking)
    if seen.n < FEWEST:
        return Verdict("no verdict", seen, (-math.inf, math.inf), 1.0, 1.0, delta, family)
    low, high = seen.interval(1 - ALPHA / family)
    differs, is_within = high < 0 or low > 0, -delta < low and high < delta
    kind: Kind = "equivalent" if is_within else "cannot tell"
    if differs:
        kind = "better" if high < 0 else "worse"
    p = _agreeing(family * seen.p_different(), differs)
    p_equivalent = _agreeing(family * seen.p_equivalent(delta), is_within)
    far = outliers(differences, ALPHA)
    return Verdict(kind, seen, (low, high), p, p_equivalent, delta, family, far, _caution(seen, len(far)))


def _caution(seen: Paired, far: int) -> str:
    if far:
        lies = f"{count(far, 'difference')} of {seen.n} {'lie' if far > 1 else 'lies'} far from the others"
        return f"{lies}: only more seeds can show how often that happens, and the mean depends on it"
    if abs(seen.skew) > usual_skewness(seen.n, _RARE):
        side = "above" if seen.skew > 0 else "below"
        return f"the differences are skewed: rare seeds may lie far {side} those seen, and then the mean does too"
    return ""


def _agreeing(p: float, is_below: bool) -> float:
    """The p-value, kept on the interval's side of 0.05.

    Quantiles and probabilities may differ in the last digit.
    """
    return min(p, math.nextafter(ALPHA, 0)) if is_below else min(1.0, max(p, ALPHA))
