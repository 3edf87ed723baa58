"""A cosine with warm restarts: an example plugin, a schedule.

Use it by naming this file in an experiment's "plugins" (see experiments/restarts.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/restarts.py --set training.schedule=restarts
"""

from __future__ import annotations

import bisect
import itertools
import math
from typing import Annotated

from pydantic import Field

from minigpt.components.schedule.warmup import WarmupSchedule
from minigpt.registry import register


@register("schedule", "restarts")
class WarmRestarts(WarmupSchedule):
    """Half a cosine down, back to the peak at once, and again (SGDR: Loshchilov & Hutter 2016, arXiv:1608.03983).

    factor = min + (1 - min) (1 + cos(pi t / T_i)) / 2 for update t = 0, 1, ..., T_i - 1 of cycle i, with
    T_i = T_0 growth^i in whole updates, with T_0 such that all cycles together fill the updates after the warm-up.

    Args:
        warmup_ratio: Share of all updates spent warming up, before the first cycle only.
        cycles: Number of cycles.
        growth: Length of a cycle as a multiple of the previous one (the paper's T_mult).
        min_lr_ratio: Share of the peak at the end of each cycle.
    """

    jumps = True  # back to the peak

    def __init__(
        self,
        max_iters: int,
        *,
        warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.02,
        cycles: Annotated[int, Field(ge=1, le=100)] = 3,
        growth: Annotated[float, Field(ge=1, le=10)] = 2.0,
        min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0,
    ):
        super().__init__(max_iters, warmup_ratio=warmup_ratio)
        self.min_lr_ratio = min_lr_ratio
        ends = list(itertools.accumulate(growth**cycle for cycle in range(cycles)))
        total = max_iters - self.warmup_iters
        self.starts = [0, *(round(total * end / ends[-1]) for end in ends)]  # the last entry is the end of training

    def factor(self, step: int) -> float:
        if step < self.warmup_iters:
            return super().factor(step)
        place = step - self.warmup_iters
        cycle = bisect.bisect_right(self.starts, place) - 1  # skips cycles that are shorter than an update
        start, end = self.starts[cycle], self.starts[cycle + 1]
        return self.min_lr_ratio + (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * (place - start) / (end - start))) / 2
