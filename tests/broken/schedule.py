"""Broken schedules."""

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
        floor: Factor of the last update.
    """

    def __init__(self, max_iters: int, *, floor: Annotated[float, Field(ge=0, le=1)] = 0.1):
        self.max_iters, self.floor = max_iters, floor

    def factor(self, step: int) -> float:
        return 1 - (1 - self.floor) * self.progress(step)

    def progress(self, step: int) -> float:
        """Return the progress: 0 at the first update and 1 at the last."""
        return step / max(1, self.max_iters - 1)


@broken("schedule", "finite", "a run of one update causes a division by zero")
class DividesByZero(Falling):
    def progress(self, step: int) -> float:
        return step / (self.max_iters - 1)


@broken("schedule", "finite", "numpy divides 0 by 0 silently, so the factor is NaN")
class NanInNumpy(Falling):
    def progress(self, step: int) -> float:
        with np.errstate(invalid="ignore"):
            return float(np.float64(step) / np.float64(self.max_iters - 1))


@broken("schedule", "finite", "the decay ends before training does, so the line continues below 0")
class NegativeAtTheEnd(Falling):
    def progress(self, step: int) -> float:
        return super().progress(step) / 0.8


@broken("schedule", "finite", "the first step is 0, which has no inverse root")
class InverseRootOfZero(Falling):
    def progress(self, step: int) -> float:
        return 1 - 0.1 * step**-0.5


@broken("schedule", "finite", "at the end, the root of a negative number is complex")
class ComplexAtTheEnd(Falling):
    def factor(self, step: int) -> float:
        return self.floor + (1 - self.floor) * (0.99 - super().progress(step)) ** 0.5


@broken("schedule", "finite", "a factor is a tensor, which JSON cannot store")
class GivesATensor(Falling):
    def factor(self, step: int) -> float:
        return torch.tensor(super().factor(step))  # type: ignore[return-value]


@broken("schedule", "function", "calls are counted, and the given step is ignored")
class CountsCalls(Falling):
    calls = -1

    def factor(self, step: int) -> float:
        self.calls += 1
        return super().factor(min(self.calls, self.max_iters - 1))


@broken("schedule", "function", "each factor depends on the last factor")
class DependsOnTheLast(Falling):
    last = 1.0

    def factor(self, step: int) -> float:
        self.last = 0.9 * self.last + 0.1 * super().factor(step)
        return self.last


@broken("schedule", "function", "the class counts the calls of all schedules")
class CountsInTheClass(Falling):
    calls = 0

    def factor(self, step: int) -> float:
        CountsInTheClass.calls += 1
        return super().factor(step) * (1 if CountsInTheClass.calls > 3 else 0.5)


@broken("schedule", "function", "noise from Python's random is added")
class Noisy(Falling):
    def factor(self, step: int) -> float:
        return super().factor(step) * random.uniform(0.9, 1.1)


@broken("schedule", "function", "the warm-up depends on the clock instead of the step")
class WarmsUpByTheClock(Falling):
    def __init__(self, max_iters: int, *, floor: Annotated[float, Field(ge=0, le=1)] = 0.1):
        super().__init__(max_iters, floor=floor)
        self.start = time.perf_counter()

    def factor(self, step: int) -> float:
        return super().factor(step) * (1 - math.exp(self.start - time.perf_counter()))


@broken("schedule", "function", "a private generator is seeded once, so each call draws another number")
class OwnGenerator(Falling):
    def __init__(self, max_iters: int, *, floor: Annotated[float, Field(ge=0, le=1)] = 0.1):
        super().__init__(max_iters, floor=floor)
        self.generator = random.Random(0)

    def factor(self, step: int) -> float:
        return super().factor(step) * self.generator.uniform(0.9, 1.1)


@broken("schedule", "knobs", "a floor is accepted, but the line ends at 0")
class FloorNotUsed(Falling):
    def factor(self, step: int) -> float:
        return 1 - self.progress(step)


@broken("schedule", "finite", "the factor is a per cent, so it is a hundred times the peak")
class PerCent(Falling):
    def factor(self, step: int) -> float:
        return 100 * super().factor(step)


@broken("schedule", "finite", "the warm-up continues beyond its end")
class WarmsUpForEver(Falling):
    def factor(self, step: int) -> float:
        return (step + 1) / (0.1 * self.max_iters)


@broken("schedule", "finite", "the number of the step grows as a power, and is far above 1 in a long training only")
class GrowsWithTheLength(Falling):
    def factor(self, step: int) -> float:
        return super().factor(step) * (1 + step / 20_000)


@broken("schedule", "finite", "the progress is divided as a whole number, and the rest of it is 0")
class WholeNumbers(Falling):
    def factor(self, step: int) -> float:
        return float(step // self.max_iters)


@broken("schedule", "gradual", "the warm-up ends at a tenth of the peak, where the decay begins at the peak")
class WarmsUpToATenth(Falling):
    def factor(self, step: int) -> float:
        warmup = self.max_iters // 20
        return 0.1 * (step + 1) / warmup if step < warmup else super().factor(step)


@broken("schedule", "gradual", "the decay begins again at the last update, because the progress is taken modulo 1")
class WrapsAround(Falling):
    def progress(self, step: int) -> float:
        return super().progress(step) % 1


@broken("schedule", "gradual", "after the warm-up, the inverse root is not divided by its value there")
class InverseRootNotScaled(Falling):
    def factor(self, step: int) -> float:
        return min(1.0, (step + 1) / 50) if step < 50 else step**-0.5


@broken("schedule", "gradual", "a decay with a floor of half the peak ends at 0 for the second half")
class FallsThroughTheFloor(Falling):
    """A straight line.

    Args:
        floor: Factor of the last update.
        hold: Whether the last half is held at the floor.
    """

    def __init__(self, max_iters: int, *, floor: Annotated[float, Field(ge=0, le=1)] = 0.1, hold: bool = False):
        super().__init__(max_iters, floor=floor)
        self.hold = hold

    def factor(self, step: int) -> float:
        return 0.0 if self.hold and 2 * step > self.max_iters else super().factor(step)
