"""Retention."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from minigpt.components.attention.recurrent import Expansion, RecurrentAttention
from minigpt.contracts import Context, Dims, NormSpec, State
from minigpt.kernels.fused import wide_dtype
from minigpt.kernels.recurrence import recur
from minigpt.registry import register


@register("attention", "retention")
class Retention(RecurrentAttention):
    """Linear attention with a fixed decay for each head (RetNet: Sun et al. 2023, arXiv:2307.08621).

    S_t = g_h S_(t-1) + k_t v_t^T / sqrt(K);  g_h = 1 - 2^(-5-h) for heads h = 0, 1, ...;  norm, then a swish gate

    The paper rotates q and k: choose position `rope` for this. It also divides the scores of a query by their sum and by
    the root of the sum of its decays; the norm cancels both factors, up to its eps (1e-6, as in the authors' code). The
    authors' norm has no gain, which is {"norm": {"gain": false}} here.

    Args:
        expand_v: Width of a head's values, as a multiple of head_dim.
        decays: The g_h: "powers", as above, or "linspace": 1 - g_h from 1/32 to 1/512 in equal ratios over the heads.
        norm: Norm of each head's output.
    """

    uses = frozenset({"rotate"})

    def __init__(
        self,
        dims: Dims,
        *,
        expand_v: Expansion = 2.0,
        decays: Literal["powers", "linspace"] = "powers",
        norm: NormSpec = "rmsnorm",  # type: ignore[assignment] # as a value in JSON
    ):
        super().__init__(dims, expand_v=expand_v, norm=norm)
        self.decays = decays

    def log_decay(self, device: torch.device, dtype: torch.dtype) -> Float[Tensor, " heads"]:
        """The logarithm of g_h."""
        if self.decays == "linspace":
            ends = math.log(1 / 32), math.log(1 / 512)
            return torch.log1p(-torch.linspace(*ends, self.n_heads, device=device, dtype=dtype).exp())
        return torch.log1p(-(2.0 ** torch.arange(-5.0, -5.0 - self.n_heads, -1.0, device=device, dtype=dtype)))

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        q, k, v = self.queries_keys_values(self.qkv(x))
        q, k = ctx.position.rotate(q, k * self.key_dim**-0.5, ctx.positions)
        log_decay = self.log_decay(x.device, wide_dtype(x.dtype))[:, None, None].expand(len(x), -1, x.shape[1], 1)
        return self.finish(recur(state, q, k, v, log_decay=log_decay), x)
