"""What optimizers share that average the weights which another optimizer trains."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from minigpt.contracts import AveragingOptimizer, MixedPrecisionOptimizer, NamedParameter, OptimizerSpec

_KEY = "averaging"
"""The key of the averages in the state, beside the parameters and their state of the other optimizer."""


def refuse_averaging(optimizer: OptimizerSpec) -> None:
    """Refuse to average twice.

    Raises:
        ValueError: The optimizer averages already.
    """
    if optimizer.cls.averages:
        raise ValueError(f"optimizer: {optimizer.name} averages already; choose an optimizer that does not, such as adamw")


class Averaging(AveragingOptimizer, MixedPrecisionOptimizer):
    """Steps with another optimizer, whose groups and state it shares, and averages the resulting weights.

    The trained weights are kept after each step, so that `train` restores them bit for bit from a saved state.

    Args:
        optimizer: Builds the optimizer that trains.
        parameters: What it trains.
    """

    def __init__(self, optimizer: OptimizerSpec, parameters: Sequence[NamedParameter]):
        with optimizer.errors_located():
            self.trainer = optimizer.build().build(parameters)
        if isinstance(self.trainer, AveragingOptimizer):
            raise TypeError(f"{optimizer.name} averages, but its class does not say so: `averages = True`")
        super().__init__(self.trainer.param_groups, self.trainer.defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        # Passed at every step, because the caller may have replaced them.
        self.trainer.param_groups, self.trainer.state = self.param_groups, self.state
        if isinstance(self.trainer, MixedPrecisionOptimizer):
            self.trainer.precision = self.precision
        self.trainer.step()
        kept = self._kept
        if not kept:
            kept = {"updates": 0, "trained": [p.clone() for p in self._parameters], **self.begin(self._parameters)}
            cast(dict[Any, Any], self.state)[_KEY] = kept
        kept["updates"] += 1
        torch._foreach_copy_(kept["trained"], self._parameters)
        self.average(kept)

    @abstractmethod
    def begin(self, parameters: Sequence[Tensor]) -> dict[str, Any]:
        """What is kept beside `updates`, their number, and `trained`, the weights after the last one."""

    @abstractmethod
    def average(self, kept: dict[str, Any]) -> None:
        """Include the trained weights in what is kept."""

    @abstractmethod
    def averaged(self, kept: dict[str, Any]) -> list[Tensor]:
        """The evaluation weights."""

    @torch.no_grad()
    def eval(self) -> None:
        if self._kept:
            torch._foreach_copy_(self._parameters, self.averaged(self._kept))

    @torch.no_grad()
    def train(self) -> None:
        if self._kept:
            torch._foreach_copy_(self._parameters, self._kept["trained"])

    def state_dict(self) -> dict[str, Any]:
        self.trainer.param_groups, self.trainer.state = self.param_groups, self.state
        return self.trainer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.trainer.load_state_dict(state_dict)
        self.param_groups, self.state = self.trainer.param_groups, self.trainer.state
        kept = self._kept
        for name, value in kept.items():
            if isinstance(value, list):  # torch leaves what belongs to no parameter on the device of the file
                kept[name] = [each.to(p.device, copy=True) for each, p in zip(value, self._parameters, strict=True)]

    @property
    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @property
    def _kept(self) -> dict[str, Any]:
        """What is kept; empty before the first step."""
        kept: dict[str, Any] = cast(dict[Any, Any], self.state).get(_KEY, {})
        return kept
