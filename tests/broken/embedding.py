"""Broken embeddings."""

from __future__ import annotations

import random
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Embedding, State
from tests.broken import broken, correct


@correct("embedding")
class Smeared(Embedding):
    """e(token) plus a share of the vector before it, and logits by the table or a separate map; each step is a method.

    Args:
        share: Initial share, trained for each coordinate.
        tied: Whether logits are products with the table's rows.
    """

    def __init__(self, dims: Dims, *, share: Annotated[float, Field(gt=0)] = 0.5, tied: bool = True):
        super().__init__()
        self.dims, self.tied = dims, tied
        self.table = nn.Embedding(dims.vocab_size, dims.d_model)
        self.share = nn.Parameter(torch.full((dims.d_model,), share))

    def forward(self, tokens: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        x = self.vectors(tokens, ctx)
        return x + self.share * self.before(x, state)

    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        """Return the table's rows."""
        return self.table(tokens)

    def before(self, x: Tensor, state: State | None) -> Tensor:
        """Return the vector before each one; zeros before the first token."""
        first = torch.zeros_like(x[:, :1]) if state is None else state.tensors["last"].to(x.dtype)
        if state is not None:
            state.tensors["last"] = x[:, -1:]
        return torch.cat((first, x[:, :-1]), 1)

    def build_head(self) -> nn.Module | None:
        return None if self.tied else nn.Linear(self.dims.d_model, self.dims.vocab_size, bias=False)

    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        return F.linear(x, self.table.weight) if head is None else head(x)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return State({"last": torch.zeros(batch, 1, self.dims.d_model, device=device, dtype=dtype)})


@broken("embedding", "causality", "the neighbour is the next token instead of the one before")
class LooksAhead(Smeared):
    def before(self, x: Tensor, state: State | None) -> Tensor:
        return torch.cat((x[:, 1:], torch.zeros_like(x[:, :1])), 1)


@broken("embedding", "causality", "roll puts the row's last token before its first")
class RollsAround(Smeared):
    def before(self, x: Tensor, state: State | None) -> Tensor:
        return x.roll(1, 1)


@broken("embedding", "causality", "vectors are centred over the row")
class Centred(Smeared):
    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        x = super().vectors(tokens, ctx)
        return x - x.mean(1, keepdim=True)


@broken("embedding", "causality", "how often a token occurs in the row is added, later places included")
class CountsInTheRow(Smeared):
    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        counts = (tokens[:, :, None] == tokens[:, None, :]).sum(-1, keepdim=True)
        return super().vectors(tokens, ctx) * counts.sqrt()


@broken("embedding", "gradient", "logits are divided by the largest of the row, which is detached only in evaluation")
class DividesByTheRow(Smeared):
    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        logits = super().logits(x, head)
        largest = logits.abs().amax((1, 2), keepdim=True)
        return logits * (largest / largest.detach()) if torch.is_grad_enabled() else logits


@broken("embedding", "batch", "vectors are divided by their deviation over the batch")
class OverTheBatch(Smeared):
    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        x = super().vectors(tokens, ctx)
        return x / (1 + x.std(0, keepdim=True, unbiased=False))


@broken("embedding", "decoding", "in decoding, every chunk begins like a text")
class ForgetsItsState(Smeared):
    def before(self, x: Tensor, state: State | None) -> Tensor:
        return super().before(x, None)


@broken("embedding", "decoding", "positions are counted in the chunk, not taken from the context")
class CountsInTheChunk(Smeared):
    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        return super().vectors(tokens, ctx) * (1 + 0.1 * torch.arange(tokens.shape[1], device=tokens.device)[:, None])


@broken("embedding", "states", "the last vector is kept in self, so the next text finds it")
class KeepsItInSelf(Smeared):
    last: Tensor | None = None

    def before(self, x: Tensor, state: State | None) -> Tensor:
        if state is None:
            return super().before(x, None)
        alike = self.last is not None and self.last.shape == x[:, :1].shape
        first = self.last if alike and self.last is not None else torch.zeros_like(x[:, :1])
        self.last = x[:, -1:].detach()
        return torch.cat((first.to(x), x[:, :-1]), 1)


@broken("embedding", "shape", "the table is padded to a multiple of 64, and so are the logits")
class PaddedVocabulary(Smeared):
    def __init__(self, dims: Dims, *, share: Annotated[float, Field(gt=0)] = 0.5):
        super().__init__(dims, share=share)
        self.table = nn.Embedding(-(-dims.vocab_size // 64) * 64, dims.d_model)


@broken("embedding", "shape", "logits are always fp32, whatever the type of the vectors")
class FixedPrecision(Smeared):
    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        return super().logits(x, head).float()


@broken("embedding", "shape", "a logarithm of the vectors' length is not finite for vectors of zero")
class LogarithmOfZero(Smeared):
    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        return super().logits(x, head) + (0 * x).norm(dim=-1, keepdim=True).log()


@broken("embedding", "liveness", "a separate map is built, but logits are computed with the table")
class BuildsAHeadForNothing(Smeared):
    def build_head(self) -> nn.Module | None:
        return nn.Linear(self.dims.d_model, self.dims.vocab_size, bias=False)

    def logits(self, x: Tensor, head: nn.Module | None) -> Tensor:
        return super().logits(x, None)


@broken("embedding", "determinism", "tokens are dropped in evaluation too")
class DropsTokensAlways(Smeared):
    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        return super().vectors(tokens, ctx) * (torch.rand(tokens.shape, device=tokens.device) > 0.1)[..., None]


@broken("embedding", "determinism", "tokens are dropped with Python's random numbers, which a run does not restore")
class DropsTokensWithPython(Smeared):
    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        x = super().vectors(tokens, ctx)
        return x * random.choice([0.5, 1.5]) if self.training else x


@broken("embedding", "weights", "a random projection is neither a parameter nor a buffer, so it is not saved")
class NotSaved(Smeared):
    def __init__(self, dims: Dims, *, share: Annotated[float, Field(gt=0)] = 0.5):
        super().__init__(dims, share=share)
        self.projection = torch.randn(dims.d_model, dims.d_model)

    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        x = super().vectors(tokens, ctx)
        return x @ self.projection.to(x)


@broken("embedding", "device", "the constructor reads a value, which the meta device does not have")
class ReadsAValue(Smeared):
    def __init__(self, dims: Dims, *, share: Annotated[float, Field(gt=0)] = 0.5):
        super().__init__(dims, share=share)
        self.size = float(self.table.weight.norm())

    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        return super().vectors(tokens, ctx) / self.size


@broken("embedding", "knobs", "the initial share is 0.5, whatever is asked for")
class IgnoresItsShare(Smeared):
    def init_weights(self) -> None:
        nn.init.constant_(self.share, 0.5)


@correct("embedding")
class SegmentedSmear(Smeared):
    """The vector before is added only if it is of the same segment."""

    uses = frozenset({"segments"})

    def forward(self, tokens: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        x = self.vectors(tokens, ctx)
        before = self.before(x, state)
        if ctx.segments is not None:
            earlier = torch.cat((self.first_segment(ctx.segments, state), ctx.segments[:, :-1]), 1)
            before = before * (earlier == ctx.segments)[..., None]
            if state is not None:
                state.tensors["segment"] = ctx.segments[:, -1:]
        return x + self.share * before

    def first_segment(self, segments: Tensor, state: State | None) -> Tensor:
        """Return the segment of the token before the first one."""
        return segments[:, :1] if state is None else state.tensors["segment"]

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().new_state(batch, capacity, device, dtype)
        state.tensors["segment"] = torch.zeros(batch, 1, dtype=torch.long, device=device)
        return state


@broken("embedding", "uses", "segments are declared, but the first token of one has the vector of the segment before")
class SmearsAcrossSegments(Smeared):
    uses = frozenset({"segments"})


@broken("embedding", "uses", "the state has no segment: a chunk's first token never has a token before it")
class EachChunkIsASegment(SegmentedSmear):
    def first_segment(self, segments: Tensor, state: State | None) -> Tensor:
        return segments[:, :1] - 1


@broken("embedding", "memory", "with a state, vectors are looked up under no_grad, because decoding has no gradients")
class NoGradientsWithAState(Smeared):
    def forward(self, tokens: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        if state is None:
            return super().forward(tokens, ctx)
        with torch.no_grad():
            return super().forward(tokens, ctx, state)
