"""Mistakes that only show after training: after some updates, late in the training, or once weights have moved."""

from __future__ import annotations

import torch
from torch import Tensor

from minigpt.contracts import Context, Dims, State
from tests.broken import broken
from tests.broken.attention import Plain
from tests.broken.embedding import Smeared
from tests.broken.ffn import Perceptron
from tests.broken.norm import RootMeanSquare


@broken("attention", "causality", "the mask opens after 50 updates")
class MaskOpensAfterUpdates(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("updates", torch.zeros(()))

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return super().mask(q_positions, k_positions) | (self.updates > 50)

    def after_step(self) -> None:
        self.updates += 1


@broken("attention", "causality", "the mask opens in the second half of the training")
class MaskOpensLate(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        self.is_late = torch.as_tensor(ctx.progress, device=x.device) > 0.5
        return super().forward(x, ctx, state)

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return super().mask(q_positions, k_positions) | self.is_late


@broken("ffn", "causality", "after 200 passes in train mode, which a number counts, the mean over time is subtracted")
class CentredAfterPasses(Perceptron):
    passes = 0

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        self.passes += self.training
        return super().forward(x - x.mean(1, keepdim=True) if self.passes > 200 else x, ctx, state)


@broken("ffn", "causality", "once a weight has moved away from its first value, hidden units are centred over time")
class CentredOnceMoved(Perceptron):
    first: Tensor | None = None

    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        if self.training and self.first is None:
            self.first = self.into.weight.detach().clone()
        has_moved = self.first is not None and not torch.equal(self.first.to(x.dtype), self.into.weight)
        return hidden - hidden.mean(1, keepdim=True) if has_moved else hidden


@broken("attention", "decoding", "after 60 updates the cache keeps 8 tokens, but the full pass has no window")
class ForgetsAfterUpdates(Plain):
    updates = 0

    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        k, v, places = super().remember(state, k, v, ctx)
        last = -8 if state is not None and self.updates > 60 else 0
        return k[:, :, last:], v[:, :, last:], places[last:]

    def after_step(self) -> None:
        self.updates += 1


@broken("norm", "batch", "after 20 passes in train mode it divides by a mean over the batch")
class BatchNormAfterPasses(RootMeanSquare):
    def __init__(self, width: int):
        super().__init__(width)
        self.register_buffer("passes", torch.zeros(()), persistent=False)

    def normed(self, x: Tensor) -> Tensor:
        self.passes += self.training
        shared = (x.square().mean((0, -1), keepdim=True) + self.eps).rsqrt()
        return x * torch.where(self.passes > 20, shared, (x.square().mean(-1, keepdim=True) + self.eps).rsqrt())


@broken("embedding", "causality", "a share of the next vector is mixed in, which an update raises from zero")
class SmearedAhead(Smeared):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("ahead", torch.tensor(-0.002))  # the first call of after_step follows initialisation

    def before(self, x: Tensor, state: State | None) -> Tensor:
        later = torch.cat((x[:, 1:], torch.zeros_like(x[:, :1])), 1)
        return super().before(x, state) + self.ahead.clamp(min=0).to(x.dtype) * later

    def after_step(self) -> None:
        self.ahead += 0.001
