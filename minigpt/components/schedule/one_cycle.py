"""One cycle."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from minigpt.contracts import Schedule
from minigpt.registry import register


@register("schedule", "one_cycle")
class OneCycleSchedule(Schedule):
    """Half a cosine up to the peak, then half a cosine down to almost zero (Smith & Topin 2017, arXiv:1708.07120).

    Args:
        peak_ratio: Share of all updates at which the peak is reached.
        start_ratio: Share of the peak at the first update.
        end_ratio: Share of the peak at the last update.
    """

    def __init__(
        self,
        max_iters: int,
        *,
        peak_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3,
        start_ratio: Annotated[float, Field(ge=0, le=1)] = 0.04,
        end_ratio: Annotated[float, Field(ge=0, le=1)] = 4e-6,
    ):
        self.peak = peak_ratio * (max_iters - 1)
        self.last = max_iters - 1
        self.start_ratio, self.end_ratio = start_ratio, end_ratio

    def factor(self, step: int) -> float:
        if self.last == 0:
            return 1.0
        if step <= self.peak:
            return _between(self.start_ratio, 1.0, step / self.peak)
        return _between(1.0, self.end_ratio, (step - self.peak) / (self.last - self.peak))


def _between(start: float, end: float, share: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
