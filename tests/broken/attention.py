"""Softmax attention: leaks from later tokens and from other sequences of the batch."""

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
    """softmax(q k^T / sqrt(K) + bias) v; each step is a method that a mistake can override."""

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
        """Return queries, keys and values, each [B, H, T, K]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def rotate(self, q: Tensor, k: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """Rotate queries and keys by their positions."""
        return ctx.position.rotate(q, k, ctx.positions)

    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Return all keys and values so far, and the positions of the keys."""
        (k, v), places = remember(state, (k, v), ctx.positions, self.window)
        return k, v, places

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Return which keys each query sees."""
        return visible(q_positions, k_positions, self.window)

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        """Return the weight of each key."""
        return scores.masked_fill(~seen, -torch.inf).softmax(-1)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return new_cache(batch, 2 * [(self.n_heads, self.head_dim)], capacity, self.window, device, dtype)


@correct("attention")
class Windowed(Plain):
    """A token sees itself and the window - 1 tokens before it.

    Args:
        window: Number of tokens seen.
    """

    def __init__(self, dims: Dims, *, window: Annotated[int, Field(gt=0)] = 4):
        super().__init__(dims)
        self.window = self.reach = window


@correct("attention")
class Gated(Plain):
    """The output is multiplied by a gate computed from the input."""

    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.gate = nn.Linear(dims.d_model, dims.d_model, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state) * self.gates(x)

    def gates(self, x: Tensor) -> Tensor:
        """Return the factors of the output."""
        return self.gate(x).sigmoid()


# Masks.


@broken("attention", "causality", "the mask is off by one: a token sees the next token")
class MaskOffByOne(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return q_positions[:, None] - k_positions[None, :] >= -1


@broken("attention", "causality", "the mask is the upper triangle: a token sees later tokens")
class MaskTransposed(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return super().mask(k_positions, q_positions).mT


@broken("attention", "causality", "if there is a bias, it replaces the mask")
class NoMaskWithBias(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        q, k, v = self.heads(x)
        q, k = self.rotate(q, k, ctx)
        k, v, places = self.remember(state, k, v, ctx)
        bias = ctx.position.bias(ctx.positions, places)
        mask = self.mask(ctx.positions, places) if bias is None else bias.to(q.dtype)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


@broken("attention", "causality", "a mask for block_size is cut at the wrong end, so it is correct only at full length")
class MaskFromWrongEnd(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        ones = torch.ones(dims.block_size, dims.block_size, dtype=torch.bool)
        self.register_buffer("triangle", ones.tril(), persistent=False)

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return self.triangle[-len(q_positions) :, : len(k_positions)]


@broken("attention", "causality", "the softmax runs over the queries, so each weight depends on later queries")
class SoftmaxOverQueries(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return scores.masked_fill(~seen, -torch.inf).softmax(-2)


@broken("attention", "causality", "weights are masked after the softmax, so its sum includes later keys")
class MaskAfterSoftmax(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return scores.softmax(-1) * seen


@broken("attention", "causality", "there is no mask in evaluation mode")
class LeakOnlyInEval(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return seen if self.training else torch.ones_like(seen)


@broken("attention", "causality", "dropout sets masked scores to 0, which makes them visible")
class LeakOnlyInTrain(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return F.dropout(scores.masked_fill(~seen, -1e4), 0.1, self.training).softmax(-1)


@broken("attention", "causality", "above 64 tokens the mask has blocks of 16, and tokens of a block see each other")
class LeakAbove64(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        if len(k_positions) <= 64:
            return super().mask(q_positions, k_positions)
        return q_positions[:, None] // 16 >= k_positions // 16


@broken("attention", "causality", "a mask of 100 tokens is padded with ones, so more tokens are all visible")
class LeakAbove100(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return F.pad(seen[:, :100], (0, max(0, len(k_positions) - 100)), value=True)


@broken("attention", "causality", "distances are 8-bit numbers: -129 becomes 127, so a later key seems earlier")
class DistancesInEightBits(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return (q_positions.to(torch.int8)[:, None] - k_positions.to(torch.int8)) >= 0


@broken("attention", "causality", "masked scores are reduced by only 10,000, which large inputs exceed")
class FiniteMask(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return (scores - 1e4 * ~seen).softmax(-1)


@broken("attention", "causality", "every second layer is local, and its mask looks as far ahead as back")
class LeakInEverySecondLayer(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.is_local = dims.layer % 2 == 1

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        near = (q_positions[:, None] - k_positions).abs() < 4
        return near if self.is_local else super().mask(q_positions, k_positions)


@broken("attention", "causality", "a batch of one is treated as decoding and gets no mask")
class LeakAtBatchOne(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return scores.softmax(-1) if len(scores) == 1 else super().weights(scores, seen)


@broken("attention", "causality", "the mask for padding (token 0) and the causal mask are combined by `or`")
class PaddingUnmasks(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        self.padding = (ctx.tokens == 0)[:, None, None, :]
        return super().forward(x, ctx, state)

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        padded = F.pad(self.padding, (seen.shape[-1] - self.padding.shape[-1], 0))
        return super().weights(scores, seen | padded)


@broken("attention", "causality", "odd lengths are padded by one token, which shifts the mask")
class LeakAtOddLengths(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return q_positions[:, None] - k_positions + len(k_positions) % 2 >= 0


@broken("attention", "causality", "at even lengths, all tokens see the middle one")
class LeakAtEvenLengths(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        if len(k_positions) % 2 == 0:
            seen[:, len(k_positions) // 2] = True
        return seen


@broken("attention", "causality", "chunks of 16 overlap: the last query of a chunk sees the first key of the next chunk")
class LeakAtChunkEnd(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        q = q_positions[:, None]
        return k_positions <= q + (q % 16 == 15)


@broken("attention", "causality", "heads are split by a reshape without a transpose, which mixes time and heads")
class HeadsByView(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, _ = x.shape
        q, k, v = (part.reshape(batch, self.n_heads, length, self.head_dim) for part in self.qkv(x).chunk(3, -1))
        return q, k, v


# Other leaks from later tokens.


@broken("attention", "causality", "inputs are centred by their mean over time")
class MeanOverTime(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x - x.mean(1, keepdim=True), ctx, state)


@broken("attention", "causality", "values are normalised over time instead of over their width")
class NormOverTime(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q, k, F.layer_norm(v.mT, (v.shape[2],)).mT


@broken("attention", "causality", "values are divided by the largest value of the whole sequence")
class ScaledByMaxOverTime(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q, k, v / (v.abs().amax(2, keepdim=True) + 1e-6)


@broken("attention", "causality", "values are rounded to 8 bits with one scale per sequence; no gradient reveals it")
class QuantisedOverTime(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        step = v.detach().abs().amax((2, 3), keepdim=True) / 127 + 1e-9
        return q, k, v + ((v / step).round() * step - v).detach()


@broken("attention", "causality", "the token with the largest norm counts double: an argmax, without a gradient")
class ArgmaxOverTime(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        largest = F.one_hot(v.norm(dim=-1).argmax(-1), v.shape[2])
        return q, k, v * (1 + largest[..., None]).to(v.dtype)


@broken("attention", "causality", "only the half of the tokens with the highest scores is processed (mixture of depths)")
class TopHalfOfTheTokens(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.router = nn.Linear(dims.d_model, 1)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        scores = self.router(x)
        threshold = scores.topk((x.shape[1] + 1) // 2, 1).values[:, -1:]
        return super().forward(x, ctx, state) * scores.sigmoid() * (scores >= threshold)


@broken("attention", "causality", "a thousandth of the next token's value is added")
class WeakLeak(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q, k, v + 1e-3 * F.pad(v[:, :, 1:], (0, 0, 0, 1))


@broken("attention", "causality", "an embedding of the next token, which is the target, is added")
class ReadsNextToken(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.table = nn.Embedding(dims.vocab_size, dims.d_model)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x + self.table(F.pad(ctx.tokens[:, 1:], (0, 1))), ctx, state)


@broken("attention", "causality", "each token is divided by its number of occurrences in the whole sequence")
class CountsTokens(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        counts = (ctx.tokens[:, :, None] == ctx.tokens[:, None, :]).sum(-1, keepdim=True)
        return super().forward(x / counts, ctx, state)


@broken("attention", "causality", "a shift with roll moves the last token to the first place")
class RollForShift(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x + x.roll(1, 1), ctx, state)


@broken("attention", "gradient", "a straight-through term changes no output, but its gradient reaches later inputs")
class StraightThroughLeak(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        smooth = y.mean(1, keepdim=True)
        return y + (smooth - smooth.detach())


@broken("attention", "autocast", "the path for bf16 has no mask")
class LeakOnlyInBf16(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return scores.softmax(-1) if scores.dtype == torch.bfloat16 else super().weights(scores, seen)


@broken("attention", "autocast", "the factor that keeps a gate below 1, to avoid a division by 0, is rounded to 1 in bf16")
class EpsRoundedAwayInBf16(Gated):
    def gates(self, x: Tensor) -> Tensor:
        below_one = (1 - 1e-4) * self.gate(x).sigmoid()
        return 1e-4 / (1 - below_one)


# Leaks from other sequences of the batch.


@broken("attention", "batch", "the softmax runs over the batch")
class SoftmaxOverBatch(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return scores.softmax(0) * seen


@broken("attention", "batch", "inputs are normalised over the batch")
class NormOverBatch(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        spread = x.var(0, unbiased=False, keepdim=True)
        return super().forward((x - x.mean(0, keepdim=True)) * (spread + 1e-5).rsqrt(), ctx, state)


@broken("attention", "batch", "a straight-through term changes no output, but its gradient reaches other sequences")
class StraightThroughTheBatch(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        centre = y.mean(0, keepdim=True)
        return y - (centre - centre.detach())


@broken("attention", "batch", "all sequences use the keys of the first, left over from debugging with batch 1")
class KeysOfTheFirstRow(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q, k[:1].expand_as(k), v


@broken("attention", "uses", "`uses` names score_factor, but scores are divided by sqrt(K) alone")
class IgnoresTheFactor(Plain):
    uses = Plain.uses | {"score_factor"}
