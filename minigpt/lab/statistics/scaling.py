"""Losses at several sizes: a joint fit of base and variant, the effective speed-up, and its trend with size.

The loss falls with training compute C as L = L0 + A C^-alpha (Hestness et al. 2017, arXiv:1712.00409; Hoffmann et al. 2022,
arXiv:2203.15556). Base and variant share L0: it stands for what no model of this text can predict, and no curve of a few
sizes determines it separately. Each has its own A and alpha. A shared alpha would make the speed-up equal at all sizes by
construction, and so hide an advantage that vanishes. The residuals are those of the mean losses, in the unit of the losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

Change = Literal["grows", "shrinks", "vanishes", "stays", "cannot tell"]

LEVEL = 0.9
"""Confidence of the intervals."""

FEWEST_SIZES = 3
DRAWS = 2000
STAYS = 1.25
"""A speed-up "stays" if tenfold compute multiplies it by less than this, with certainty."""

_NARROW = 10.0  # sizes should span at least this factor in compute
_GRID, _CLOSEST = 16, 0.02  # values of L0 that are tried; its smallest distance to the lowest loss, in ranges of the losses

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its 90 % interval; None is an end without a bound, or a number that the fit does not give."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Scaling:
    """A variant beside its base at several sizes.

    Attributes:
        floor: L0, shared.
        scales: A of base and variant, for compute in FLOPs.
        exponents: alpha of base and variant.
        residual: Root mean square of the residuals, for each degree of freedom that the fit leaves.
        noise: The same, as expected from the spread over seeds; None for a single seed.
        speedup: Compute of the base divided by that of the variant at equal loss, at the largest size: the lowest loss
            that both curves reach within the measured sizes.
        smallest: The same at the smallest size: the highest loss that both curves have there.
        trend: The speed-up's factor for tenfold compute; 1 if it is the same at all sizes.
        change: What happens to the speed-up with size, as far as its interval shows.
        cautions: Reasons to doubt these numbers, one sentence each without a full stop.
    """

    floor: float
    scales: tuple[float, float]
    exponents: tuple[float, float]
    residual: float
    noise: float | None
    speedup: Estimate
    smallest: Estimate
    trend: Estimate
    change: Change
    cautions: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """Curves through mean losses; leading axes are separate fits. Compute is measured from its geometric mean.

    Attributes:
        floor: L0.
        scale: log A of base and variant.
        exponent: alpha of base and variant.
        residuals: Mean losses minus the curves, of base and variant at each size.
        end: -1 or 1 if L0 is at the lower or upper end of its range, else 0.
    """

    floor: Numbers
    scale: Numbers
    exponent: Numbers
    residuals: Numbers
    end: Numbers


def scaling_of(
    compute: Sequence[Sequence[float]], losses: Sequence[Sequence[Sequence[float]]], draws: int = DRAWS
) -> Scaling:
    """Fit base and variant jointly, and say how certain the result is.

    The intervals come from a bootstrap. At each size, the seeds are drawn with replacement, the same for base and variant.
    Deviations of the sizes from the curves, as far as seeds do not explain them, are drawn anew too, with random signs.
    The interval's ends are quantiles further out than 5 % and 95 %, because few seeds show too little spread
    (Hesterberg 2014, arXiv:1411.5279, "expanded percentile interval"; the degrees of freedom of all sizes together).

    Args:
        compute: Operations of one training at each size, ascending: of the base, of the variant. At least 3 sizes.
        losses: Of the base, of the variant: at each size, one loss per seed, in the same order of seeds.
        draws: Number of bootstrap samples. They are the same in each call.
    """
    logs, seeds = np.log(np.asarray(compute, np.float64)), np.asarray(losses, np.float64)
    center, (sizes, n) = logs.mean(), seeds.shape[1:]
    x, means = logs - center, seeds.mean(-1)
    fit = fitted(means, x, exact=True)
    free = 2 * sizes - (5 if fit.end == 0 else 4)
    explained = _explained(fit, x, seeds) if n > 1 else None
    squares = float((fit.residuals**2).sum())
    numbers = _numbers(fit, x)
    intervals: Sequence[tuple[float | None, float | None]] = [(None, None)] * len(numbers)
    if n > 1:
        again = fitted(means + _deviations(seeds, fit.residuals, max(0.0, squares - (explained or 0)) / free, draws), x)
        outer = float(special.ndtr(math.sqrt(n / (n - 1)) * special.stdtrit(sizes * (n - 1), (1 + LEVEL) / 2)))
        intervals = [_interval(drawn, outer) for drawn in _numbers(again, x)]
    speedup, smallest, trend = (
        Estimate(_factor(float(number)), *interval) for number, interval in zip(numbers, intervals, strict=True)
    )
    base_scale, scale = np.exp(np.minimum(fit.scale + fit.exponent * center, 230)).tolist()
    base_exponent, exponent = fit.exponent.tolist()
    return Scaling(
        floor=float(fit.floor),
        scales=(base_scale, scale),
        exponents=(base_exponent, exponent),
        residual=math.sqrt(squares / free),
        noise=None if explained is None else math.sqrt(explained / free),
        speedup=speedup,
        smallest=smallest,
        trend=trend,
        change=_change(speedup, smallest, trend),
        cautions=tuple(_cautions(fit, x, n, free, squares, explained, (speedup, smallest, trend))),
    )


# ------------------------------------------------------------------------------------------------------------ the curves


def fitted(means: Numbers, x: Numbers, *, exact: bool = False) -> Fit:
    """Least squares of mean losses [..., curve, size] against log compute [curve, size], for every leading axis at once.

    For each of many L0, A and alpha follow from a few weighted regressions of the logarithm. At the best L0 the residuals
    of all curves sum to 0: it is found by bisection between its neighbours on the grid.

    Args:
        means: Mean losses.
        x: log of the compute.
        exact: To the last digits; otherwise to far less than the spread over draws.
    """
    rounds, halvings = (12, 44) if exact else (2, 7)
    lowest, highest = means.min((-1, -2)), means.max((-1, -2))
    near, far = np.log(np.maximum(_CLOSEST * (highest - lowest), 1e-9 * lowest)), np.log(lowest)
    gaps = np.linspace(near, far, _GRID)  # log of the distance from L0 to the lowest loss; the last is L0 = 0

    def at(gap: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        floor = lowest - np.exp(gap)
        return floor, *_curves(means - floor[..., None, None], x, rounds)

    squares = np.stack([(at(gap)[-1] ** 2).sum((-1, -2)) for gap in gaps])
    best = np.where(np.isfinite(squares), squares, np.inf).argmin(0)
    step = (far - near) / (_GRID - 1)
    short, long = (near + step * np.clip(best + move, 0, _GRID - 1) for move in (-1, 1))
    for _ in range(halvings):
        middle = (short + long) / 2
        is_above = at(middle)[-1].sum((-1, -2)) > 0  # a smaller gap, so a higher L0, fits better
        short, long = np.where(is_above, short, middle), np.where(is_above, middle, long)
    gap = (short + long) / 2
    end = (gap < near + step * 1e-2).astype(float) - (gap > far - step * 1e-2)
    floor, scale, exponent, residuals = at(np.where(end > 0, near, np.where(end < 0, far, gap)))
    return Fit(floor, scale, exponent, residuals, end)


def _curves(above: Numbers, x: Numbers, rounds: int) -> tuple[Numbers, Numbers, Numbers]:
    """Log A, alpha and residuals of A exp(-alpha x): a generalised linear model with a logarithmic link."""
    with np.errstate(all="ignore"):
        height, response = above, np.log(above)
        for _ in range(rounds + 1):
            weights = height**2
            total = weights.sum(-1, keepdims=True)
            x_mean, mean = ((weights * values).sum(-1, keepdims=True) / total for values in (x, response))
            slope = (weights * (x - x_mean) * (response - mean)).sum(-1, keepdims=True)
            slope = slope / (weights * (x - x_mean) ** 2).sum(-1, keepdims=True)
            line = mean + slope * (x - x_mean)
            height = np.exp(np.minimum(line, 50.0))
            response = line + (above - height) / height
        return (mean - slope * x_mean)[..., 0], -slope[..., 0], above - height


def _numbers(fit: Fit, x: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Log of the speed-up at the largest and at the smallest size, and its slope; NaN where the loss does not fall."""
    with np.errstate(all="ignore"):
        last, first = (fit.scale - fit.exponent * x[:, size] for size in (-1, 0))  # log of the height above L0
        falls = (fit.exponent > 0).all(-1)

        def at(height: Numbers) -> Numbers:
            needed = (fit.scale - height[..., None]) / fit.exponent
            return np.where(falls, needed[..., 0] - needed[..., 1], np.nan)

        slope = np.where(falls, fit.exponent[..., 1] / fit.exponent[..., 0] - 1, np.nan)
        return at(last.max(-1)), at(first.min(-1)), slope * math.log(10)


