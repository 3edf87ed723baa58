"""Simulates comparisons: how often verdicts are false, and how much is found, by Student's interval and by minigpt's.

    python benchmarks/verdicts.py --grids 2000   # prints the page; fewer grids for a quick look
    python benchmarks/verdicts.py --write        # 20,000 grids, for docs/results/verdicts.md

The differences of all shapes have the mean 0 and the standard deviation 1, so that deltas and effects mean the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from scipy import special

from minigpt.lab.statistics import ALPHA, POWER, Paired, verdicts

PAGE = Path(__file__).parents[1] / "docs" / "results" / "verdicts.md"
NUMBERS = (3, 5, 10)
FIRST, LAST = 3, 12
EFFECTS = (1.0, 1.5, 2.0, 3.0)
DELTA = 2.0
KEPT = 0.85
"""The share of Student's power that has to be kept."""
PROMISES = ((0.0, 1.0), (0.3, 0.3), (0.6, 0.3), (1.0, 0.3), (1.5, 0.3))
"""Means and deltas, in standard deviations, that the range of seeds is tried with."""
PAGE_TEXT = """# How often verdicts are false

    python benchmarks/verdicts.py --write

Simulated paired differences, {grids} grids for each row, one variant, in %. All shapes have the standard deviation 1.
*heteroscedastic*: each seed has its own spread, between 0.2 and 2. *one wild seed in ten*: each seed lies, with a
probability of 0.1, ten standard deviations of the others away. *minigpt* is the interval that verdicts follow from:
Student's, made wider on the side of the long tail by the factor 1 + skewness² · min(1, 10 / n)
([measuring.md](../measuring.md#the-verdict)).

## A fixed number of seeds

*better/worse*: the true mean is 0, and the verdict says that it is not. *equivalent*: the true mean is +δ or -δ (the worse
of the two), and the verdict says that it lies within δ. δ is chosen so that Student's interval finds 80 % of normal
variants with the mean 0. *ratio*: minigpt's rate divided by Student's.

{false}

In the first three shapes both intervals keep their error. In the skewed shapes neither does. With ten seeds the false rates
of the exponential and the lognormal shape are less than half of Student's. With three and five seeds they fall by about
14 and 29 %, and with wild seeds by 13 to 18 %.

**Could another interval do better?** Not much. The next table has the least ratio that any interval could have if it were
made for this shape alone and kept 85 % of Student's power (where that is 80 %, normal differences). It was found by the
lemma of Neyman & Pearson from |t| and the skewness. With three seeds these two contain everything that does not depend on
the unit: a skewed sample of three seeds looks like a normal one. And of ten seeds, none is wild in 0.9^10 = 35 % of the
samples. Such a sample is exactly a normal one with another mean. An interval that finds that mean in normal samples must
find it here.

{least}

## Power

What is found where Student's interval finds 50, 80 and 95 %. *better/worse*: the true mean is not 0. *equivalent*: the true
mean is 0.

{power}

Of the differences that Student's interval finds in 80 %, 85 to 94 % are found. Equivalence loses more (a fifth in normal
samples, up to three tenths in the others), because it needs both ends of the interval, and one of them is always moved. A
smaller factor would lose less, but then ten skewed seeds would give more than half of Student's false verdicts.

## Looking after each seed, from 3 to 12

False verdicts at any of the ten looks. *Student at each look* is what happens if seeds are added to a fixed comparison
until there is a verdict. For *equivalent*, δ is {delta:g} standard deviations.

{false_looking}

The price is power: differences of one standard deviation need more seeds than a fixed number would.

{power_looking}

## The range of seeds that would be enough

Comparisons of n seeds that cannot tell are continued to both ends of the range that is shown ({few} each, normal
differences). A verdict should come in 50 % at the lower and in 80 % at the upper end. The range averages over the means and
spreads that the first seeds leave open. So it promises too much where the true mean is 0 or lies between 0 and δ, which
needs the most seeds of all, and too little where it is large.

{ranges}
"""
Values = Float64[np.ndarray, "grids n"]
Ends = Float64[np.ndarray, " grids"]


def normal(draw: np.random.Generator, grids: int, n: int) -> Values:
    return draw.normal(size=(grids, n))


def t3(draw: np.random.Generator, grids: int, n: int) -> Values:
    return draw.standard_t(3, (grids, n)) / math.sqrt(3)


def heteroscedastic(draw: np.random.Generator, grids: int, n: int) -> Values:
    spreads = draw.uniform(0.2, 2, (grids, n))
    return draw.normal(size=(grids, n)) * spreads / math.sqrt(1.8**2 / 12 + 1.1**2)


def exponential(draw: np.random.Generator, grids: int, n: int) -> Values:
    return draw.exponential(size=(grids, n)) - 1


def lognormal(draw: np.random.Generator, grids: int, n: int) -> Values:
    return (draw.lognormal(size=(grids, n)) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)


