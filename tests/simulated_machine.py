"""A simulated machine that others use too: its times have jitter, bursts and drift."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


class Machine:
    """A simulated clock. Work advances it by its time, with jitter, and bursts of other work and a drift slow it down.

    Args:
        seed: Seed of the noise.
        jitter: Standard deviation of the logarithm of a work's time.
        burst: Factor by which other work slows down the measured work.
        drift: Largest factor of a slow oscillation of the speed, with a period of two minutes.
    """

    def __init__(self, seed: int, *, jitter: float = 0.1, burst: float = 3.0, drift: float = 2.0):
        self.random = np.random.default_rng(seed)
        self.jitter, self.burst, self.drift = jitter, burst, drift
        self.time, self.is_busy, self.until = 0.0, False, 0.0

    def work(self, seconds: float) -> Callable[[], float]:
        """Work that takes `seconds` on a quiet machine."""

        def do() -> float:
            while self.time >= self.until:
                self.is_busy = not self.is_busy
                self.until += self.random.exponential(0.7 if self.is_busy else 1.5)
            slower = (self.burst if self.is_busy else 1.0) * self.drift ** math.sin(self.time / 20)
            took = seconds * slower * math.exp(self.random.normal(0, self.jitter))
            self.time += took
            return took

        return do

    def now(self) -> float:
        return self.time
