"""Gated DeltaNet."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from minigpt.components.attention.delta_net import DeltaNet
from minigpt.components.attention.mamba2 import StepDecay
from minigpt.components.attention.recurrent import Expansion
from minigpt.contracts import Dims
from minigpt.registry import register


@register("attention", "gated_delta_net")
class GatedDeltaNet(DeltaNet):
    """The delta rule on a matrix that first decays as in Mamba-2 (Yang, Kautz & Hatamizadeh 2024, arXiv:2412.06464).

    S_t = d_t (I - b_t k_t k_t^T) S_(t-1) + b_t k_t v_t^T;  d_t = exp(-exp(A) softplus(w_h x_t + c)), A and c per head
    """

    def __init__(self, dims: Dims, *, expand_v: Expansion = 2.0, output_gate: bool = True, **shared: Any):
        super().__init__(dims, expand_v=expand_v, output_gate=output_gate, **shared)
        self.step = nn.Linear(dims.d_model, dims.n_heads, bias=False)
        self.decay = StepDecay(dims.n_heads, least=0.0)

    def log_decay(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch heads time 1"]:
        return self.heads(self.decay(self.step(x))[1])
