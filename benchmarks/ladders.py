"""How often the intervals of `minigpt ladder` hold the true value, in simulated ladders: makes docs/results/ladders.md.

python benchmarks/ladders.py > docs/results/ladders.md
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minigpt.lab.statistics import Estimate, scaling_of

LADDERS, DRAWS, SPAN = 400, 500, 64.0


@dataclass(frozen=True)
class Truth:
    """What is simulated: L = 1 + scale C^-alpha, with C from 1/8 to 8 around the middle size.

    Attributes:
        words: For the table.
        scales: A of base and variant.
        alphas: alpha of base and variant.
        sizes: Number of sizes.
        seeds: Number of seeds.
        sd: Standard deviation of a loss over seeds, half of whose variance base and variant share; at each size if several.
        deviation: Standard deviation with which each size differs from each curve.
    """

    words: str
    scales: tuple[float, float] = (0.7, 0.65)
    alphas: tuple[float, float] = (0.2, 0.2)
    sizes: int = 3
    seeds: int = 3
    sd: float | tuple[float, ...] = 0.008
    deviation: float = 0.0


TRUTHS = (
    Truth("the speed-up is the same at all sizes"),
    Truth("it vanishes", alphas=(0.2, 0.16)),
    Truth("it grows", alphas=(0.2, 0.24)),
    Truth("no difference", scales=(0.7, 0.7)),
    Truth("flat curves", alphas=(0.1, 0.1)),
    Truth("two seeds", seeds=2),
    Truth("five seeds", seeds=5),
    Truth("five sizes", sizes=5),
    Truth("four times the noise", sd=0.032),
    Truth("noise that falls with size", sd=(0.02, 0.008, 0.004)),
    Truth("sizes that differ from the curves", deviation=0.01),
    Truth("the same, five sizes", deviation=0.01, sizes=5),
)


HEAD = f"""# Intervals of ladders, simulated

    python benchmarks/ladders.py > docs/results/ladders.md

{LADDERS} simulated ladders in each row, with {DRAWS} bootstrap samples each, of two curves L = 1 + A C^-alpha over a
factor of {SPAN:.0f} in compute. Three sizes, three seeds and a standard deviation over seeds of 0.008 where nothing else is
written. An interval should hold the true value in 90 %; the simulation's standard error is 1.5 %.
[measuring.md](../measuring.md) explains the words.

| what is simulated | true speed-up | held | true trend | held | typical interval of the speed-up | found | called poor |
| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |"""


def main() -> None:
    """Print the page."""
    print(HEAD)
    for truth in TRUTHS:
        print(f"| {' | '.join(simulated(truth))} |", flush=True)


def simulated(truth: Truth) -> list[str]:
    """A row of the table."""
    draw, logs = np.random.default_rng(1), np.linspace(-0.5, 0.5, truth.sizes) * math.log(SPAN)
    compute = [np.exp(logs).tolist()] * 2
    losses = 1 + np.array(truth.scales)[:, None] * np.exp(-np.array(truth.alphas)[:, None] * logs)
    exact = scaling_of(compute, losses[..., None].tolist())
    found = [scaling_of(compute, _drawn(losses, truth, draw).tolist(), DRAWS) for _ in range(LADDERS)]
    speedups, trends = [each.speedup for each in found], [each.trend for each in found]
    low, high = (
        np.median([end or math.nan for end in ends]) for ends in zip(*((e.low, e.high) for e in speedups), strict=True)
    )
    changes = Counter(each.change for each in found).most_common()
    poor = np.mean([any("the fit is poor" in caution for caution in each.cautions) for each in found])
    return [
        truth.words,
        f"{exact.speedup.value:.2f}",
        f"{_held(exact.speedup, speedups):.1%}",
        f"{exact.trend.value:.2f}",
        f"{_held(exact.trend, trends):.1%}",
        f"{low:.2f} to {high:.2f}",
        ", ".join(f"{change} {number / LADDERS:.0%}" for change, number in changes),
        f"{poor:.0%}",
    ]


def _drawn(losses: NDArray[np.float64], truth: Truth, draw: np.random.Generator) -> NDArray[np.float64]:
    shape = (*losses.shape, truth.seeds)
    noise = math.sqrt(0.5) * (draw.normal(size=(1, *shape[1:])) + draw.normal(size=shape))
    own = truth.deviation * draw.normal(size=(*losses.shape, 1))
    return np.asarray(losses[..., None] + own + np.reshape(np.broadcast_to(truth.sd, truth.sizes), (1, -1, 1)) * noise)


def _held(truth: Estimate, found: list[Estimate]) -> float:
    assert truth.value is not None
    low = (-math.inf if each.low is None else each.low for each in found)
    high = (math.inf if each.high is None else each.high for each in found)
    return float(np.mean([a <= truth.value <= b for a, b in zip(low, high, strict=True)]))


if __name__ == "__main__":
    main()
