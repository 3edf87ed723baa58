"""An exponential moving average of the weights."""

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


@register("optimizer", "ema")
class EMA(Optimizer):
    """Evaluates with an exponential moving average of the weights that another optimizer trains (Polyak & Juditsky 1992).

    a_t = sum over i <= t of decay^(t-i) w_i / sum over i <= t of decay^(t-i)

    with w_i the weights after update i, from `start` on. The division is Adam's bias correction (arXiv:1412.6980), so the
    initial weights have no share. At first a is about the plain mean; later it reaches back 1 / (1 - decay) updates.

    Args:
        optimizer: Trains the weights. It must not average itself.
        decay: Weight of an update relative to the next one.
        start: Updates before the average begins; until then it evaluates with the trained weights.
    """

    averages = True

    def __init__(
        self,
        *,
        optimizer: OptimizerSpec = _ADAMW,
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        start: Annotated[int, Field(ge=0)] = 0,
    ):
        refuse_averaging(optimizer)
        self.adaptive = optimizer.build().adaptive
        self.optimizer, self.decay, self.start = optimizer, decay, start

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        return _EMA(self.optimizer, parameters, self.decay, self.start)


class _EMA(Averaging):
    """Keeps the average."""

    def __init__(self, optimizer: OptimizerSpec, parameters: Sequence[NamedParameter], decay: float, start: int):
        super().__init__(optimizer, parameters)
        self.decay, self.start = decay, start

    def begin(self, parameters: Sequence[Tensor]) -> dict[str, Any]:
        return {"average": [p.clone() for p in parameters]}

    def average(self, kept: dict[str, Any]) -> None:
        averaged = max(1, kept["updates"] - self.start)  # 1 before the start: the average is the trained weights
        share = (1 - self.decay) / (1 - self.decay**averaged)
        torch._foreach_lerp_(kept["average"], kept["trained"], share)

    def averaged(self, kept: dict[str, Any]) -> list[Tensor]:
        average: list[Tensor] = kept["average"]
        return average
