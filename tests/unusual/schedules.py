"""Schedules that are right but unusual: with jumps that are declared, with steps, slightly above the peak."""

from __future__ import annotations

import math
import random

from minigpt.contracts import Schedule
from tests.unusual import unusual


class _OfUpdates(Schedule):
    def __init__(self, max_iters: int):
        self.max_iters = max_iters

    def progress(self, step: int) -> float:
        """Return the share of the training that is done."""
        return step / self.max_iters


@unusual("schedule", "function", "a cosine begins anew three times, and it declares `jumps`")
class Restarting(_OfUpdates):
    jumps = True

    def factor(self, step: int) -> float:
        return (1 + math.cos(math.pi * (3 * self.progress(step) % 1))) / 2


@unusual(
    "schedule", "gradual", "it falls in stairs of a twentieth of the peak, as a rate that is set once for each epoch does"
)
class Stairs(_OfUpdates):
    def factor(self, step: int) -> float:
        return 1 - int(20 * self.progress(step)) / 20


@unusual("schedule", "gradual", "the rate warms up in the first update alone")
class OneUpdateOfWarmUp(_OfUpdates):
    def factor(self, step: int) -> float:
        return 0.0 if step == 0 and self.max_iters > 1 else 1.0


@unusual("schedule", "gradual", "in a training of 1,000 updates, one update is the whole decay")
class ShortDecay(_OfUpdates):
    def factor(self, step: int) -> float:
        return min(1.0, max(0.0, 1000 * (1 - self.progress(step)) - 0.5))


@unusual("schedule", "finite", "it ends a fifth above the peak, as large batches allow")
class AboveThePeak(_OfUpdates):
    def factor(self, step: int) -> float:
        return 1 + 0.2 * self.progress(step)


@unusual("schedule", "gradual", "each update has a random factor that its number determines")
class Random(_OfUpdates):
    def factor(self, step: int) -> float:
        return random.Random(step).random()


@unusual("schedule", "gradual", "the first update has the whole rate, and then it falls as one over the number of updates")
class Harmonic(_OfUpdates):
    def factor(self, step: int) -> float:
        return 1 / (1 + step)
