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
    """Keys and values are computed from a small cached latent (DeepSeek-V2: arXiv:2405.04434, section 2.1).

    c = rmsnorm(W_c x);  k_h = [W_h c ; rotate(W_r x)];  v_h = W'_h c;  q_h = [W_q x ; rotate(W_p x)], or from a latent too

    All heads share the rotated part of the key, which is cached beside the latent. A position without rotation leaves it
    unchanged. Decoding a single token does not compute keys: its queries are mapped to the space of the latents instead
    (section 2.1.2). `qk_norm` applies to the part that is not rotated.

    Args:
        kv_rank: Width of the latent; null for 4 head_dim, the ratio of DeepSeek-V2.
        q_rank: Width of a latent for the queries; null for none.
        rope_dim: Width of the rotated part; null for half of head_dim, rounded down to an even number, at least 2.
        score_scale: Factor on whole scores, in addition to 1 / sqrt(width of a key). In long contexts DeepSeek-V3 uses
            (0.1 ln f + 1)^2, with a rope scaled by YaRN with factor f and attention_factor 1 (arXiv:2412.19437, 4.3).
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
            raise ValueError(f"rotation needs pairs of coordinates: rope_dim {self.rope_dim} must be even")
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
        q, rotated, latent, rotated_key = self._projected(x, ctx)
        new: tuple[Tensor, ...] = (latent, rotated_key)
        if self.value_mix is not None or self.value_table is not None:
            own = self._keys_and_values(latent)[1]
            new = (*new, self.mixed_values(own, ctx) - self._scale_of_own() * own)  # the part that no latent contains
        (latent, rotated_key, *added), k_positions = remember(state, new, ctx.positions, self.window)
        if x.shape[1] == 1 and state is not None and self.k_norm is None and not added:
            to_keys, to_values = self.kv_up.weight.to(q.dtype).view(self.n_heads, 2, self.head_dim, -1).unbind(1)
            queries = torch.cat((q @ to_keys, rotated), -1)  # [B, H, 1, rank + rope_dim]: attention with one key head
            keys = torch.cat((latent, rotated_key), -1)
            mixed = self.attend(queries, keys, latent, ctx, k_positions, window=self.window, scale=self.scale)
            return self.finish(torch.einsum("bthr,hkr->bthk", mixed, to_values), x)
        k, v = self._keys_and_values(latent)
        k = self.normed(k, self.k_norm)
        v = self._scale_of_own() * v + added[0] if added else v
        k = torch.cat((k, rotated_key.expand(-1, self.n_heads, -1, -1)), -1)
        q = torch.cat((q, rotated), -1)
        return self.finish(self.attend(q, k, v, ctx, k_positions, window=self.window, scale=self.scale), x)

    def _projected(self, x: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries (plain and rotated part, [B, H, T, ...]), latent and rotated key [B, 1, T, ...]."""
        batch, time, _ = x.shape
        if self.q_down is not None and self.q_gain is not None:
            down = self.q_down(x)
            queries = self.q_up(F.rms_norm(down, down.shape[-1:], self.q_gain.to(down.dtype), _EPS))
        else:
            queries = self.q_up(x)
        q, rotated = queries.view(batch, time, self.n_heads, -1).transpose(1, 2).split((self.head_dim, self.rope_dim), -1)
        latent, rotated_key = self.kv_down(x)[:, None].split((self.rank, self.rope_dim), -1)
        latent = F.rms_norm(latent, (self.rank,), self.kv_gain.to(latent.dtype), _EPS)
        rotated, rotated_key = ctx.position.rotate(rotated, rotated_key, ctx.positions)
        return self.normed(q, self.q_norm), rotated, latent, rotated_key

    def _keys_and_values(self, latent: Float[Tensor, "batch 1 source rank"]) -> tuple[Tensor, Tensor]:
        """Keys before their norm, and values, computed from latents: [B, H, S, K] each."""
        both = self.kv_up(latent[:, 0]).view(latent.shape[0], latent.shape[2], self.n_heads, 2, self.head_dim)
        k, v = both.transpose(1, 2).unbind(3)
        return k, v

    def _scale_of_own(self) -> Tensor | float:
        """The factor that `mixed_values` applies to a layer's own values."""
        return 1.0 if self.value_mix is None else self.value_mix[0]

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        shapes = [(1, self.rank), (1, self.rope_dim)]
        if self.value_mix is not None or self.value_table is not None:
            shapes.append((self.n_heads, self.head_dim))
        return new_cache(batch, shapes, capacity, self.window, device, dtype)
