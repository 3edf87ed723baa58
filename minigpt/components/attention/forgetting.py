"""Attention with a forget gate."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minigpt.components.attention.softmax import SoftmaxAttention
from minigpt.contracts import Context, Dims, State
from minigpt.kernels import remember
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("attention", "forgetting")
class ForgettingAttention(SoftmaxAttention):
    """Scores decrease by -log f for each forget gate f between key and query (FoX: Lin et al. 2025, arXiv:2503.02130).

    f_t = sigmoid(w_h x_t + b_h);  score(i, j) = q_i k_j / sqrt(K) + sum over j < t <= i of log f_t, for each head h

    The paper's "Pro" block adds `gate`, `qk_norm`, and two parts that are missing here: a norm on the output, and a shift of
    keys and values that depends on the token.
    """

    uses = SoftmaxAttention.uses | {"segments"}

    def __init__(self, dims: Dims, **shared: Any):
        super().__init__(dims, **shared)
        self.forget = nn.Linear(dims.d_model, dims.n_heads)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        q, k, v = self.queries_keys_values(x, ctx)
        log_f = F.logsigmoid(upcast(self.forget(x))).transpose(1, 2)[..., None]  # [B, H, T, 1]
        (k, v, log_f, *kept), k_positions = remember(state, (k, v, log_f), ctx.positions, self.window, ctx.segments)
        total = upcast(log_f).cumsum(2)  # from the first key in the cache: a cached running sum would grow without bound
        bias = total[:, :, -x.shape[1] :] - total.mT
        segments = kept[0] if kept else None
        return self.finish(self.attend(q, k, v, ctx, k_positions, window=self.window, bias=bias, segments=segments), x)

    def also_remembered(self) -> list[tuple[int, int]]:
        return [(self.n_heads, 1)]
