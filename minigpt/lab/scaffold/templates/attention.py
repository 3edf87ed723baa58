"""my_part: a token mixer, complete with positions, a cache and decoding.

It receives the normalised stream x [batch, time, d_model]. `ctx` has the absolute
positions of the tokens and this layer's position component. In decoding it also gets
the state from its `new_state`, which it changes in place. It returns the values to add
to the stream, in x's shape. Keyword-only arguments are its JSON parameters: annotate
each one, give it bounds, and explain it under Args.

    minigpt check plugins/my_part.py

tests that:

- output t depends only on inputs up to t of the same sequence, in values and in
  gradients, for any length, in training and evaluation, in fp32 and under bf16;
- decoding in chunks of any size equals the full pass, and states are independent;
- every parameter gets a gradient and every keyword argument changes something;
- random numbers are drawn only in training, and follow the torch seed;
- its promises hold: what `uses` names, and `reach` if it sets one.

Edit first: the lines of `forward` between `rotate` and `out`. minigpt.contracts has
more methods, such as `init_weights`, and minigpt.kernels has windows and biases.
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


@register("attention", "my_part")
class MyPart(Attention):
    """Softmax attention with a trained factor for the sharpness of each head's scores.

    y = W_out concat_h softmax(s_h q_h k_h^T / sqrt(K) + bias) v_h, with s_h trained.

    Args:
        sharpness: Initial s_h; 1 starts as plain multi-head attention.
    """

    uses = frozenset({"rotate", "bias", "score_factor"})

    def __init__(self, dims: Dims, *, sharpness: Annotated[float, Field(gt=0)] = 1.0):
        super().__init__()
        self.n_heads, self.head_dim = dims.n_heads, dims.head_dim
        self.scale = dims.score_factor * dims.head_dim**-0.5
        width = dims.n_heads * dims.head_dim
        self.qkv = nn.Linear(dims.d_model, 3 * width, bias=False)
        self.sharpness = nn.Parameter(torch.full((dims.n_heads,), sharpness))
        self.out = ResidualLinear(width, dims.d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch time d_model"],
        ctx: Context,
        state: State | None = None,
    ) -> Float[Tensor, "batch time d_model"]:
        batch, time, _ = x.shape
        heads = self.qkv(x).view(batch, time, 3 * self.n_heads, self.head_dim)
        q, k, v = heads.transpose(1, 2).chunk(3, dim=1)  # [batch, heads, time, K]
        q, k = ctx.position.rotate(q, k, ctx.positions)  # before keys are cached
        q = q * self.sharpness.to(q.dtype)[:, None, None]
        (k, v), k_positions = remember(state, (k, v), ctx.positions)
        bias = ctx.position.bias(ctx.positions, k_positions)
        # attend masks by position: a query sees the keys at or before its own position.
        mixed = attend(q, k, v, ctx.positions, k_positions, bias=bias, scale=self.scale)
        return self.out(mixed.transpose(1, 2).reshape(batch, time, -1))

    def new_state(
        self,
        batch: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> State:
        shapes = [(self.n_heads, self.head_dim)] * 2  # for keys and values
        return new_cache(batch, shapes, capacity, None, device, dtype)
