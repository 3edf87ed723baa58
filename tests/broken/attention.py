"""Softmax attention: the future, and other sequences of the batch, come in."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Attention, Context, Dims, ResidualLinear, State
from minigpt.kernels import new_cache, remember, visible
from tests.broken import broken, correct


@correct("attention")
class Plain(Attention):
    """softmax(q k^T / sqrt(K) + bias) v, written out; each step is a method, for a mistake to replace it."""

    uses = frozenset({"rotate", "bias"})
    window: int | None = None

    def __init__(self, dims: Dims):
        super().__init__()
        self.n_heads, self.head_dim = dims.n_heads, dims.head_dim
        self.qkv = nn.Linear(dims.d_model, 3 * dims.n_heads * dims.head_dim, bias=False)
        self.out = ResidualLinear(dims.n_heads * dims.head_dim, dims.d_model, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        q, k, v = self.heads(x)
        q, k = self.rotate(q, k, ctx)
        k, v, places = self.remember(state, k, v, ctx)
        scores = q @ k.mT / math.sqrt(self.head_dim)
        bias = ctx.position.bias(ctx.positions, places)
        scores = scores if bias is None else scores + bias
        weights = self.weights(scores, self.mask(ctx.positions, places))
        return self.out((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [B, H, T, K] each."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def rotate(self, q: Tensor, k: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """Both turned by where they stand."""
        return ctx.position.rotate(q, k, ctx.positions)

    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        """All keys and values that there are, and where they stand."""
        (k, v), places = remember(state, (k, v), ctx.positions, self.window)
        return k, v, places

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Which keys each query sees."""
        return visible(q_positions, k_positions, self.window)

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        """The share of each key."""
        return scores.masked_fill(~seen, -torch.inf).softmax(-1)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return new_cache(batch, 2 * [(self.n_heads, self.head_dim)], capacity, self.window, device, dtype)


@correct("attention")
class Windowed(Plain):
    """A token sees itself and window - 1 before it.

    Args:
        window: Tokens that are seen.
    """

    def __init__(self, dims: Dims, *, window: Annotated[int, Field(gt=0)] = 4):
        super().__init__(dims)
        self.window = self.reach = window


@correct("attention")
class Gated(Plain):
    """Each head's output is multiplied by a number that its input sets."""

    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.gate = nn.Linear(dims.d_model, dims.d_model, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state) * self.gates(x)

    def gates(self, x: Tensor) -> Tensor:
        """What the output is multiplied by."""
        return self.gate(x).sigmoid()


# Masks.