def wild(draw: np.random.Generator, grids: int, n: int) -> Values:
    """One seed in ten lies ten standard deviations of the others away."""
    return (draw.normal(size=(grids, n)) + 10 * (draw.random((grids, n)) < 0.1) - 1) / math.sqrt(10)


SHAPES: dict[str, Callable[[np.random.Generator, int, int], Values]] = {
    "normal": normal,
    "t3": t3,
    "heteroscedastic": heteroscedastic,
    "exponential": exponential,
    "lognormal": lognormal,
    "one wild seed in ten": wild,
}
SYMMETRIC = tuple(SHAPES)[:3]
SKEWED = tuple(SHAPES)[3:]


@dataclasses.dataclass(frozen=True)
class Intervals:
    """The 95 % intervals of many grids whose true mean is 0."""

    low: Ends
    high: Ends

    @classmethod
    def of(cls, values: Values, *, student: bool = False, looking: bool = False) -> Intervals:
        """Of each row; Student's intervals are those of samples without skewness."""
        seen = [Paired.of(row, looking=looking) for row in values.tolist()]
        ends = [(dataclasses.replace(each, skew=0.0) if student else each).interval() for each in seen]
        return cls(*np.array(ends).T)

    def differ(self, mean: float = 0.0) -> Bool[np.ndarray, " grids"]:
        """Whether the verdict would be better or worse with this true mean."""
        return (self.low + mean > 0) | (self.high + mean < 0)

    def equal(self, delta: float, mean: float = 0.0) -> Bool[np.ndarray, " grids"]:
        """Whether the interval lies within delta with this true mean."""
        return (self.low + mean > -delta) & (self.high + mean < delta)

    def shift(self, share: float) -> float:
        """The true mean that is found with this probability."""
        return float(np.quantile(-self.low, share))

    def delta(self, share: float) -> float:
        """The delta within which the true mean 0 is found to be equivalent with this probability."""
        return float(np.quantile(np.maximum(self.high, -self.low), share))

    def false_equivalence(self, delta: float) -> float:
        """How often a true mean of +delta or -delta, the worse of the two, is found equivalent."""
        return max(float(self.equal(delta, mean).mean()) for mean in (delta, -delta))


@dataclasses.dataclass(frozen=True)
class Cell:
    """One shape with one number of seeds."""

    shape: str
    n: int
    student: Intervals
    ours: Intervals


def cells(grids: int) -> list[Cell]:
    """All shapes with all numbers of seeds."""
    draw = np.random.default_rng(0)
    found = []
    for shape, sample in SHAPES.items():
        for n in NUMBERS:
            values = sample(draw, grids, n)
            found.append(Cell(shape, n, Intervals.of(values, student=True), Intervals.of(values)))
    return found


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [" | ".join(heads), " | ".join(["---", *["---:"] * (len(heads) - 1)]), *map(" | ".join, rows)]
    return "\n".join(f"| {line} |" for line in lines)


def false_verdicts(simulated: list[Cell]) -> str:
    """A row for each shape and number of seeds: false differences, and false equivalence."""
    deltas = {cell.n: cell.student.delta(POWER) for cell in simulated if cell.shape == "normal"}

    def rows() -> Iterator[Sequence[str]]:
        for cell in simulated:
            differ = [float(each.differ().mean()) for each in (cell.student, cell.ours)]
            equal = [each.false_equivalence(deltas[cell.n]) for each in (cell.student, cell.ours)]
            ratios = [f"{after / before:.2f}" if cell.shape in SKEWED else "" for before, after in (differ, equal)]
            yield cell.shape, str(cell.n), *map(percent, differ), ratios[0], *map(percent, equal), ratios[1]

    heads = ("shape", "seeds", "better/worse, Student", "minigpt", "ratio", "equivalent, Student", "minigpt", "ratio")
    return table(heads, rows())


def power(simulated: list[Cell]) -> str:
    """A row for each symmetric shape: what is found where Student's interval finds 50, 80 and 95 %."""

    def rows() -> Iterator[Sequence[str]]:
        for cell in simulated:
            if cell.shape in SYMMETRIC:
                shares = (0.5, POWER, 0.95)
                found = [float((cell.ours.low + cell.student.shift(share) > 0).mean()) for share in shares]
                equal = [float(cell.ours.equal(cell.student.delta(share)).mean()) for share in shares]
                yield cell.shape, str(cell.n), *map(percent, found), *map(percent, equal)

    heads = ("shape", "seeds", *(f"{what} {share}" for what in ("better/worse", "equivalent") for share in (50, 80, 95)))
    return table(heads, rows())


def plane(values: Values) -> Float64[np.ndarray, "t skew"]:
    """The share of grids in each piece of the plane of Student's |t| and the skewness towards 0."""
    n, mean = values.shape[1], values.mean(1)
    t = mean / values.std(1, ddof=1) * math.sqrt(n)
    skew = -np.sign(t) * ((values - mean[:, None]) ** 3).mean(1) / values.std(1) ** 3
    pieces = [0.0, *np.exp(np.linspace(math.log(0.8), math.log(60), 80)), math.inf]
    return np.histogram2d(np.abs(t), skew, [pieces, np.linspace(-2.7, 2.7, 55)])[0] / len(values)


