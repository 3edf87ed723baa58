"""Optimizing: update rules, and the learning rate over training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class NamedParameter:
    """A trainable tensor and what it is for, so that an optimizer can treat kinds apart.

    Attributes:
        name: Dotted path in the model.
        tensor: The parameter.
        role: `matrix` (inside the blocks; more than two axes are a stack of matrices), `embedding`, `head`, or `vector`
            (biases, gains, and what its component declares `elementwise`).
    """

    name: str
    tensor: nn.Parameter
    role: Literal["matrix", "embedding", "head", "vector"]


class Optimizer(ABC):
    """Recipes for torch optimizers. Constructor: `(*, ...)`."""

    @abstractmethod
    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        """Put every parameter into a group. Each group's `lr` is its peak: the trainer multiplies it by the schedule.

        The state_dict may hold tensors, numbers, text, lists and dicts: it is saved without pickle, to the bit.
        """


class AveragingOptimizer(torch.optim.Optimizer, ABC):
    """A torch optimizer that trains at other weights than those it answers with, such as their average.

    The trainer calls `eval` before it measures, samples or saves, and `train` before it goes on; both are exact, and a
    loaded state is one that was saved after `eval`.
    """

    @abstractmethod
    def eval(self) -> None:
        """Put the weights to be used into the parameters."""

    @abstractmethod
    def train(self) -> None:
        """Put the weights to be trained back into the parameters."""


class MixedPrecisionOptimizer(torch.optim.Optimizer):
    """A torch optimizer with matrix products of its own, which bf16 may make faster without harm to the weights.

    Attributes:
        precision: `fp32` or `bf16`, that of the training: the trainer sets it before the first update.
    """

    precision: str = "fp32"


class Schedule(ABC):
    """Learning rate over training, as a share of its peak. Constructor: `(max_iters, *, ...)`."""

    @abstractmethod
    def factor(self, step: int) -> float:
        """The share for update number `step`, 0 to max_iters - 1: finite, not negative, and a function of `step` alone."""
