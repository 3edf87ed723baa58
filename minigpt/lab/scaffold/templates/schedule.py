"""my_part: the learning rate over training, as a share of its peak.

The constructor receives max_iters, the number of updates. `factor(step)` returns the
share for update `step`, 0 to max_iters - 1. Keyword-only arguments are its JSON
parameters: annotate each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- the share is finite, not negative and not far above 1 for every step, also if
  max_iters is 1;
- it does not jump from one update to the next, unless the class has `jumps = True`;
- it is a function of the step alone: calls in any order, repeated calls and other
  instances give the same, because a resumed run calls it from the middle;
- every keyword argument changes something.

Edit first: the last line of `factor`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from minigpt.contracts import Schedule
from minigpt.registry import register


@register("schedule", "my_part")
class MyPart(Schedule):
    """A linear increase to the peak, then a power of the share of updates left.

    Args:
        warmup_ratio: Share of all updates spent warming up.
        power: 1 decreases linearly, larger values early, smaller values late.
    """

    def __init__(
        self,
        max_iters: int,
        *,
        warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.02,
        power: Annotated[float, Field(gt=0)] = 1.0,
    ):
        self.max_iters, self.power = max_iters, power
        self.warmup = int(warmup_ratio * max_iters)  # always below max_iters

    def factor(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        left = (self.max_iters - step) / (self.max_iters - self.warmup)
        return float(left**self.power)