# ---------------------------------------------------------------------------------------------------------- the certainty


def _deviations(seeds: Numbers, residuals: Numbers, excess: float, draws: int) -> Numbers:
    """Deviations of the mean losses [draw, curve, size] in bootstrap samples.

    Args:
        seeds: Losses [curve, size, seed].
        residuals: Of the fit.
        excess: Variance of the sizes' deviations from the curves that seeds do not explain.
        draws: Number of samples.
    """
    draw, (_, sizes, n) = np.random.default_rng(0), seeds.shape
    weights = draw.multinomial(n, np.full(n, 1 / n), (draws, sizes)) / n
    of_seeds = np.einsum("csn,dsn->dcs", seeds - seeds.mean(-1, keepdims=True), weights)
    chosen = residuals[:, draw.integers(sizes, size=(draws, sizes))].swapaxes(0, 1) * draw.choice((-1, 1), (draws, 1, sizes))
    scale = math.sqrt(excess / (residuals**2).mean()) if excess > 0 else 0.0
    return np.asarray(of_seeds + scale * chosen)


def _explained(fit: Fit, x: Numbers, seeds: Numbers) -> float:
    """The sum of squared residuals that the spread over seeds leads to, by the fit's linear approximation."""
    height = np.exp(fit.scale[:, None] - fit.exponent[:, None] * x)
    columns = [np.ones_like(x)] if fit.end == 0 else []
    for curve in range(2):
        own = np.zeros_like(x)
        own[curve] = height[curve]
        columns += [own, own * x]
    directions = np.linalg.qr(np.stack([column.ravel() for column in columns], -1))[0]
    apart = np.eye(x.size) - directions @ directions.T
    deviations = (seeds - seeds.mean(-1, keepdims=True)) / math.sqrt(seeds.shape[-1] * (seeds.shape[-1] - 1))
    total = 0.0
    for size in range(x.shape[1]):  # seeds of different sizes are independent; those of base and variant are pairs
        noise = np.zeros((*x.shape, seeds.shape[-1]))
        noise[:, size] = deviations[:, size]
        total += float(((apart @ noise.reshape(x.size, -1)) ** 2).sum())
    return total