@broken("attention", "causality", "the mask is off by one: a token sees the next one")
class MaskOffByOne(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return q_positions[:, None] - k_positions[None, :] >= -1


@broken("attention", "causality", "the mask is the upper triangle: a token sees what comes after it")
class MaskTransposed(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return super().mask(k_positions, q_positions).mT


@broken("attention", "causality", "a bias takes the mask's place where there is one")
class MaskLostWithBias(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        q, k, v = self.heads(x)
        q, k = self.rotate(q, k, ctx)
        k, v, places = self.remember(state, k, v, ctx)
        bias = ctx.position.bias(ctx.positions, places)
        mask = self.mask(ctx.positions, places) if bias is None else bias.to(q.dtype)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


@broken("attention", "causality", "a mask made for block_size is cut from its wrong end, and right at full length only")
class MaskFromWrongEnd(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        ones = torch.ones(dims.block_size, dims.block_size, dtype=torch.bool)
        self.register_buffer("triangle", ones.tril(), persistent=False)

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return self.triangle[-len(q_positions) :, : len(k_positions)]


@broken("attention", "causality", "the softmax runs over the queries, so that each weight depends on later ones")
class SoftmaxOverQueries(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return scores.masked_fill(~seen, -torch.inf).softmax(-2)


@broken("attention", "causality", "weights are masked after the softmax, whose sum has run over later keys")
class MaskAfterSoftmax(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return scores.softmax(-1) * seen


@broken("attention", "causality", "in evaluation the mask is left out")
class LeakOnlyInEval(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return seen if self.training else torch.ones_like(seen)


@broken("attention", "causality", "dropout after a finite mask turns the masked scores that it drops into visible ones")
class LeakOnlyInTrain(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return F.dropout(scores.masked_fill(~seen, -1e4), 0.1, self.training).softmax(-1)


@broken("attention", "causality", "above 64 tokens a mask by blocks of 16 is used, as if nothing stood inside of a block")
class LeakAbove64(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        if len(k_positions) <= 64:
            return super().mask(q_positions, k_positions)
        return q_positions[:, None] // 16 >= k_positions // 16


@broken("attention", "causality", "a mask of 100 tokens is padded with visible ones")
class LeakAbove100(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return F.pad(seen[:, :100], (0, max(0, len(k_positions) - 100)), value=True)


@broken(
    "attention", "causality", "distances are counted in eight bits: one of -129 is 127, and a late key seems to be early"
)
class DistancesInEightBits(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return (q_positions.to(torch.int8)[:, None] - k_positions.to(torch.int8)) >= 0


@broken("attention", "causality", "10,000 is taken off masked scores, which large inputs outweigh")
class FiniteMask(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return (scores - 1e4 * ~seen).softmax(-1)


@broken("attention", "causality", "every second layer was to be local, and its mask looks ahead as far as back")
class LeakInEverySecondLayer(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.is_local = dims.layer % 2 == 1

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        near = (q_positions[:, None] - k_positions).abs() < 4
        return near if self.is_local else super().mask(q_positions, k_positions)


@broken("attention", "causality", "one sequence is taken for one that is decoded, where nothing later is there to be masked")
class LeakAtBatchOne(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return scores.softmax(-1) if len(scores) == 1 else super().weights(scores, seen)


@broken("attention", "causality", "the mask for padding, token 0, is joined to the causal one by an or")
class PaddingUnmasks(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        self.padding = (ctx.tokens == 0)[:, None, None, :]
        return super().forward(x, ctx, state)

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        known = F.pad(self.padding, (seen.shape[-1] - self.padding.shape[-1], 0))
        return super().weights(scores, seen | known)


@broken("attention", "causality", "odd lengths are padded by one, and the mask moves along")
class LeakAtOddLengths(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return q_positions[:, None] - k_positions + len(k_positions) % 2 >= 0


@broken("attention", "causality", "even lengths have a middle, and both sides of it see it")
class LeakAtEvenLengths(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        if len(k_positions) % 2 == 0:
            seen[:, len(k_positions) // 2] = True
        return seen


@broken("attention", "causality", "chunks of 16 overlap: the last row of one sees the first key of the next")
class LeakAtChunkEnd(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        q = q_positions[:, None]
        return k_positions <= q + (q % 16 == 15)


@broken("attention", "causality", "heads are split by a view without a transpose: rows of time are taken for heads")
class HeadsByView(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, _ = x.shape
        q, k, v = (part.reshape(batch, self.n_heads, length, self.head_dim) for part in self.qkv(x).chunk(3, -1))
        return q, k, v


# Other ways for the future to come in.


@broken("attention", "causality", "inputs are centred by their mean over time")
class MeanOverTime(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x - x.mean(1, keepdim=True), ctx, state)


@broken("attention", "causality", "values are normalised over time in place of their width")
class NormOverTime(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q, k, F.layer_norm(v.mT, (v.shape[2],)).mT


@broken("attention", "causality", "values are divided by the largest of the whole sequence")
class ScaledByMaxOverTime(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q, k, v / (v.abs().amax(2, keepdim=True) + 1e-6)


@broken("attention", "causality", "values are rounded to eight bits with one scale for the sequence: no gradient shows it")
class QuantisedOverTime(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        step = v.detach().abs().amax((2, 3), keepdim=True) / 127 + 1e-9
        return q, k, v + ((v / step).round() * step - v).detach()


@broken("attention", "causality", "the loudest token of the whole sequence counts double: an argmax, without a gradient")
class ArgmaxOverTime(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        loudest = F.one_hot(v.norm(dim=-1).argmax(-1), v.shape[2])
        return q, k, v * (1 + loudest[..., None]).to(v.dtype)


@broken("attention", "causality", "only the half of the tokens with the highest scores is mixed (mixture of depths)")
class TopHalfOfTheTokens(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.router = nn.Linear(dims.d_model, 1)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        scores = self.router(x)
        least = scores.topk((x.shape[1] + 1) // 2, 1).values[:, -1:]
        return super().forward(x, ctx, state) * scores.sigmoid() * (scores >= least)


@broken("attention", "causality", "a thousandth of the next token's value is added")
class WeakLeak(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q, k, v + 1e-3 * F.pad(v[:, :, 1:], (0, 0, 0, 1))


@broken("attention", "causality", "a table is asked for the next token's row, the target")
class ReadsNextToken(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.table = nn.Embedding(dims.vocab_size, dims.d_model)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x + self.table(F.pad(ctx.tokens[:, 1:], (0, 1))), ctx, state)


@broken("attention", "causality", "each token is divided by how often it comes in the whole sequence")
class CountsTokens(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        counts = (ctx.tokens[:, :, None] == ctx.tokens[:, None, :]).sum(-1, keepdim=True)
        return super().forward(x / counts, ctx, state)


@broken("attention", "causality", "a shift by roll brings the last token round to the first")
class RollForShift(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x + x.roll(1, 1), ctx, state)


@broken("attention", "gradient", "a straight-through term changes no output, but teaches earlier ones with later inputs")
class StraightThroughLeak(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        smooth = y.mean(1, keepdim=True)
        return y + (smooth - smooth.detach())


@broken("attention", "autocast", "the path for bf16 forgets the mask")
class LeakOnlyInBf16(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return scores.softmax(-1) if scores.dtype == torch.bfloat16 else super().weights(scores, seen)


@broken(
    "attention", "autocast", "what keeps a gate below 1, and a division from being one by 0, is lost in bf16's eight bits"
)
class EpsLostInBf16(Gated):
    def gates(self, x: Tensor) -> Tensor:
        below_one = (1 - 1e-4) * self.gate(x).sigmoid()
        return 1e-4 / (1 - below_one)


# Other sequences of the batch.


@broken("attention", "batch", "the softmax runs over the batch")
class SoftmaxOverBatch(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return scores.softmax(0) * seen


@broken("attention", "batch", "inputs are normalised over the batch")
class NormOverBatch(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        spread = x.var(0, unbiased=False, keepdim=True)
        return super().forward((x - x.mean(0, keepdim=True)) * (spread + 1e-5).rsqrt(), ctx, state)


@broken("attention", "batch", "a straight-through term changes no output, but teaches sequences with their neighbours")
class StraightThroughTheBatch(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        centre = y.mean(0, keepdim=True)
        return y - (centre - centre.detach())


@broken("attention", "batch", "keys of the first sequence serve all: a leftover of debugging with batch 1")
class KeysOfTheFirstRow(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q, k[:1].expand_as(k), v
