"""Parts of honest scorers that are unusual: the check of a trained model must raise no alarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, State
from tests.broken.attention import Plain
from tests.broken.embedding import Smeared
from tests.broken.ffn import Experts, Perceptron

T = TypeVar("T")


@dataclass(frozen=True)
class Honest:
    """A part that is right, although the check of a trained model could take it for broken.

    Attributes:
        family: Its family.
        name: Its registered name.
        cls: The class.
        why: What is unusual about it, and why it is right, in a sentence.
    """

    family: str
    name: str
    cls: type
    why: str


HONEST: list[Honest] = []


def honest(family: str, why: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: record a part that is right but unusual."""

    def record(cls: type[T]) -> type[T]:
        HONEST.append(Honest(family, f"honest_{cls.__name__.lower()}", cls, why))
        return cls

    return record


@honest("ffn", "a buffer counts the tokens of all passes, evaluations too, and no output depends on it")
class CountsItsTokens(Perceptron):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def hidden(self, x: Tensor) -> Tensor:
        self.seen += x.shape[0] * x.shape[1]
        return super().hidden(x)


@honest("attention", "masks are kept by their lengths: a cache that changes no value")
class KeepsItsMasks(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.kept: dict[tuple[int, ...], Tensor] = {}

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        key = (int(q_positions[0]), len(q_positions), len(k_positions))
        if key not in self.kept:
            self.kept[key] = super().mask(q_positions, k_positions)
        return self.kept[key]


@honest("ffn", "a running mean of training is a buffer, is saved, and is subtracted in both modes")
class RunningMean(Perceptron):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("mean", torch.zeros(2 * dims.d_model))

    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        if self.training:
            self.mean.lerp_(hidden.detach().mean((0, 1)), 0.1)
        return hidden - self.mean.to(hidden)


@honest("attention", "scores become sharper with the progress of the training, by the same factor everywhere")
class SharpensWithProgress(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        self.sharpness = 1 + ctx.progress
        return super().forward(x, ctx, state)

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(scores * self.sharpness, seen)


@honest("embedding", "one id is practically excluded: its logit is 30 lower")
class ExcludesAnId(Smeared):
    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        y = super().logits(x, head)
        return y - 30.0 * (torch.arange(y.shape[-1], device=y.device) == 11)


@honest("ffn", "experts are chosen in fp32, whatever the model computes in")
class ChoosesInFp32(Experts):
    def scores(self, x: Tensor) -> Tensor:
        return (x.float() @ self.router.weight.float().T).to(x.dtype)
