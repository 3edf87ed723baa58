"""Contextual position encoding."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.components.attention.softmax import SoftmaxAttention
from minigpt.contracts import Context, Dims, State
from minigpt.kernels import remember, visible
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("attention", "cope")
class ContextualPositionAttention(SoftmaxAttention):
    """Attention with gates that count how far back a key is (CoPE: Golovneva et al. 2024, arXiv:2405.18719).

    g_ij = sigmoid(q_i k_j / sqrt(K));  p_ij = g_ij + ... + g_ii;  score(i, j) = q_i k_j / sqrt(K) + q_i e[p_ij]

    e has a vector for each whole distance and is interpolated between them. The distance depends on content, so this is an
    attention and not a position; the model's position can be "none".

    Args:
        max_distance: Larger distances count as max_distance.
    """

    elementwise = frozenset({"distances"})

    def __init__(self, dims: Dims, *, max_distance: Annotated[int, Field(gt=0, le=1 << 17)] = 64, **shared: Any):
        super().__init__(dims, **shared)
        self.max_distance = max_distance
        self.distances = nn.Parameter(torch.zeros(dims.head_dim, max_distance + 1))

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        q, k, v = self.queries_keys_values(x, ctx)
        (k, v), k_positions = remember(state, (k, v), ctx.positions, self.window)
        scores = upcast(q @ k.mT) / (self.head_dim**0.5 / self.score_factor)
        gates = scores.sigmoid().masked_fill(~visible(ctx.positions, k_positions, self.window), 0.0)
        # Summed from the query back to the key. A sum from the left would contain the rounding of masked keys.
        distance = gates.flip(-1).cumsum(-1).flip(-1).clamp(max=self.max_distance)
        by_distance = upcast(q @ self.distances.to(q.dtype))  # [B, H, T, max_distance + 1]
        below = distance.detach().floor().long()
        share = distance - below
        lower, upper = by_distance.gather(-1, below), by_distance.gather(-1, (below + 1).clamp(max=self.max_distance))
        bias = lower + share * (upper - lower)
        return self.finish(self.attend(q, k, v, ctx, k_positions, window=self.window, bias=bias), x)
