"""Mirostat: text of a constant surprise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Sampler
from minigpt.registry import register

_BITS = 1 / math.log(2)
"""Bits in a nat."""


@dataclass
class _Memory:
    """What a text has taught.

    Attributes:
        mu: Tokens with more surprise than this are removed, in bits.
        surprises: -log2 of the model's probability of each next token.
    """

    mu: float
    surprises: Float[Tensor, " vocab"]


@register("sampler", "mirostat")
class Mirostat(Sampler):
    """Version 2 of mirostat (arXiv:2007.14966): a limit on surprise, adjusted so that the text's surprise is tau on average.

    Tokens with -log2 p > mu are removed, but never the most likely one. After token x, mu <- mu - eta (-log2 p(x) - tau),
    with the p of the model, and mu = 2 tau at first.

    Args:
        tau: Mean surprise of the text, in bits per token.
        eta: How fast mu follows.
    """

    def __init__(self, *, tau: Annotated[float, Field(gt=0)] = 3.0, eta: Annotated[float, Field(gt=0)] = 0.1):
        self.tau, self.eta = tau, eta

    def new_memory(self) -> _Memory:
        return _Memory(2 * self.tau, torch.empty(0))

    def probabilities(self, logits: Float[Tensor, " vocab"], ids: Sequence[int], memory: _Memory) -> Float[Tensor, " vocab"]:
        memory.surprises = -_BITS * logits.double().log_softmax(-1)
        removed = memory.surprises > memory.mu
        removed[logits.argmax()] = False
        return logits.double().masked_fill(removed, -torch.inf).softmax(-1)

    def observe(self, token: int, probabilities: Float[Tensor, " vocab"], memory: _Memory) -> None:
        memory.mu -= self.eta * (float(memory.surprises[token]) - self.tau)
