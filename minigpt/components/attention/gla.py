"""Gated linear attention."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.components.attention.recurrent import PUBLISHED_NORM, Expansion, RecurrentAttention
from minigpt.contracts import Context, Dims, InnerLinear, NormSpec, State
from minigpt.kernels.fused import upcast
from minigpt.kernels.recurrence import recur
from minigpt.registry import register

_LEAST_LOGIT = -40.0  # a sigmoid of 4e-18: logits are clamped here, so that chunks can be large


@register("attention", "gla")
class GatedLinearAttention(RecurrentAttention):
    """Linear attention with a decay for each key channel that depends on the input (Yang 2023, arXiv:2312.06635).

    S_t = diag(d_t) S_(t-1) + k_t v_t^T;  d_t = sigmoid(W_2 W_1 x_t + b)^(1/temperature);  norm, then a swish gate

    As in the authors' layer q is scaled by K^-1/2, the norm's eps is 1e-5, and the gate has no bias.

    Args:
        expand_k: Width of a head's keys, as a multiple of head_dim.
        expand_v: Width of a head's values, as a multiple of head_dim.
        decay_rank: Rank of W_2 W_1.
        temperature: Larger values slow the decay.
        norm: Norm of each head's output.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        expand_k: Expansion = 0.5,
        expand_v: Expansion = 1.0,
        decay_rank: Annotated[int, Field(gt=0, le=1 << 17)] = 16,
        temperature: Annotated[float, Field(ge=0.01, le=1e4)] = 16.0,
        norm: NormSpec = PUBLISHED_NORM,
    ):
        super().__init__(dims, expand_v=expand_v, norm=norm, _expand_k=expand_k)
        self.temperature = temperature
        self.decay = nn.Sequential(
            nn.Linear(dims.d_model, decay_rank, bias=False), InnerLinear(decay_rank, dims.n_heads * self.key_dim)
        )

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        q, k, v = self.queries_keys_values(self.qkv(x))
        log_decay = self.heads(F.logsigmoid(upcast(self.decay(x)))) / self.temperature
        least = max(_LEAST_LOGIT / self.temperature, -10.0)
        return self.finish(recur(state, q * self.key_dim**-0.5, k, v, log_decay=log_decay, least_log_decay=least), x)
