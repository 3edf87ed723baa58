"""Engram: an example plugin, a feed-forward beside which n-grams are looked up in a table.

Use it by naming this file in an experiment's "plugins" (see experiments/engram.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/engram.py --set model.ffn=engram
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, FeedForward, FeedForwardSpec, ResidualLinear, State, substate
from minigpt.kernels.fused import rms_norm
from minigpt.registry import register

_PRIME = 2_147_483_647
"""Products of a value below the prime and a multiplier below 2^32 fit into 64 bits."""


@register("ffn", "engram")
class Engram(FeedForward):
    """ffn(x) + g v, a memory of the last n tokens with a gate (Engram: Cheng et al. 2026, arXiv:2601.07372).

    e = concatenated rows of the n-grams that end at the token, k = W_k e, v = W_v e, g = sigmoid(norm(x) norm(k) / sqrt(D))

    The row of an n-gram is its hash modulo `buckets`, with `hashes` different functions and tables for each length, so that
    two n-grams seldom share all their rows. The paper adds the memory before attention, in some layers only, joins
    ids of similar words before hashing, and passes v through a short convolution.

    Args:
        orders: Lengths of the n-grams.
        hashes: Hash functions for each length; together they fill d_model / 4 channels, each at least one.
        buckets: Rows of each table.
        ffn: What the memory is added to.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        orders: Annotated[list[Annotated[int, Field(ge=1, le=8)]], Field(min_length=1)] = [2, 3],  # noqa: B006
        hashes: Annotated[int, Field(ge=1, le=16)] = 2,
        buckets: Annotated[int, Field(gt=1, lt=_PRIME)] = 4096,
        ffn: FeedForwardSpec = "mlp",  # type: ignore[assignment] # as a value in JSON
    ):
        super().__init__()
        self.back, self.buckets = max(orders) - 1, buckets
        self.ffn = ffn.build(dims)
        self.kinds = [(order, 1_000_003 + 2 * (dims.layer * hashes + each)) for order in orders for each in range(hashes)]
        width = max(1, dims.d_model // (4 * hashes))
        self.tables = nn.ModuleList(nn.Embedding(buckets, width) for _ in self.kinds)
        self.key = nn.Linear(width * len(self.kinds), dims.d_model, bias=False)
        self.value = ResidualLinear(width * len(self.kinds), dims.d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        batch, time, width = x.shape
        earlier = ctx.tokens.new_zeros(batch, self.back) if state is None else state.tensors["earlier"]
        ids = torch.cat((earlier, ctx.tokens + 1), 1)  # 0 is a place before the text
        if state is not None:
            state.tensors["earlier"] = ids[:, time:]
        rows = []
        for (order, multiplier), table in zip(self.kinds, self.tables, strict=True):
            hashed = torch.zeros_like(ctx.tokens)
            for first in range(self.back - order + 1, self.back + 1):
                hashed = (hashed * multiplier + ids[:, first : first + time]) % _PRIME
            rows.append(table(hashed % self.buckets))
        read = torch.cat(rows, -1).to(x.dtype)
        gate = (rms_norm(x, 1e-6) * rms_norm(self.key(read), 1e-6)).sum(-1, keepdim=True) / width**0.5
        return self.ffn(x, ctx, substate(state, "ffn")) + gate.sigmoid().to(x.dtype) * self.value(read)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().new_state(batch, capacity, device, dtype) or State()  # that of the inner feed-forward
        state.tensors["earlier"] = torch.zeros(batch, self.back, dtype=torch.long, device=device)
        return state
