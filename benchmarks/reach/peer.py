"""PEER, as a plugin: very many experts of one hidden unit each, found by product keys."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, FeedForward, State
from minigpt.registry import register


@register("ffn", "peer")
class PEER(FeedForward):
    """y = sum over heads h and the best k experts i of softmax(q_h k_i) gelu(u_i x) v_i (He 2024, arXiv:2407.04153).

    The key k_i of expert i = (a, b) is the concatenation of sub-keys a and b. So the best k of n^2 experts are among the
    best k sub-keys a combined with the best k sub-keys b, and a token compares 2 n sub-keys only. The paper normalises
    queries over the batch, which would make sequences depend on each other; here each query is normalised separately.

    Args:
        sub_keys: Number n of sub-keys; there are n^2 experts.
        heads: Queries of each token.
        top_k: Experts for each query.
        key_dim: Width of a sub-key.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        sub_keys: Annotated[int, Field(ge=2, le=4096)] = 32,
        heads: Annotated[int, Field(ge=1, le=256)] = 4,
        top_k: Annotated[int, Field(ge=2, le=256)] = 8,
        key_dim: Annotated[int, Field(ge=1, le=4096)] = 16,
    ):
        super().__init__()
        if top_k > sub_keys:
            raise ValueError(f"top_k {top_k} is more than sub_keys {sub_keys}")
        self.heads, self.top_k, self.key_dim = heads, top_k, key_dim
        self.query = nn.Linear(dims.d_model, heads * 2 * key_dim, bias=False)
        self.sub_keys = nn.Parameter(torch.empty(2, sub_keys, key_dim))
        self.into = nn.Embedding(sub_keys**2, dims.d_model)
        self.out = nn.Embedding(sub_keys**2, dims.d_model)
        self.out_std = dims.n_layers**-0.5

    def init_weights(self) -> None:
        nn.init.normal_(self.sub_keys, std=self.key_dim**-0.5)
        self.out.weight.data *= self.out_std  # a sum of heads * top_k rows is written to the stream

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        queries = self.query(x).unflatten(-1, (self.heads, 2, self.key_dim))
        queries = F.rms_norm(queries, queries.shape[-1:], eps=1e-6)
        scores = torch.einsum("bthpk,pnk->bthpn", queries, self.sub_keys.to(x.dtype))
        best, places = scores.topk(self.top_k, dim=-1)  # of each half of the query: [B, T, H, 2, k]
        pairs = (best[..., 0, :, None] + best[..., 1, None, :]).flatten(-2)
        experts = (places[..., 0, :, None] * self.sub_keys.shape[1] + places[..., 1, None, :]).flatten(-2)
        chosen, among = pairs.topk(self.top_k, dim=-1)
        experts = experts.gather(-1, among)  # [B, T, H, k]
        hidden = torch.einsum("btd,bthkd->bthk", x, self.into(experts).to(x.dtype))
        weights = F.gelu(hidden) * chosen.softmax(-1).to(x.dtype)
        return torch.einsum("bthk,bthkd->btd", weights, self.out(experts).to(x.dtype))

    def n_idle(self) -> int:
        used = min(self.heads * self.top_k, self.into.num_embeddings)
        return 2 * (self.into.num_embeddings - used) * self.into.embedding_dim
