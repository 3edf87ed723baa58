"""Cross-layer attention: an example plugin, layers that use the keys and values of an earlier layer.

Use it by naming this file in an experiment's "plugins" (see experiments/cross_layer.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/cross_layer.py --set model.attention=cross_layer
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Attention, Context, Dims, ResidualLinear, State
from minigpt.kernels import attend, new_cache, remember
from minigpt.registry import register


@register("attention", "cross_layer")
class CrossLayerAttention(Attention):
    """Softmax attention; one layer in `share` has keys and values, the next ones use them (CLA: arXiv:2405.12981).

    With `share` half of n_layers, the second half of the layers reads the keys and values of one layer, similar to YOCO
    (arXiv:2405.05254). Only layers with own keys and values have a state, so it is smaller by the factor `share`. A layer
    that uses those of an earlier one must have the same position component.

    Args:
        share: Number of layers that have keys and values in common.
        n_kv_heads: Key and value heads; a divisor of n_heads. null for n_heads.
        bias: Biases in the projections.
    """

    uses = frozenset({"rotate", "bias", "segments", "score_factor"})

    def __init__(
        self,
        dims: Dims,
        *,
        share: Annotated[int, Field(ge=1, le=1024)] = 2,
        n_kv_heads: Annotated[int, Field(ge=1)] | None = None,
        bias: bool = False,
    ):
        super().__init__()
        self.head_dim, self.kv_heads, self.score_factor = dims.head_dim, n_kv_heads or dims.n_heads, dims.score_factor
        if dims.n_heads % self.kv_heads:
            raise ValueError(f"n_kv_heads {self.kv_heads} does not divide n_heads {dims.n_heads}")
        width = dims.n_heads * dims.head_dim
        self.q = nn.Linear(dims.d_model, width, bias=bias)
        # `occurrence` counts the layers with this mixer, so layers with other mixers in between do not matter.
        owns = dims.occurrence % share == 0
        self.kv = nn.Linear(dims.d_model, 2 * self.kv_heads * dims.head_dim, bias=bias) if owns else None
        self.out = ResidualLinear(width, dims.d_model, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        q = self._heads(self.q(x))
        if self.kv is None:
            q, _ = ctx.position.rotate(q, q, ctx.positions)
        else:
            k, v = self._heads(self.kv(x)).chunk(2, 1)
            q, k = ctx.position.rotate(q, k, ctx.positions)
            # Shared after they are remembered: later layers also need those of earlier tokens.
            ctx.shared["cross_layer"] = remember(state, (k, v), ctx.positions, segments=ctx.segments)
        (k, v, *kept), k_positions = ctx.shared["cross_layer"]
        mixed = attend(
            q,
            k,
            v,
            ctx.positions,
            k_positions,
            bias=ctx.position.bias(ctx.positions, k_positions),
            scale=self.score_factor * self.head_dim**-0.5,
            segments=None if ctx.segments is None else (ctx.segments, kept[0][:, 0, :, 0]),
        )
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch heads time head_dim"]:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State | None:
        if self.kv is None:
            return None
        return new_cache(batch, 2 * [(self.kv_heads, self.head_dim)], capacity, None, device, dtype)
