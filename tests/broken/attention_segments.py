"""Softmax attention that keeps segments of a row apart, and mistakes in it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minigpt.contracts import Context, State
from minigpt.kernels import remember
from tests.broken import broken, correct
from tests.broken.attention import Plain


@correct("attention")
class Segmented(Plain):
    """A token sees only tokens of the same segment."""

    uses = Plain.uses | {"segments"}

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        q, k, v = self.heads(x)
        q, k = self.rotate(q, k, ctx)
        (k, v), segments, places = self.remembered(state, k, v, ctx)
        scores = q @ k.mT / math.sqrt(self.head_dim)
        bias = ctx.position.bias(ctx.positions, places)
        seen = self.mask(ctx.positions, places)
        if ctx.segments is not None and segments is not None:
            seen = seen & self.together(ctx.segments, segments)[:, None]
        weights = self.weights(scores if bias is None else scores + bias, seen)
        return self.out((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2))

    def remembered(
        self, state: State | None, k: Tensor, v: Tensor, ctx: Context
    ) -> tuple[tuple[Tensor, Tensor], Tensor | None, Tensor]:
        """Return keys and values so far, their segments [B, S], and their positions."""
        (k, v, *kept), places = remember(state, (k, v), ctx.positions, self.window, ctx.segments)
        return (k, v), kept[0][:, 0, :, 0] if kept else None, places

    def together(self, of_queries: Tensor, of_keys: Tensor) -> Tensor:
        """Return which queries and keys are of one segment."""
        return of_queries[:, :, None] == of_keys[:, None, :]


@broken("attention", "uses", "segments are declared and remembered, but the mask does not use them")
class IgnoresSegments(Segmented):
    def together(self, of_queries: Tensor, of_keys: Tensor) -> Tensor:
        return torch.ones_like(super().together(of_queries, of_keys))


@broken("attention", "uses", "tokens of earlier segments are seen, because numbers are compared with <=")
class SeesEarlierSegments(Segmented):
    def together(self, of_queries: Tensor, of_keys: Tensor) -> Tensor:
        return of_queries[:, :, None] >= of_keys[:, None, :]


@broken("attention", "uses", "the cache does not keep segments: remembered keys count as the new tokens' segment")
class LosesSegmentsInItsCache(Segmented):
    def remembered(
        self, state: State | None, k: Tensor, v: Tensor, ctx: Context
    ) -> tuple[tuple[Tensor, Tensor], Tensor | None, Tensor]:
        (k, v), places = remember(state, (k, v), ctx.positions, self.window)
        if ctx.segments is None:
            return (k, v), None, places
        earlier = ctx.segments[:, :1].expand(-1, len(places) - ctx.segments.shape[1])
        return (k, v), torch.cat((earlier, ctx.segments), 1), places


@broken("attention", "uses", "the first row's segments are used for the whole batch")
class SegmentsOfTheFirstRow(Segmented):
    def together(self, of_queries: Tensor, of_keys: Tensor) -> Tensor:
        return super().together(of_queries[:1], of_keys[:1]).expand(len(of_queries), -1, -1)


@broken("attention", "uses", "a segment's own first token is hidden from the rest of it")
class HidesTheBeginning(Segmented):
    def together(self, of_queries: Tensor, of_keys: Tensor) -> Tensor:
        begins = torch.ones_like(of_keys, dtype=torch.bool)
        begins[:, 1:] = of_keys[:, 1:] != of_keys[:, :-1]
        itself = torch.eye(of_keys.shape[1], dtype=torch.bool)[-of_queries.shape[1] :]
        return super().together(of_queries, of_keys) & (~begins[:, None, :] | itself)
