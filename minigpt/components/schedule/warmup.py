"""The warm-up of every shipped schedule except one_cycle."""

from __future__ import annotations

from minigpt.contracts import Schedule


class WarmupSchedule(Schedule):
    """A linear increase from near zero to the peak over the first updates, then `after` for the rest."""

    def __init__(self, max_iters: int, *, warmup_ratio: float):
        self.max_iters = max_iters
        self.warmup_iters = round(warmup_ratio * max_iters)

    def factor(self, step: int) -> float:
        if step < self.warmup_iters:
            return (step + 1) / (self.warmup_iters + 1)
        return self.after((step - self.warmup_iters) / max(1, self.max_iters - 1 - self.warmup_iters))

    def after(self, progress: float) -> float:
        """The share of the peak; `progress` is 0 at the end of the warm-up and 1 at the last update."""
        return 1.0