def least(grids: int) -> str:
    """A row for each skewed shape: the least ratio of false verdicts that any interval could have."""
    draw = np.random.default_rng(1)

    def ratio(shape: str, n: int) -> float:
        values, false = normal(draw, grids, n), SHAPES[shape](draw, grids, n)
        quantile = float(special.stdtrit(n - 1, 1 - ALPHA / 2)) / math.sqrt(n)
        values += np.quantile(quantile * values.std(1, ddof=1) - values.mean(1), POWER)
        found, wrong = plane(values[values.mean(1) > 0]).ravel(), plane(false).ravel()
        best = np.argsort(-found / (wrong + 1e-9))
        taken = best[: int(np.searchsorted(np.cumsum(found[best]), KEPT * POWER))]
        student = np.abs(false.mean(1)) > quantile * false.std(1, ddof=1)
        return float(wrong[taken].sum() / student.mean())

    rows = ((shape, *(f"{ratio(shape, n):.2f}" for n in NUMBERS)) for shape in SKEWED)
    return table(("shape", *(f"{n} seeds" for n in NUMBERS)), rows)


def looks(shape: str, grids: int, *, student: bool) -> list[Intervals]:
    """The intervals after each look, with 3, 4, ... 12 seeds of the same grids."""
    values = SHAPES[shape](np.random.default_rng(2), grids, LAST)
    return [Intervals.of(values[:, :n], student=student, looking=not student) for n in range(FIRST, LAST + 1)]


def false_looking(grids: int) -> str:
    """A row for each shape: false verdicts at any of the looks."""

    def rows() -> Iterator[Sequence[str]]:
        for shape in SHAPES:
            each = [looks(shape, grids, student=student) for student in (True, False)]
            differ = [float(np.any([look.differ() for look in every], 0).mean()) for every in each]
            equal = max(np.any([look.equal(DELTA, mean) for look in each[1]], 0).mean() for mean in (DELTA, -DELTA))
            yield shape, *map(percent, differ), f"{differ[1] / differ[0]:.2f}", percent(float(equal))

    return table(("shape", "better/worse, Student at each look", "minigpt", "ratio", "equivalent, minigpt"), rows())


def power_looking(grids: int) -> str:
    """A row for each effect: what is found up to 12 seeds, and with how many."""
    every, fixed = looks("normal", grids, student=False), looks("normal", grids, student=True)[-1]

    def rows() -> Iterator[Sequence[str]]:
        for effect in EFFECTS:
            found = np.array([look.differ(effect) for look in every])
            seeds = np.where(found.any(0), FIRST + found.argmax(0), LAST)
            yield (
                f"{effect:g}",
                percent(float(found.any(0).mean())),
                f"{seeds.mean():.1f}",
                percent(fixed.differ(effect).mean()),
            )

    heads = ("mean, in standard deviations", "found with 3..12", "seeds used", "found by Student with 12, fixed")
    return table(heads, rows())


def ranges(grids: int) -> str:
    """A row for each effect and number of seeds: whether the range of seeds keeps its promise."""
    draw = np.random.default_rng(3)

    def row(effect: float, delta: float, n: int) -> Sequence[str]:
        kept, seeds = [], []
        while len(kept) < grids:
            first = effect + draw.normal(size=n)
            (verdict,) = verdicts([first.tolist()], delta)
            if verdict.kind == "cannot tell" and verdict.seeds is not None:
                seeds.append(verdict.seeds)
                more = np.append(first, effect + draw.normal(size=verdict.seeds[1] - n)).tolist()
                kept.append([verdicts([more[:number]], delta)[0].kind != "cannot tell" for number in verdict.seeds])
        low, high = np.median(seeds, axis=0)
        shares = np.mean(kept, axis=0)
        return f"{effect:g}", f"{delta:g}", str(n), f"{low:.0f} to {high:.0f}", *(f"{100 * share:.0f}" for share in shares)

    rows = (row(effect, delta, n) for effect, delta in PROMISES for n in (3, 5))
    return table(("mean", "delta", "seeds", "median range", "verdict at the lower end", "at the upper end"), rows)


def page(grids: int) -> str:
    """The whole page."""
    simulated = cells(grids)
    return PAGE_TEXT.format(
        grids=f"{grids:,}",
        delta=DELTA,
        few=max(10, grids // 200),
        false=false_verdicts(simulated),
        power=power(simulated),
        least=least(20 * grids),
        false_looking=false_looking(grids),
        power_looking=power_looking(grids),
        ranges=ranges(max(10, grids // 200)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate verdicts.")
    parser.add_argument("--grids", type=int, default=20_000, metavar="N", help="comparisons for each row")
    parser.add_argument("--write", action="store_true", help="write docs/results/verdicts.md")
    options = parser.parse_args()
    text = page(options.grids)
    if options.write:
        PAGE.write_text(text, "utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
