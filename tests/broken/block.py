"""Broken blocks."""

from __future__ import annotations

import random
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.contracts import Block, Context, Dims, Layer, State, substate
from tests.broken import broken, correct


@correct("block")
class PreNorm(Block):
    """x + attention(norm(x)), then x + ffn(norm(x)); each step is a method."""

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__()
        self.attention_norm = layer.norm.build(dims.d_model)
        self.attention = layer.attention.build(dims)
        self.ffn_norm = layer.norm.build(dims.d_model)
        self.ffn = layer.ffn.build(dims)
        self.dropout = nn.Dropout(dims.dropout)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        x = x + self.added(self.attend(self.attention_norm(x), ctx, state))
        return x + self.added(self.feed(self.ffn_norm(x), ctx, state))

    def attend(self, x: Tensor, ctx: Context, state: State | None) -> Tensor:
        """Return the attention's output."""
        return self.attention(x, ctx, substate(state, "attention"))

    def feed(self, x: Tensor, ctx: Context, state: State | None) -> Tensor:
        """Return the feed-forward's output."""
        return self.ffn(x, ctx, substate(state, "ffn"))

    def added(self, y: Tensor) -> Tensor:
        """Return the term that is added to the residual stream."""
        return self.dropout(y)


@correct("block")
class FromIdentity(PreNorm):
    """x + a attention(norm(x)), then x + a ffn(norm(x)), with a = 0 initially."""

    starts_as_identity = True

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__(dims, layer)
        self.share = nn.Parameter(torch.zeros(()))

    def added(self, y: Tensor) -> Tensor:
        return self.dropout(y) * self.share.to(y.dtype)


@broken("block", "identity", "the initial factor is a small number instead of 0")
class SmallIsNotZero(FromIdentity):
    def init_weights(self) -> None:
        nn.init.constant_(self.share, 1e-2)


@broken("block", "identity", "the attention has an initial factor of 0, the feed-forward has none")
class FeedForwardFromTheStart(FromIdentity):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        x = x + self.added(self.attend(self.attention_norm(x), ctx, state))
        return x + self.dropout(self.feed(self.ffn_norm(x), ctx, state))


@broken("block", "decoding", "the attention's state is requested under a wrong name, so there is none")
class StateMisspelt(PreNorm):
    def attend(self, x: Tensor, ctx: Context, state: State | None) -> Tensor:
        return self.attention(x, ctx, substate(state, "attn"))


@broken("block", "decoding", "the state is not passed on to the attention")
class StateForgotten(PreNorm):
    def attend(self, x: Tensor, ctx: Context, state: State | None) -> Tensor:
        return self.attention(x, ctx)


@broken("block", "decoding", "the state is not passed on to the feed-forward, which seldom has a state")
class FeedForwardStateForgotten(PreNorm):
    def feed(self, x: Tensor, ctx: Context, state: State | None) -> Tensor:
        return self.ffn(x, ctx)


@broken("block", "causality", "the residual stream is divided by its variance over time")
class NormsOverTime(PreNorm):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state) / (1 + x.var(1, unbiased=False, keepdim=True))


@broken("block", "causality", "the residual is the stream of the next token")
class ResidualAhead(PreNorm):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state) - x + F.pad(x[:, 1:], (0, 0, 0, 1))


@broken("block", "causality", "a skip connection adds the last token's stream to all tokens")
class LastTokenForAll(PreNorm):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state) + 0.1 * x[:, -1:]


@broken("block", "batch", "the added term is scaled by its root mean square over the batch")
class ScalesOverTheBatch(PreNorm):
    def added(self, y: Tensor) -> Tensor:
        return super().added(y) / (1 + y.square().mean(0, keepdim=True).sqrt())


@broken("block", "determinism", "dropout of the added term is active in evaluation mode too")
class DropoutAlwaysOn(PreNorm):
    def added(self, y: Tensor) -> Tensor:
        return F.dropout(y, 0.1)


