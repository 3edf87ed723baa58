"""Contracts of optimizers and of learning rate schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

Role = Literal["matrix", "embedding", "head", "vector"]


@dataclass(frozen=True)
class NamedParameter:
    """A trainable tensor and its role, which an optimizer can use to choose an update rule.

    Attributes:
        name: Dotted path in the model.
        tensor: The parameter.
        role: `matrix` (in blocks, objectives, and maps of an embedding; more than two axes are a stack of matrices),
            `embedding`, `head`, or `vector` (biases, gains, and what its component declares `elementwise`).
        layer: Index of the block that the tensor is in; None outside the blocks.
    """

    name: str
    tensor: nn.Parameter
    role: Role
    layer: int | None = None


class Optimizer(ABC):
    """A recipe for a torch optimizer. Constructor: `(*, ...)`."""

    adaptive: bool = False
    """A promise: an update changes entries of a tensor by about the learning rate on average, whatever the sizes of tensor
    and gradient, as Adam's does. Initialisations that scale learning rates (muP) are derived for such optimizers."""

    averages: ClassVar[bool] = False
    """Whether `build` returns an `AveragingOptimizer`. An optimizer that averages refuses to wrap another one."""

    @abstractmethod
    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        """Build the torch optimizer, with every parameter in one of its groups.

        Each group's `lr` is its peak: the trainer multiplies it by the schedule. A key that shall change otherwise has its
        ramp, as JSON, in the group's `ramps`, and the trainer sets it before each update. The state_dict may hold tensors,
        numbers, text, lists and dicts. It is saved without pickle, and loaded bit for bit. A group's value that was None or
        a number may become a tensor, such as the state of a generator.

        `step` leaves gradients as they are. At a rate of 0 from the beginning it changes no weight of the group. Later it
        may still move weights towards where they were (slow weights), or along an inertia that ends.

        Raises:
            ValueError: It cannot train these parameters. This is reported with the optimizer's path in the experiment.
        """


class AveragingOptimizer(torch.optim.Optimizer, ABC):
    """A torch optimizer that evaluates with other weights than it trains, such as their average.

    The trainer calls `eval` before it measures, samples or saves, and `train` before it continues. Both are exact. A
    loaded state was saved after `eval`.
    """

    @abstractmethod
    def eval(self) -> None:
        """Put the evaluation weights into the parameters."""

    @abstractmethod
    def train(self) -> None:
        """Put the training weights back into the parameters."""


class MixedPrecisionOptimizer(torch.optim.Optimizer):
    """A torch optimizer with matrix products that may run in bf16, without harm to the weights.

    Attributes:
        precision: `fp32` or `bf16`, the precision of the training. The trainer sets it before the first update.
    """

    precision: str = "fp32"


class Schedule(ABC):
    """Learning rate over training, as a share of its peak. Constructor: `(max_iters, *, ...)`."""

    jumps: bool = False
    """Whether the factor may change at once by more than a tenth of the peak, as in a restart or a decay in steps."""

    @abstractmethod
    def factor(self, step: int) -> float:
        """The share at update `step`, 0 to max_iters - 1: finite, not negative, not far above 1, and from `step` only."""
