"""Linear attention."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minigpt.contracts import Attention, Context, Dims, NormSpec, ResidualLinear, State
from minigpt.kernels.fused import upcast
from minigpt.kernels.recurrence import new_matrix, recur
from minigpt.registry import register

_EPS = 1e-6  # from the paper's code: if every feature of a query is 0, its output is 0


@register("attention", "linear")
class LinearAttention(Attention):
    """A feature map in place of the softmax: keys and values add up in a matrix (Katharopoulos 2020, arXiv:2006.16236).

    y_t = sum_(s <= t) v_s (phi(k_s) . phi(q_t)) / sum_(s <= t) (phi(k_s) . phi(q_t))

    Args:
        feature_map: phi, for each coordinate: elu(x) + 1 (the paper's), max(x, 0), or x itself.
        norm: Norm of each head's output instead of the division (Qin et al. 2022, arXiv:2210.10340); null for the division.
    """

    def __init__(self, dims: Dims, *, feature_map: Literal["elu", "relu", "identity"] = "elu", norm: NormSpec | None = None):
        super().__init__()
        if feature_map == "identity" and norm is None:
            raise ValueError('feature_map "identity" has sums near 0, so division is impossible: set a norm')
        self.n_heads, self.head_dim, self.feature_map = dims.n_heads, dims.head_dim, feature_map
        self.qkv = nn.Linear(dims.d_model, 3 * dims.n_heads * dims.head_dim, bias=False)
        self.norm = norm.build(dims.head_dim) if norm else None
        self.out = ResidualLinear(dims.n_heads * dims.head_dim, dims.d_model, bias=False)

    def features(self, x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
        """phi, in fp32, because the quotient depends on features near 0."""
        x = upcast(x)
        if self.feature_map == "elu":
            return x.clamp(max=0).exp() + F.relu(x)  # elu(x) + 1 would lose e^x to rounding
        return F.relu(x) if self.feature_map == "relu" else x

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.features(q), self.features(k)
        if self.norm is not None:
            y = self.norm(recur(state, q, k, v))
        else:  # a column of ones beside the values sums up to the divisor
            sums = recur(state, q, k, F.pad(upcast(v), (0, 1), value=1.0))
            y = (sums[..., :-1] / (sums[..., -1:] + _EPS)).to(v.dtype)
        return self.out(y.transpose(1, 2).flatten(2))

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return new_matrix(batch, self.n_heads, self.head_dim, self.head_dim + (self.norm is None), device, dtype)
