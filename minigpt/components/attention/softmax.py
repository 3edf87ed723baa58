"""The core that softmax attention variants share: projections, position hooks, cache, output, and their common knobs."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Attention, Context, Dims, NormSpec, ResidualLinear, State
from minigpt.kernels import attend, new_cache, remember


class SoftmaxAttention(Attention):
    """Causal softmax attention with H query heads over G key/value heads (H divisible by G).

    q, k, v = split(W_qkv x);  y = W_out concat_h softmax(q_h k_g(h)^T / sqrt(K) + bias) v_g(h)

    Args:
        bias: Biases in the projections.
        dropout: Rate on the attention weights, apart from the model's own dropout.
        window: A token sees itself and window - 1 before it (Beltagy et al. 2020, arXiv:2004.05150); null for all.
        qk_norm: Norm on each query and key head (Henry et al. 2020, arXiv:2010.04245); null for none.
        softcap: Scores are kept within +-softcap by a tanh (Gemma 2: arXiv:2408.00118); null for no cap.
        sinks: A learned logit a head beside the scores, so that it may attend to nothing (gpt-oss: arXiv:2508.10925).
        gate: Sigmoid gate from the input on the output, one a head or one an element (Qiu et al. 2025, arXiv:2505.06708).
        value_residual: Values are mixed with those of the first such layer (ResFormer: Zhou et al. 2024, arXiv:2410.17897).
    """

    uses = frozenset({"rotate", "bias"})

    def __init__(
        self,
        dims: Dims,
        *,
        bias: bool = True,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        window: Annotated[int, Field(gt=0)] | None = None,
        qk_norm: NormSpec | None = None,
        softcap: Annotated[float, Field(gt=0)] | None = None,
        sinks: bool = False,
        gate: Literal["head", "element"] | None = None,
        value_residual: bool = False,
        _kv_heads: int | None = None,
    ):
        super().__init__()
        kv_heads = _kv_heads or dims.n_heads
        if dims.n_heads % kv_heads:
            raise ValueError(f"n_kv_heads {kv_heads} does not divide n_heads {dims.n_heads}")
        self.n_heads, self.n_kv_heads, self.head_dim = dims.n_heads, kv_heads, dims.head_dim
        self.dropout, self.window, self.softcap = dropout, window, softcap
        self.qkv = nn.Linear(dims.d_model, (dims.n_heads + 2 * kv_heads) * dims.head_dim, bias=bias)
        self.q_norm = qk_norm.build(dims.head_dim) if qk_norm else None
        self.k_norm = qk_norm.build(dims.head_dim) if qk_norm else None
        self.sinks = nn.Parameter(torch.zeros(dims.n_heads)) if sinks else None
        gates = {"head": dims.n_heads, "element": dims.n_heads * dims.head_dim}
        self.gate = nn.Linear(dims.d_model, gates[gate], bias=bias) if gate else None
        self.value_mix = nn.Parameter(torch.full((2,), 0.5)) if value_residual else None
        self.out = ResidualLinear(dims.n_heads * dims.head_dim, dims.d_model, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        batch, time, _ = x.shape
        heads = self.qkv(x).view(batch, time, -1, self.head_dim).transpose(1, 2)
        q, k, v = heads.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.value_mix is not None:
            first = ctx.shared.setdefault(f"values of {self.n_kv_heads} x {self.head_dim}", v)
            v = self.value_mix[0] * v + self.value_mix[1] * first
        q, k = ctx.position.rotate(q, k, ctx.positions)
        (k, v), k_positions = remember(state, (k, v), ctx.positions, self.window)
        mixed = attend(
            q,
            k,
            v,
            ctx.positions,
            k_positions,
            window=self.window,
            bias=ctx.position.bias(ctx.positions, k_positions),
            dropout=self.dropout if self.training else 0.0,
            softcap=self.softcap,
            sinks=self.sinks,
        ).transpose(1, 2)
        if self.gate is not None:
            mixed = mixed * self.gate(x).sigmoid().view(batch, time, self.n_heads, -1)
        return self.out(mixed.reshape(batch, time, -1))

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        shapes = 2 * [(self.n_kv_heads, self.head_dim)]  # keys and values
        return new_cache(batch, shapes, capacity, self.window, device, dtype)
