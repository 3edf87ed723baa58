"""The ceiling of speed: the fastest matrix product. A model consists of matrix products and cannot be faster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from minigpt.lab.bench.machine import clock
from minigpt.lab.bench.timing import measure

_ROWS, _REPEATS = (2048, 4096), 12


@dataclass(frozen=True)
class Ceiling:
    """Rates of matrix products in FLOP/s, each the best of several measurements.

    Attributes:
        rates: The rate for each shape, such as `2048 x 384 x 1536`.
    """

    rates: dict[str, float]

    @property
    def best(self) -> float:
        """The rate of the fastest shape."""
        return max(self.rates.values())


def measure_ceiling(d_model: int, precision: str, device: torch.device) -> Ceiling:
    """Time the two matrix products of a feed-forward layer, with 2,048 and 4,096 tokens.

    The result is written to memory that is already allocated, so only the product is timed. The shapes are those of the
    model: with larger matrices the machine could be faster than for a narrow model, but the model could not.

    Args:
        d_model: Width of the model.
        precision: `fp32` or `bf16`.
        device: The device to measure.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rates = {}
    for rows in _ROWS:
        for inner, outer in ((d_model, 4 * d_model), (4 * d_model, d_model)):
            a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((rows, inner), (inner, outer)))
            product = torch.empty(rows, outer, dtype=dtype, device=device)
            fastest = measure(partial(torch.mm, a, b, out=product), repeats=_REPEATS, warmup=2, now=clock(device)).low
            rates[f"{rows} x {inner} x {outer}"] = 2 * rows * inner * outer / fastest
    return Ceiling(rates)