def _interval(drawn: Numbers, outer: float) -> tuple[float | None, float | None]:
    """The interval of a factor, from draws of its logarithm; a draw without a number has no bounds."""
    missing = np.isnan(drawn)
    low = np.quantile(np.where(missing, -np.inf, drawn), 1 - outer, method="lower")
    high = np.quantile(np.where(missing, np.inf, drawn), outer, method="higher")
    return _factor(float(low)), _factor(float(high))


def _factor(log: float) -> float | None:
    return math.exp(log) if abs(log) < 50 else None  # NaN too


def _change(speedup: Estimate, smallest: Estimate, trend: Estimate) -> Change:
    if trend.low is None or trend.high is None:
        return "cannot tell"
    if trend.high < 1:
        is_advantage, remains = (each.low is not None and each.low > 1 for each in (smallest, speedup))
        return "vanishes" if is_advantage and not remains else "shrinks"
    if trend.low > 1:
        return "grows"
    return "stays" if trend.low > 1 / STAYS and trend.high < STAYS else "cannot tell"


def _cautions(
    fit: Fit,
    x: Numbers,
    n: int,
    free: int,
    squares: float,
    explained: float | None,
    estimates: tuple[Estimate, Estimate, Estimate],
) -> list[str]:
    sizes, span = x.shape[1], float(np.exp(x[:, -1] - x[:, 0]).min())
    speedup, found = estimates[0].value, []
    if not (fit.exponent > 0).all():
        names = [name for name, alpha in zip(("base", "variant"), fit.exponent, strict=True) if alpha <= 0]
        found.append(f"the loss of the {' and the '.join(names)} does not fall with compute, so there is no speed-up")
    if sizes == FEWEST_SIZES:
        found.append(
            f"with {sizes} sizes, {2 * sizes - free} numbers are fitted to {2 * sizes} mean losses: "
            "they hardly test the form of the curve"
        )
    if span < _NARROW:
        found.append(f"the sizes span a factor of only {span:.1f} in compute; {_NARROW:.0f} or more would show the curve")
    if fit.end:
        place = "0" if fit.end < 0 else "just below the lowest loss"
        found.append(f"L0 is at the end of its range ({place}): these sizes do not show where the loss levels off")
    if explained is None:
        found.append("one seed shows no spread, so there are no intervals; 3 seeds or more would")
    elif squares > explained * float(special.fdtri(free, sizes * (n - 1), 0.95)):
        found.append(
            f"the fit is poor: the losses differ from the curves by {math.sqrt(squares / free):.2g}, and the spread over "
            f"seeds explains {math.sqrt(explained / free):.2g}; the intervals are wider for it"
        )
    if n > 1 and speedup is not None and any(None in (each.low, each.high) for each in estimates):
        found.append("an interval has no bound: with some draws of the seeds, the loss does not fall with compute")
    if speedup is not None and abs(math.log(speedup)) > math.log(span):
        found.append("equal losses lie beyond the measured sizes, so the speed-up is an extrapolation")
    return found
