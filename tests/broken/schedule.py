"""Schedules."""

from __future__ import annotations

import math
import random
import time
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from minigpt.contracts import Schedule
from tests.broken import broken, correct


@correct("schedule")
class Falling(Schedule):
    """A straight line from 1 to a floor.

    Args:
        floor: Share of the peak that is left at the last update.
    """

    def __init__(self, max_iters: int, *, floor: Annotated[float, Field(ge=0, le=1)] = 0.1):
        self.max_iters, self.floor = max_iters, floor

    def factor(self, step: int) -> float:
        return 1 - (1 - self.floor) * self.progress(step)

    def progress(self, step: int) -> float:
        """0 at the first update and 1 at the last."""
        return step / max(1, self.max_iters - 1)


@broken("schedule", "finite", "a run of one update has no length to divide by")
class DividesByZero(Falling):
    def progress(self, step: int) -> float:
        return step / (self.max_iters - 1)


@broken("schedule", "finite", "numpy divides 0 by 0 without a word, and the rate is no number")
class NanInNumpy(Falling):
    def progress(self, step: int) -> float:
        with np.errstate(invalid="ignore"):
            return float(np.float64(step) / np.float64(self.max_iters - 1))


@broken("schedule", "finite", "the line goes on below 0 where the decay ends before training does")
class NegativeAtTheEnd(Falling):
    def progress(self, step: int) -> float:
        return super().progress(step) / 0.8


@broken("schedule", "finite", "the first step is number 0, and has no inverse root")
class InverseRootOfZero(Falling):
    def progress(self, step: int) -> float:
        return 1 - 0.1 * step**-0.5


@broken("schedule", "finite", "a root of what is a little below 0 at the end is a complex number")
class ComplexAtTheEnd(Falling):
    def factor(self, step: int) -> float:
        return self.floor + (1 - self.floor) * (0.99 - super().progress(step)) ** 0.5


@broken("schedule", "finite", "a factor is a tensor, which JSON and a state_dict's numbers do not hold")
class GivesATensor(Falling):
    def factor(self, step: int) -> float:
        return torch.tensor(super().factor(step))  # type: ignore[return-value]


@broken("schedule", "function", "calls are counted, whatever step is asked for")
class CountsCalls(Falling):
    calls = -1

    def factor(self, step: int) -> float:
        self.calls += 1
        return super().factor(min(self.calls, self.max_iters - 1))


@broken("schedule", "function", "each factor is made of the last one")
class FromTheLast(Falling):
    last = 1.0

    def factor(self, step: int) -> float:
        self.last = 0.9 * self.last + 0.1 * super().factor(step)
        return self.last


@broken("schedule", "function", "calls of all schedules are counted in the class")
class CountsInTheClass(Falling):
    calls = 0

    def factor(self, step: int) -> float:
        CountsInTheClass.calls += 1
        return super().factor(step) * (1 if CountsInTheClass.calls > 3 else 0.5)


@broken("schedule", "function", "noise is drawn by Python's random")
class Noisy(Falling):
    def factor(self, step: int) -> float:
        return super().factor(step) * random.uniform(0.9, 1.1)


@broken("schedule", "function", "the warm-up lasts for a time by the clock, not for a number of steps")
class WarmsUpByTheClock(Falling):
    def __init__(self, max_iters: int, *, floor: Annotated[float, Field(ge=0, le=1)] = 0.1):
        super().__init__(max_iters, floor=floor)
        self.start = time.perf_counter()

    def factor(self, step: int) -> float:
        return super().factor(step) * (1 - math.exp(self.start - time.perf_counter()))


@broken("schedule", "function", "a generator of its own is seeded once, and goes on with every call")
class OwnGenerator(Falling):
    def __init__(self, max_iters: int, *, floor: Annotated[float, Field(ge=0, le=1)] = 0.1):
        super().__init__(max_iters, floor=floor)
        self.generator = random.Random(0)

    def factor(self, step: int) -> float:
        return super().factor(step) * self.generator.uniform(0.9, 1.1)


@broken("schedule", "knobs", "a floor is accepted, and the line ends at 0")
class FloorNotUsed(Falling):
    def factor(self, step: int) -> float:
        return 1 - self.progress(step)
