"""A failure is reported with its most basic reason: random, remembering, changing its input, not finite."""

from __future__ import annotations

import random
from typing import Annotated

import pytest
import torch
from pydantic import Field
from torch import Tensor

from minigpt.check import Failure, check_component
from minigpt.contracts import Context, Dims, State
from minigpt.registry import REGISTRY
from tests.broken.attention import Plain


class ScalesInPlace(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        with torch.no_grad():
            x *= 0.5
        return super().forward(x, ctx, state)


class RemembersInTraining(Plain):
    last = 0.0

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        weights = super().weights(scores * (1 + 0.1 * self.last), seen)
        if self.training:
            self.last = float(weights.detach().std())
        return weights


class Overflows(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(scores, seen) / (scores.detach().amax() < 0).to(scores.dtype)


class RandomByParameter(Plain):
    """Softmax attention.

    Args:
        noise: Deviation of the noise.
    """

    def __init__(self, dims: Dims, *, noise: Annotated[float, Field(ge=0)] = 0.0):
        super().__init__(dims)
        self.noise = noise

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(scores + self.noise * random.gauss(0, 1) * scores, seen)


def failure(cls: type, property: str, *, quick: bool = False) -> Failure:
    REGISTRY.register("attention", "tried")(cls)
    (result,) = check_component("attention", "tried", only=[property], quick=quick, shrink=False).results
    assert result.failure is not None, property
    return result.failure


@pytest.mark.parametrize(
    ("cls", "property", "message"),
    [
        (ScalesInPlace, "causality", "ScalesInPlace changes its input in place"),
        (RemembersInTraining, "causality", "in train mode, the same pass gives another output when it is repeated"),
        (RemembersInTraining, "modes", "in eval mode, equal inputs give other outputs after a forward pass in train mode"),
        (RandomByParameter, "causality", "in eval mode, equal inputs and equal torch seeds give other outputs each time"),
        (RandomByParameter, "modes", "in eval mode, equal inputs and equal torch seeds give other outputs each time"),
        (Overflows, "weights", "for ordinary inputs, output 0 is not finite"),
    ],
)
def test_a_property_reports_the_basic_reason(cls: type, property: str, message: str) -> None:
    assert failure(cls, property).message.startswith(message)


def test_randomness_behind_a_parameter_is_found_in_the_quick_part() -> None:
    found = failure(RandomByParameter, "determinism", quick=True)
    assert found.example["params"]
    assert "random numbers" in found.cause


def test_what_is_not_finite_does_not_break_determinism() -> None:
    REGISTRY.register("attention", "tried")(Overflows)
    (result,) = check_component("attention", "tried", only=["determinism"], shrink=False).results
    assert result.verdict == "pass"