@broken("block", "determinism", "Python's random decides whether the layer is dropped in training")
class DropsByPythonRandom(PreNorm):
    def added(self, y: Tensor) -> Tensor:
        return super().added(y) * float(not self.training or random.random() < 0.7)


@broken("block", "determinism", "a skip connection reads the stream of an earlier pass")
class StreamOfAnEarlierPass(PreNorm):
    earlier: Tensor | None = None

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        skip = 0.0 if self.earlier is None else self.earlier.mean()
        self.earlier = x.detach()
        return super().forward(x + skip, ctx, state)


@broken("block", "weights", "the layer's number comes from a counter of all blocks built so far")
class CountsLayers(PreNorm):
    built = 0

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__(dims, layer)
        self.number = CountsLayers.built
        CountsLayers.built += 1
        self.share = nn.Parameter(torch.tensor(1 / (1 + self.number)))

    def added(self, y: Tensor) -> Tensor:
        return super().added(y) * self.share.to(y.dtype)


@broken("block", "liveness", "the second sub-layer uses the first one's norm, so its own norm is unused")
class NormNotUsed(PreNorm):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        x = x + self.added(self.attend(self.attention_norm(x), ctx, state))
        return x + self.added(self.feed(self.attention_norm(x), ctx, state))


@broken("block", "shape", "leave returns both streams that enter created")
class LeavesTwoStreams(PreNorm):
    def enter(self, x: Tensor) -> Tensor:
        return torch.stack((x, x), 2)

    def leave(self, x: Tensor) -> Tensor:
        return x.flatten(2)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return torch.stack((super().forward(x[:, :, 0], ctx, state), x[:, :, 1]), 2)


@broken("block", "device", "a mask of ones is created on the CPU")
class MaskOnTheCpu(PreNorm):
    def added(self, y: Tensor) -> Tensor:
        return super().added(y) * torch.ones(y.shape[-1])


@correct("block")
class WithTheStreamBefore(PreNorm):
    """The stream of the token before is added, if it is of the same segment."""

    uses = frozenset({"segments"})

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__(dims, layer)
        self.width = dims.d_model

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        segments = torch.zeros_like(ctx.tokens) if ctx.segments is None else ctx.segments
        first, segment = x[:, :1], segments[:, :1] - 1
        if state is not None:
            first, segment = state.tensors["last"].to(x.dtype), self.kept(state)
            state.tensors |= {"last": x[:, -1:], "segment": segments[:, -1:]}
        same = self.same(torch.cat((segment, segments[:, :-1]), 1), segments)
        before = torch.cat((first, x[:, :-1]), 1) * same[..., None]
        return super().forward(x + 0.5 * before, ctx, state)

    def same(self, earlier: Tensor, segments: Tensor) -> Tensor:
        """Return whether a token and the one before it are of one segment."""
        return earlier == segments

    def kept(self, state: State) -> Tensor:
        """Return the segment of the last token so far; -1 before the first token."""
        return state.tensors["segment"]

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().new_state(batch, capacity, device, dtype) or State()
        state.tensors["last"] = torch.zeros(batch, 1, self.width, device=device, dtype=dtype)
        state.tensors["segment"] = torch.full((batch, 1), -1, device=device)
        return state


@broken("block", "uses", "segments are declared, but the stream before is added across them")
class AddsTheSegmentBefore(WithTheStreamBefore):
    def same(self, earlier: Tensor, segments: Tensor) -> Tensor:
        return earlier > -1


@broken("block", "uses", "the state forgets the segment of its last stream")
class ForgetsItsSegment(WithTheStreamBefore):
    def kept(self, state: State) -> Tensor:
        return super().kept(state).clamp(max=0)


@broken("block", "uses", "the parts inside get a context without segments")
class HidesSegmentsFromItsParts(PreNorm):
    def attend(self, x: Tensor, ctx: Context, state: State | None) -> Tensor:
        return super().attend(x, replace(ctx, segments=None), state)
