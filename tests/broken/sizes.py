"""Mistakes that depend on sizes, on the vocabulary, or on one token id."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Layer, State
from tests.broken import broken
from tests.broken.attention import Plain
from tests.broken.block import PreNorm
from tests.broken.embedding import Smeared
from tests.broken.ffn import Perceptron, Shifted


class _ById(Plain):
    """Softmax attention whose mask is open for some queries."""

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        self.is_open = self.opens(ctx.tokens)
        return super().forward(x, ctx, state)

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(scores, seen | self.is_open[:, None, :, None])

    def opens(self, tokens: Tensor) -> Tensor:
        """Return for which tokens the mask is open, [B, T]."""
        raise NotImplementedError


@broken("attention", "causality", "a query of token 198, a line break of GPT-2, sees all keys")
class OpenForLineBreaks(_ById):
    def opens(self, tokens: Tensor) -> Tensor:
        return tokens == 198


@broken("attention", "causality", "a query of the last token of the vocabulary, an end of text, sees all keys")
class OpenForEndOfText(_ById):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.last = dims.vocab_size - 1

    def opens(self, tokens: Tensor) -> Tensor:
        return (tokens == self.last) & (self.last > 1000)


@broken("ffn", "causality", "in training, token 101 has the next token's input mixed in")
class OneIdSeesAheadInTraining(Perceptron):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        later = torch.cat((x[:, 1:], torch.zeros_like(x[:, :1])), 1)
        is_open = (ctx.tokens == 101)[..., None] & self.training
        return super().forward(torch.where(is_open, x + later, x), ctx, state)


@broken("ffn", "causality", "the share of tokens that are not padding, which one id marks, is computed over the sequence")
class ScaledByPadding(Perceptron):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        share = (ctx.tokens != 50).to(x.dtype).mean(1, keepdim=True)
        return super().forward(x, ctx, state) * share[..., None]


@broken("embedding", "causality", "the vector of token 62 has the next token's vector mixed in")
class OneIdSeesAhead(Smeared):
    def vectors(self, tokens: Tensor, ctx: Context) -> Tensor:
        x = super().vectors(tokens, ctx)
        later = torch.cat((x[:, 1:], torch.zeros_like(x[:, :1])), 1)
        return torch.where((tokens == 62)[..., None], x + later, x)


@broken("ffn", "decoding", "the state holds the last id in 16 bits, too few for a large vocabulary")
class IdInSixteenBits(Shifted):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.table = nn.Embedding(dims.vocab_size, dims.d_model)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        first = torch.zeros_like(ctx.tokens[:, :1]) if state is None else state.tensors["id"].long() % len(self.table.weight)
        earlier = torch.cat((first, ctx.tokens), 1)[:, : x.shape[1]]
        if state is not None:
            state.tensors["id"] = ctx.tokens[:, -1:].to(torch.int16)
        return self.out(self.hidden(x + self.table(earlier).to(x.dtype)))

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State | None:
        return State({"id": torch.zeros(batch, 1, dtype=torch.int16, device=device)})


@broken("attention", "causality", "in training, from 128 tokens on, the mask is left out")
class NoMaskFrom128InTraining(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return torch.ones_like(seen) if self.training and len(q_positions) >= 128 else seen


@broken("attention", "causality", "a kernel for 1,024 keys has no mask")
class NoMaskAt1024(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return torch.ones_like(seen) if len(k_positions) >= 1024 else seen


@broken("attention", "causality", "heads of width 64 use a kernel without a mask")
class NoMaskForHeadsOf64(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return torch.ones_like(seen) if self.head_dim == 64 else seen


@broken("attention", "decoding", "the cache has room for heads of width 64, and wider heads are cut")
class CutsWideHeads(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is not None:
            k = torch.cat((k[..., :64], torch.zeros_like(k[..., 64:])), -1)
        return super().remember(state, k, v, ctx)


@broken("block", "causality", "from the eighth layer on, the attention reads the mean of the sequence too")
class DeepLayersSeeTheMean(PreNorm):
    def __init__(self, dims: Dims, layer: Layer):
        super().__init__(dims, layer)
        self.is_deep = dims.layer >= 8

    def attend(self, x: Tensor, ctx: Context, state: State | None) -> Tensor:
        return super().attend(x + x.mean(1, keepdim=True) if self.is_deep else x, ctx, state)
