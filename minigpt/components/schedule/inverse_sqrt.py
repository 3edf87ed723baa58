"""Inverse square root decay."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from minigpt.components.schedule.warmup import WarmupSchedule
from minigpt.registry import register


@register("schedule", "inverse_sqrt")
class InverseSqrtSchedule(WarmupSchedule):
    """Warm-up, then proportional to 1 / sqrt(update number) (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        warmup_ratio: Share of all updates spent warming up; the decay continues it.
    """

    def __init__(self, max_iters: int, *, warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.02):
        super().__init__(max_iters, warmup_ratio=warmup_ratio)

    def factor(self, step: int) -> float:
        if step < self.warmup_iters:
            return super().factor(step)
        return math.sqrt((self.warmup_iters + 1) / (step + 1))
