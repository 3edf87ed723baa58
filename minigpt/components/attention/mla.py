"""Multi-head latent attention."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.components.attention.softmax import SoftmaxCore
from minigpt.contracts import Context, Dims, InnerLinear, State
from minigpt.kernels import new_cache, remember
from minigpt.registry import register

_EPS = 1e-6


@register("attention", "mla")
class MultiHeadLatentAttention(SoftmaxCore):
    """Keys and values are made of a small latent, which is what is remembered (DeepSeek-V2: arXiv:2405.04434, section 2.1).

    c = rmsnorm(W_c x);  k_h = [W_h c ; rotate(W_r x)];  v_h = W'_h c;  q_h = [W_q x ; rotate(W_p x)], or of a latent too

    The rotated part of the key is one for all heads, and remembered beside the latent. A position that does not rotate
    leaves it as it is. One token is decoded without making the keys: its queries are moved to where the latents are (section
    2.1.2). `qk_norm` is on what is not rotated.

    Args:
        kv_rank: Width of the latent; null for 4 head_dim, the ratio of DeepSeek-V2.
        q_rank: Width of a latent for the queries; null for none.
        rope_dim: Width of the rotated part; null for half of head_dim, rounded down to an even number, at least 2.
        score_scale: Factor on whole scores, beside 1 / sqrt(width of a key). The long context of DeepSeek-V3 has
            (0.1 ln f + 1)^2 for a rope scaled by YaRN with factor f and attention_factor 1 (arXiv:2412.19437, section 4.3).
    """

    def __init__(
        self,
        dims: Dims,
        *,
        kv_rank: Annotated[int, Field(gt=0, le=1 << 17)] | None = None,
        q_rank: Annotated[int, Field(gt=0, le=1 << 17)] | None = None,
        rope_dim: Annotated[int, Field(gt=0, le=1 << 17)] | None = None,
        score_scale: Annotated[float, Field(gt=0)] = 1.0,
        **shared: Any,
    ):
        super().__init__(dims, **shared)
        heads, width, bias = dims.n_heads, dims.head_dim, self.biased
        self.rope_dim = rope_dim or width // 4 * 2 or 2
        if self.rope_dim % 2:
            raise ValueError(f"rotation takes coordinates in pairs: rope_dim {self.rope_dim} must be even")
        self.rank, self.scale = kv_rank or 4 * width, score_scale * (width + self.rope_dim) ** -0.5
        self.q_down = nn.Linear(dims.d_model, q_rank, bias=bias) if q_rank else None
        self.q_gain = nn.Parameter(torch.ones(q_rank)) if q_rank else None
        kind = InnerLinear if q_rank else nn.Linear
        self.q_up = kind(q_rank or dims.d_model, heads * (width + self.rope_dim), bias=bias)
        self.kv_down = nn.Linear(dims.d_model, self.rank + self.rope_dim, bias=bias)
        self.kv_gain = nn.Parameter(torch.ones(self.rank))
        self.kv_up = InnerLinear(self.rank, 2 * heads * width, bias=False)
        self.out = self.output_map(dims)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        q, turned, latent, turned_key = self._projected(x, ctx)
        new: tuple[Tensor, ...] = (latent, turned_key)
        if self.value_mix is not None or self.value_table is not None:
            own = self._made(latent)[1]
            new = (*new, self.mixed_values(own, ctx) - self._scale_of_own() * own)  # what a latent cannot bring back
        (latent, turned_key, *added), k_positions = remember(state, new, ctx.positions, self.window)
        if x.shape[1] == 1 and state is not None and self.k_norm is None and not added:
            to_keys, to_values = self.kv_up.weight.to(q.dtype).view(self.n_heads, 2, self.head_dim, -1).unbind(1)
            moved = torch.cat((q @ to_keys, turned), -1)  # [B, H, 1, rank + rope_dim]: as if there were one key head
            both = torch.cat((latent, turned_key), -1)
            mixed = self.attend(moved, both, latent, ctx, k_positions, window=self.window, scale=self.scale)
            return self.finish(torch.einsum("bthr,hkr->bthk", mixed, to_values), x)
        k, v = self._made(latent)
        k = self.normed(k, self.k_norm)
        v = self._scale_of_own() * v + added[0] if added else v
        k = torch.cat((k, turned_key.expand(-1, self.n_heads, -1, -1)), -1)
        q = torch.cat((q, turned), -1)
        return self.finish(self.attend(q, k, v, ctx, k_positions, window=self.window, scale=self.scale), x)

    def _projected(self, x: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries (still and turned part, [B, H, T, ...]), latent and turned key [B, 1, T, ...]."""
        batch, time, _ = x.shape
        if self.q_down is not None and self.q_gain is not None:
            down = self.q_down(x)
            queries = self.q_up(F.rms_norm(down, down.shape[-1:], self.q_gain.to(down.dtype), _EPS))
        else:
            queries = self.q_up(x)
        q, turned = queries.view(batch, time, self.n_heads, -1).transpose(1, 2).split((self.head_dim, self.rope_dim), -1)
        latent, turned_key = self.kv_down(x)[:, None].split((self.rank, self.rope_dim), -1)
        latent = F.rms_norm(latent, (self.rank,), self.kv_gain.to(latent.dtype), _EPS)
        turned, turned_key = ctx.position.rotate(turned, turned_key, ctx.positions)
        return self.normed(q, self.q_norm), turned, latent, turned_key

    def _made(self, latent: Float[Tensor, "batch 1 source rank"]) -> tuple[Tensor, Tensor]:
        """Keys before their norm, and values, of latents: [B, H, S, K] each."""
        made = self.kv_up(latent[:, 0]).view(latent.shape[0], latent.shape[2], self.n_heads, 2, self.head_dim)
        k, v = made.transpose(1, 2).unbind(3)
        return k, v

    def _scale_of_own(self) -> Tensor | float:
        """The share of a layer's own values in what `mixed_values` gives."""
        return 1.0 if self.value_mix is None else self.value_mix[0]

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        shapes = [(1, self.rank), (1, self.rope_dim)]
        if self.value_mix is not None or self.value_table is not None:
            shapes.append((self.n_heads, self.head_dim))
        return new_cache(batch, shapes, capacity, self.window, device, dtype)
