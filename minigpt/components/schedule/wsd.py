"""Warm-up, stable, decay."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from minigpt.components.schedule.warmup import WarmupSchedule
from minigpt.registry import register


@register("schedule", "wsd")
class WarmupStableDecay(WarmupSchedule):
    """Warm-up, then the peak, then a linear decrease at the end (MiniCPM: Hu et al. 2024, arXiv:2404.06395).

    Args:
        warmup_ratio: Share of all updates spent warming up.
        decay_ratio: Share of all updates spent decaying.
        min_lr_ratio: Share of the peak at the last update.
    """

    def __init__(
        self,
        max_iters: int,
        *,
        warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.02,
        decay_ratio: Annotated[float, Field(ge=0, le=1)] = 0.2,
        min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0,
    ):
        super().__init__(max_iters, warmup_ratio=warmup_ratio)
        if warmup_ratio + decay_ratio > 1:
            raise ValueError(f"warmup_ratio {warmup_ratio} and decay_ratio {decay_ratio} add up to more than 1")
        self.min_lr_ratio = min_lr_ratio
        self.decay = decay_ratio / (1 - warmup_ratio)  # as a share of the updates after the warm-up

    def after(self, progress: float) -> float:
        if progress <= 1 - self.decay:
            return 1.0
        return max(self.min_lr_ratio, 1 - (progress - (1 - self.decay)) / self.decay * (1 - self.min_lr_ratio))
