"""Constant learning rate."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from minigpt.components.schedule.warmup import WarmupSchedule
from minigpt.registry import register


@register("schedule", "constant")
class ConstantSchedule(WarmupSchedule):
    """Warm-up, then the peak until the end.

    Args:
        warmup_ratio: Share of all updates spent warming up.
    """

    def __init__(self, max_iters: int, *, warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.02):
        super().__init__(max_iters, warmup_ratio=warmup_ratio)
