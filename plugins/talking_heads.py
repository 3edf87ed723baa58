"""Talking-heads attention: an example plugin, complete with positions, a cache and decoding.

Use it by naming this file in an experiment's "plugins" (see experiments/talking_heads.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/talking_heads.py --set model.attention=talking_heads
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minigpt.contracts import Attention, Context, Dims, ResidualLinear, State
from minigpt.kernels import new_cache, remember, visible
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("attention", "talking_heads")
class TalkingHeadsAttention(Attention):
    """Heads mix their scores before the softmax and their weights after it (Shazeer et al. 2020, arXiv:2003.02436).

    y = W_out concat_h (P_w softmax(P_l (q k^T / sqrt(K)) + bias))_h v_h

    Args:
        mix_logits: Whether scores are mixed over heads before the softmax (P_l).
        mix_weights: Whether attention weights are mixed over heads after it (P_w).
        bias: Biases in the projections.
    """

    uses = frozenset({"rotate", "bias", "score_factor"})

    def __init__(self, dims: Dims, *, mix_logits: bool = True, mix_weights: bool = True, bias: bool = True):
        super().__init__()
        self.n_heads, self.head_dim = dims.n_heads, dims.head_dim
        self.divisor = math.sqrt(dims.head_dim) / dims.score_factor
        self.qkv = nn.Linear(dims.d_model, 3 * dims.n_heads * dims.head_dim, bias=bias)
        self.logit_mix = nn.Parameter(torch.eye(dims.n_heads)) if mix_logits else None
        self.weight_mix = nn.Parameter(torch.eye(dims.n_heads)) if mix_weights else None
        self.out = ResidualLinear(dims.n_heads * dims.head_dim, dims.d_model, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        batch, time, _ = x.shape
        heads = self.qkv(x).view(batch, time, 3 * self.n_heads, self.head_dim).transpose(1, 2)
        q, k, v = heads.chunk(3, dim=1)
        q, k = ctx.position.rotate(q, k, ctx.positions)
        (k, v), k_positions = remember(state, (k, v), ctx.positions)
        scores = q @ k.transpose(-2, -1) / self.divisor  # [B, H, T, S]
        if self.logit_mix is not None:
            scores = torch.einsum("gh,bhts->bgts", self.logit_mix, scores)
        bias = ctx.position.bias(ctx.positions, k_positions)
        scores = scores if bias is None else scores + bias
        # Mask after mixing: minus infinity times a negative weight would make later tokens visible.
        scores = scores.masked_fill(~visible(ctx.positions, k_positions), -torch.inf)
        weights = upcast(scores).softmax(-1).to(v.dtype)
        if self.weight_mix is not None:
            weights = torch.einsum("gh,bhts->bgts", self.weight_mix, weights)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, time, -1))

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return new_cache(batch, 2 * [(self.n_heads, self.head_dim)], capacity, None, device, dtype)
