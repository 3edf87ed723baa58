"""Compute a ladder's results from the comparisons of its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from minigpt.errors import count
from minigpt.lab.compare.record import Comparison, FailedVariant, VariantResult
from minigpt.lab.ladder.record import Curves, Finding, Interval, Ladder, LadderSettings, Point, SizeResult
from minigpt.lab.ladder.sizes import Growth
from minigpt.lab.statistics import FEWEST_SIZES, Change, Estimate, Scaling, scaling_of
from minigpt.numbers import shown


def judge(name: str, growth: Growth, comparisons: Sequence[Comparison], failed: Sequence[FailedVariant] = ()) -> Ladder:
    """The results of a ladder.

    Args:
        name: Name of its folder.
        growth: How the experiments grew.
        comparisons: One for each size, ascending; the name of each is its size.
        failed: Variants that were left out at all sizes.
    """
    names = dict.fromkeys(variant.name for comparison in comparisons for variant in comparison.variants[1:])
    return Ladder(
        name=name,
        settings=LadderSettings(
            comparison=comparisons[0].settings,
            rate=growth.rate,
            tokens_per_parameter=growth.tokens_per_parameter,
            exponent=growth.exponent,
        ),
        sizes=tuple(_size_result(comparison) for comparison in comparisons),
        findings=tuple(_finding(variant, comparisons) for variant in names),
        failed=tuple(failed),
    )


def _size_result(comparison: Comparison) -> SizeResult:
    points = tuple(_point(variant) for variant in comparison.variants)
    return SizeResult(name=comparison.name, folder=comparison.name, variants=points, failed=comparison.failed)


def _point(variant: VariantResult) -> Point:
    return Point(
        name=variant.name,
        parameters=variant.cost.total,
        tokens=variant.tokens,
        training_flops=variant.training_flops,
        learning_rate=_learning_rate(variant),
        seeds=tuple(run.seed for run in variant.runs),
        losses=tuple(run.loss for run in variant.runs),
        mean=variant.mean,
        sd=variant.sd,
        verdict=variant.verdict,
        difference=variant.difference,
    )


def _learning_rate(variant: VariantResult) -> float | None:
    training = variant.experiment.get("training")
    optimizer = training.get("optimizer") if isinstance(training, dict) else None
    rate = optimizer.get("learning_rate") if isinstance(optimizer, dict) else None
    return float(rate) if isinstance(rate, int | float) else None


def _finding(name: str, comparisons: Sequence[Comparison]) -> Finding:
    """What the sizes say about a variant: those at which all runs of it and of the base finished."""
    used: list[str] = []
    compute: list[tuple[int, int]] = []
    losses: list[tuple[list[float], list[float]]] = []
    for comparison in comparisons:
        base, variant = comparison.base, next((each for each in comparison.variants if each.name == name), None)
        if variant is None or variant.difference is None or not base.training_flops or not variant.training_flops:
            continue
        used.append(comparison.name)
        compute.append((base.training_flops, variant.training_flops))
        losses.append(_paired(base, variant))
    left_out = [comparison.name for comparison in comparisons if comparison.name not in used]
    cautions = [f"{', '.join(left_out)} left out: not all runs of it and of the base finished there"] if left_out else []
    if len(used) < FEWEST_SIZES:
        found = f"no speed-up: {count(len(used), 'size')} with finished runs, and a curve needs {FEWEST_SIZES}"
        return Finding(variant=name, sizes=tuple(used), curves=None, statement=f"{name}: {found}", cautions=tuple(cautions))
    fewest = min(len(own) for _, own in losses)  # the first seeds of each size, if sizes differ in their number
    paired = [[curve[:fewest] for curve in curves] for curves in zip(*losses, strict=True)]
    scaling = scaling_of(list(zip(*compute, strict=True)), paired)
    curves = Curves(**{key: value for key, value in asdict(scaling).items() if key != "cautions"})
    return Finding(
        variant=name,
        sizes=tuple(used),
        curves=curves,
        statement=f"{name}: {statement(scaling)}",
        cautions=(*cautions, *scaling.cautions),
    )


def _paired(base: VariantResult, variant: VariantResult) -> tuple[list[float], list[float]]:
    """The losses of both with the variant's seeds. The base may have more, which other variants needed for a verdict."""
    seeds = {run.seed for run in variant.runs}
    return [run.loss for run in base.finished if run.seed in seeds and run.loss is not None], variant.losses


# ------------------------------------------------------------------------------------------------------------- in words


def statement(scaling: Scaling) -> str:
    """The speed-up at the largest size, and what happens to it with size, in one sentence."""
    speedup = scaling.speedup
    if speedup.value is None:
        return "no speed-up can be given"
    if speedup.low is not None and speedup.low > 1:
        words = f"reaches the base's loss with {with_interval(speedup, ' times less compute')} at the largest size"
    elif speedup.high is not None and speedup.high < 1:
        slowdown = with_interval(_inverse(speedup), " times the base's compute")
        words = f"needs {slowdown} for the same loss at the largest size"
    else:
        words = "whether it needs less compute than the base at the largest size is not shown: "
        words += f"the base's compute divided by the variant's is {with_interval(speedup)}"
    trend = f"tenfold compute multiplies the speed-up by {with_interval(scaling.trend)}"
    return f"{words}; {_trend(scaling.change, scaling.smallest)}: {trend}"


def _trend(change: Change, smallest: Estimate) -> str:
    """What happens with size. Whether it is an advantage is decided at the smallest size, where it begins."""
    is_advantage = smallest.value is None or smallest.value >= 1
    match change:
        case "vanishes":
            return f"the advantage vanishes with size, from {with_interval(smallest, ' times less compute')} at the smallest"
        case "shrinks":
            return "the advantage shrinks with size" if is_advantage else "the disadvantage grows with size"
        case "grows":
            return "the advantage grows with size" if is_advantage else "the disadvantage shrinks with size"
        case "stays":
            return "this stays so at all sizes"
        case _:
            return "whether this changes with size is not shown"


def with_interval(estimate: Estimate | Interval, unit: str = "") -> str:
    """A factor with its unit and interval: `1.62 times less compute (90 %: 1.40 to 1.90)`."""
    if estimate.value is None:
        return "an unknown factor"
    if estimate.low is None and estimate.high is None:
        return f"{_digits(estimate.value)}{unit} (without an interval)"
    low, high = ("no bound" if end is None else _digits(end) for end in (estimate.low, estimate.high))
    return f"{_digits(estimate.value)}{unit} (90 %: {low} to {high})"


def _digits(factor: float) -> str:
    """Two decimals, or more where 1 is near; an exponent far from 1."""
    return shown(factor, (1.0,), decimals=2, sign="-") if 0.01 <= factor < 1000 else f"{factor:.1e}"


def _inverse(estimate: Estimate) -> Estimate:
    value, high, low = (None if end is None else 1 / end for end in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high)
