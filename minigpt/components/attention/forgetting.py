"""Attention with a forget gate."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minigpt.components.attention.softmax import SoftmaxAttention
from minigpt.contracts import Context, Dims, State
from minigpt.kernels import remember
from minigpt.registry import register


@register("attention", "forgetting")
class ForgettingAttention(SoftmaxAttention):
    """Scores lose log f for every forget gate f that was passed on the way (FoX: Lin et al. 2025, arXiv:2503.02130).

    f_t = sigmoid(w_h x_t + b_h);  score(i, j) = q_i k_j / sqrt(K) + sum over j < t <= i of log f_t, for each head h

    The paper's "Pro" block adds `gate`, `qk_norm` and short convolutions of keys and values.
    """

    def __init__(self, dims: Dims, **shared: Any):
        super().__init__(dims, **shared)
        self.forget = nn.Linear(dims.d_model, dims.n_heads)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        q, k, v = self.queries_keys_values(x, ctx)
        total = F.logsigmoid(self.forget(x).float()).transpose(1, 2).cumsum(-1)[..., None]  # [B, H, T, 1] of log f
        if state is not None and state.length:
            total = total + state.tensors["2"][:, :, state.length - 1 : state.length]
        (k, v, totals), k_positions = remember(state, (k, v, total), ctx.positions, self.window)
        return self.finish(self.attend(q, k, v, ctx, k_positions, bias=total - totals.mT), x)

    def also_remembered(self) -> list[tuple[int, int]]:
        return [(self.n_heads, 1)]
