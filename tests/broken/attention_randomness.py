"""Softmax attention that depends on more than its input: randomness, clocks, earlier passes."""

from __future__ import annotations

import math
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minigpt.contracts import Context, Dims, State
from tests.broken import broken
from tests.broken.attention import Plain


@broken("attention", "determinism", "F.dropout without training=self.training is active in evaluation mode too")
class DropoutAlwaysOn(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return F.dropout(super().weights(scores, seen), 0.1)


@broken("attention", "determinism", "noise is added to the scores in evaluation mode too")
class NoiseInEval(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(scores + 0.1 * torch.randn_like(scores), seen)


@broken("attention", "determinism", "noise in training comes from numpy, which torch's seed does not control")
class NumpyNoiseInTrain(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        noise = float(np.random.standard_normal()) if self.training else 0.0
        return super().weights(scores * (1 + 0.1 * noise), seen)


@broken("attention", "determinism", "Python's random decides whether the layer is dropped in training")
class PythonRandomInTrain(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        kept = not self.training or random.random() < 0.5
        return super().forward(x, ctx, state) * float(kept)


@broken("attention", "determinism", "each pass seeds torch, to get the same random features")
class SeedsInForward(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(0)
        q, k, v = super().heads(x)
        mix = torch.randn(self.head_dim, self.head_dim, device=x.device, dtype=v.dtype)
        return q, k, v @ mix


@broken("attention", "determinism", "the temperature depends on the clock")
class ReadsTheClock(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(scores * (1 + 0.1 * math.sin(time.perf_counter() * 1e3)), seen)


@broken("attention", "determinism", "a running mean is updated in evaluation mode too")
class RunningMean(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("mean", torch.zeros(dims.d_model))

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        with torch.no_grad():
            self.mean.lerp_(x.mean((0, 1)).to(self.mean.dtype), 0.1)
        return super().forward(x - self.mean.to(x.dtype), ctx, state)


@broken("attention", "determinism", "the temperature depends on the number of passes")
class CountsPasses(Plain):
    passes = 0

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        self.passes += 1
        return super().weights(scores * min(1.0, 0.1 * self.passes), seen)


@broken("attention", "determinism", "the mean of earlier inputs is stored on the module and added to the next")
class KeepsInputs(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.history: list[Tensor] = []

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        before = sum(self.history[-2:], torch.zeros_like(x[:1, :1]))
        self.history.append(x.detach().mean((0, 1), keepdim=True))
        return super().forward(x + before, ctx, state)


@broken("attention", "determinism", "the input is scaled in place, which also changes the residual stream")
class ChangesItsInput(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        with torch.no_grad():
            x /= x.norm(dim=-1, keepdim=True) + 1
        return super().forward(x, ctx, state)
