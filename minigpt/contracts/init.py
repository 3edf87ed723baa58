"""The contract of initialisations: how weights begin, and the factors that follow from a model's size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from minigpt.contracts.optimizing import NamedParameter
from minigpt.contracts.parts import INIT_STD


@dataclass(frozen=True)
class Factors:
    """Factors on an optimizer's settings for one parameter.

    Attributes:
        lr: On the learning rate.
        weight_decay: On the weight decay; an optimizer multiplies it by the learning rate.
        eps: On the number that keeps divisors from zero.
    """

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


class Init(ABC):
    """How weights begin, and the factors that follow from a model's size. Constructor: `(dims, *, ...)`.

    A parametrisation such as muP sets all of it, so that settings found for a small model hold for a large one.
    """

    transfers: ClassVar[frozenset[str]] = frozenset()
    """A promise: the sizes of activations do not change with "width", with "depth", or with both."""

    needs_adaptive: bool = False
    """Whether its factors are derived for optimizers that are `adaptive`. Others are refused."""

    matrix_std: float = INIT_STD
    """Deviation of a matrix inside the blocks, for a component that draws its own."""

    residual_std: float = INIT_STD
    """Deviation of a matrix that writes to the residual stream, for a component that draws its own. An initialisation that
    makes such matrices smaller in deep models must set it."""

    score_factor: float = 1.0
    """On the scores of softmax attention, beside 1/sqrt(head_dim)."""

    residual_factor: float = 1.0
    """On what each sub-layer adds to the residual stream: on the output of every `ResidualLinear`."""

    logit_factor: float = 1.0
    """On the input of the output map."""

    @abstractmethod
    def draw(self, model: nn.Module) -> None:
        """Draw the weights of all linear maps and embeddings in a module.

        What a tensor gets depends on its own kind and shape, not on the order of the modules. Afterwards every component's
        `init_weights` is called.
        """

    def factors(self, parameter: NamedParameter) -> Factors:
        """The factors for one parameter."""
        return Factors()
