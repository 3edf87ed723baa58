"""Cosine decay."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from minigpt.components.schedule.warmup import WarmupSchedule
from minigpt.registry import register


@register("schedule", "cosine")
class CosineSchedule(WarmupSchedule):
    """Warm-up, then half a cosine down (Loshchilov & Hutter 2016, arXiv:1608.03983).

    Args:
        warmup_ratio: Share of all updates spent warming up.
        min_lr_ratio: Share of the peak at the last update.
    """

    def __init__(
        self,
        max_iters: int,
        *,
        warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.02,
        min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ):
        super().__init__(max_iters, warmup_ratio=warmup_ratio)
        self.min_lr_ratio = min_lr_ratio

    def after(self, progress: float) -> float:
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
