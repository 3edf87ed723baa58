"""Differential attention."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minigpt.components.attention.softmax import SoftmaxAttention
from minigpt.contracts import Context, Dims, State
from minigpt.kernels import remember
from minigpt.kernels.fused import upcast
from minigpt.registry import register


@register("attention", "differential")
class DifferentialAttention(SoftmaxAttention):
    """The difference of two attention maps, which cancels what both attend to (Ye et al. 2024, arXiv:2410.05258).

    y_h = (1 - l0) rmsnorm((softmax(q_2h k_2h^T / sqrt(K)) - l softmax(q_2h+1 k_2h+1^T / sqrt(K))) v_h), v_h of width 2 K
    l = exp(a b) - exp(c d) + l0 with trained vectors a to d;  l0 = 0.8 - 0.6 exp(-0.3 layer)

    Two heads of the model form one pair, so n_heads and the parameters are the same as in mha.
    """

    value_kind = "pairs"

    uses = SoftmaxAttention.uses | {"segments"}

    def __init__(self, dims: Dims, **shared: Any):
        if dims.n_heads % 2:
            raise ValueError(f"n_heads {dims.n_heads} must be even: two heads form one difference")
        pairs = dims.n_heads // 2
        super().__init__(dims, _value_heads=pairs, _value_dim=2 * dims.head_dim, _out_heads=pairs, **shared)
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * dims.layer)
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(torch.empty(dims.head_dim)) for _ in range(4)
        )
        self.head_gain = nn.Parameter(torch.ones(2 * dims.head_dim))

    def init_weights(self) -> None:
        for vector in (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2):
            nn.init.normal_(vector, std=0.1)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        q, k, v = self.queries_keys_values(x, ctx)
        (k, v, *kept), k_positions = remember(state, (k, v), ctx.positions, self.window, ctx.segments)
        values = v.repeat_interleave(2, 1)
        maps = self.attend(q, k, values, ctx, k_positions, window=self.window, segments=kept[0] if kept else None)
        first, second = upcast(maps[:, :, 0::2]), upcast(maps[:, :, 1::2])
        of_first, of_second = (self.lambda_q1 * self.lambda_k1).sum(), (self.lambda_q2 * self.lambda_k2).sum()
        difference = first - (of_first.exp() - of_second.exp() + self.lambda_init) * second
        normed = F.rms_norm(difference, difference.shape[-1:], upcast(self.head_gain), 1e-5)
        return self.finish(((1 - self.lambda_init) * normed).to(maps.dtype), x)
