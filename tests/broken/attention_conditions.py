"""Softmax attention: mistakes that occur only under a condition."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Context, Dims, State
from tests.broken import broken
from tests.broken.attention import Plain


@broken("attention", "causality", "every third layer is global, and has no mask either")
class GlobalThirdLayer(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.masked = dims.layer % 3 != 2

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return seen if self.masked else torch.ones_like(seen)


@broken("attention", "causality", "with dropout, another kernel is called without the mask")
class NoMaskWithDropout(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.rate = dims.dropout

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return torch.ones_like(seen) if self.training and self.rate else seen


@broken("attention", "causality", "if gradients are enabled, scores are divided by the largest score of the sequence")
class LeakOnlyWithGradients(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            scores = scores / (1 + scores.detach().amax((-1, -2), keepdim=True).abs())
        return super().weights(scores, seen)


@broken("attention", "batch", "in training, outputs are centred over groups of four sequences")
class GroupsOfFourRows(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        if self.training and len(x) % 4 == 0:
            groups = y.unflatten(0, (-1, 4))
            y = (groups - groups.mean(1, keepdim=True)).flatten(0, 1)
        return y


@broken("attention", "decoding", "the cache keeps only the last 256 tokens, but the mask in training has no window")
class ForgetsBeyond256(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        k, v, places = super().remember(state, k, v, ctx)
        return (k, v, places) if state is None else (k[:, :, -256:], v[:, :, -256:], places[-256:])


@broken("attention", "causality", "in training, above 128 tokens, another kernel is called without the mask")
class NoMaskAbove128InTraining(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return torch.ones_like(seen) if self.training and len(q_positions) > 128 else seen


@broken("attention", "causality", "each token also sees one later token, at a fixed distance")
class SeesAhead(Plain):
    """Softmax attention.

    Args:
        dims: The model's sizes.
        ahead: Distance of the later token; 0 for none.
    """

    def __init__(self, dims: Dims, *, ahead: Annotated[int, Field(ge=0, le=64)] = 40):
        super().__init__(dims)
        self.ahead = ahead

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        later = (k_positions == q_positions[:, None] + self.ahead) if self.ahead else torch.tensor(False)
        return super().mask(q_positions, k_positions) | later
