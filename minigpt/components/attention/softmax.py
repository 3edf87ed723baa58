"""The core that softmax attention variants share: projections, position hooks, cache, output."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from minigpt.contracts import Attention, Context, Dims, NormSpec, ResidualLinear, State
from minigpt.kernels import attend, new_cache, remember


class SoftmaxAttention(Attention):
    """Causal softmax attention with H query heads over G key/value heads (H divisible by G).

    q, k, v = split(W_qkv x);  y = W_out concat_h softmax(q_h k_g(h)^T / sqrt(K) + bias) v_g(h)
    """

    uses = frozenset({"rotate", "bias"})

    def __init__(
        self,
        dims: Dims,
        *,
        n_kv_heads: int,
        bias: bool,
        dropout: float,
        window: int | None,
        qk_norm: NormSpec | None,
    ):
        super().__init__()
        if dims.n_heads % n_kv_heads:
            raise ValueError(f"n_kv_heads {n_kv_heads} does not divide n_heads {dims.n_heads}")
        self.n_heads, self.n_kv_heads, self.head_dim = dims.n_heads, n_kv_heads, dims.head_dim
        self.dropout, self.window = dropout, window
        self.qkv = nn.Linear(dims.d_model, (dims.n_heads + 2 * n_kv_heads) * dims.head_dim, bias=bias)
        self.q_norm = qk_norm.build(dims.head_dim) if qk_norm else None
        self.k_norm = qk_norm.build(dims.head_dim) if qk_norm else None
        self.out = ResidualLinear(dims.n_heads * dims.head_dim, dims.d_model, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        batch, time, _ = x.shape
        heads = self.qkv(x).view(batch, time, -1, self.head_dim).transpose(1, 2)
        q, k, v = heads.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
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
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, time, -1))

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        shapes = 2 * [(self.n_kv_heads, self.head_dim)]  # keys and values
        return new_cache(batch, shapes, capacity, self.window, device, dtype)
