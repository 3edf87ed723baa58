"""The mean of the latest checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from minigpt.components.optimizer.averaging import Averaging, refuse_averaging
from minigpt.contracts import NamedParameter, Optimizer, OptimizerSpec
from minigpt.registry import register

_ADAMW: Any = "adamw"  # as a value in JSON


@register("optimizer", "lawa")
class LAWA(Optimizer):
    """Evaluates with the mean of the latest weights, taken at intervals (Kaddour 2022, arXiv:2209.14981).

    a_t = mean of w_i over the last k multiples i <= t of `every`

    with w_i the weights after update i, which another optimizer trains; fewer than k at first, and w_t before the first. So
    let max_iters be a multiple of `every`. It keeps k copies of the weights.

    Args:
        optimizer: Trains the weights. It must not average itself.
        k: Number of weights in the mean.
        every: Updates between them.
    """

    averages = True

    def __init__(
        self,
        *,
        optimizer: OptimizerSpec = _ADAMW,
        k: Annotated[int, Field(gt=0, le=1000)] = 5,
        every: Annotated[int, Field(gt=0)] = 100,
    ):
        refuse_averaging(optimizer)
        self.adaptive = optimizer.build().adaptive
        self.optimizer, self.k, self.every = optimizer, k, every

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        return _LAWA(self.optimizer, parameters, self.k, self.every)


class _LAWA(Averaging):
    """Keeps the latest weights of each parameter in one tensor, where the newest replace the oldest."""

    def __init__(self, optimizer: OptimizerSpec, parameters: Sequence[NamedParameter], k: int, every: int):
        super().__init__(optimizer, parameters)
        self.k, self.every = k, every

    def begin(self, parameters: Sequence[Tensor]) -> dict[str, Any]:
        return {"taken": 0, "latest": [p.new_zeros(self.k, *p.shape) for p in parameters]}

    def average(self, kept: dict[str, Any]) -> None:
        if kept["updates"] % self.every == 0:
            torch._foreach_copy_([latest[kept["taken"] % self.k] for latest in kept["latest"]], kept["trained"])
            kept["taken"] += 1

    def averaged(self, kept: dict[str, Any]) -> list[Tensor]:
        if not kept["taken"]:
            trained: list[Tensor] = kept["trained"]
            return trained
        return [latest[: kept["taken"]].mean(0) for latest in kept["latest"]]
