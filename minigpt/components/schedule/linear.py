"""Linear decay."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from minigpt.components.schedule.warmup import WarmupSchedule
from minigpt.registry import register


@register("schedule", "linear")
class LinearSchedule(WarmupSchedule):
    """Warm-up, then a linear decrease (warm-up: Goyal et al. 2017, arXiv:1706.02677).

    Args:
        warmup_ratio: Share of all updates spent warming up.
        min_lr_ratio: Share of the peak at the last update.
    """

    def __init__(
        self,
        max_iters: int,
        *,
        warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.02,
        min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0,
    ):
        super().__init__(max_iters, warmup_ratio=warmup_ratio)
        self.min_lr_ratio = min_lr_ratio

    def after(self, progress: float) -> float:
        return 1 - progress * (1 - self.min_lr_ratio)
