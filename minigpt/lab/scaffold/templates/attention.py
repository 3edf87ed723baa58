"""my_part: a token mixer, complete with positions, a cache and decoding.

It receives the normed stream x [batch, time, d_model]; in `ctx` the tokens' absolute
positions and this layer's position component; in decoding also the state that its own
`new_state` made, which it changes in place. It returns what is added to the stream, of
x's shape. Keyword-only arguments are its JSON parameters: annotate each one, give it
bounds, and explain it under Args.

    minigpt check plugins/my_part.py

holds it to this:

- output t depends on inputs up to t and on its own sequence alone, in values and in
  gradients, for any length, in training and evaluation, in fp32 and under bf16;
- decoding in chunks of any size equals the full pass, and no state knows of another;
- every parameter gets a gradient and every keyword argument changes something;
- random numbers are drawn in training only, and follow the torch seed;
- what it promises is so: the position hooks in `uses`, and `reach` if it sets one.

Edit first: what `forward` does between `rotate` and `out`. Read minigpt.contracts for
what else there is, such as `init_weights`, and minigpt.kernels for windows and biases.
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
    """Softmax attention whose heads learn how sharply they look, each its own factor.

    y = W_out concat_h softmax(s_h q_h k_h^T / sqrt(K) + bias) v_h, with s_h trained.

    Args:
        sharpness: Initial s_h; 1 begins as plain multi-head attention.
    """

    uses = frozenset({"rotate", "bias"})

    def __init__(self, dims: Dims, *, sharpness: Annotated[float, Field(gt=0)] = 1.0):
        super().__init__()
        self.n_heads, self.head_dim = dims.n_heads, dims.head_dim
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
        q, k = ctx.position.rotate(q, k, ctx.positions)  # before keys are remembered
        q = q * self.sharpness.to(q.dtype)[:, None, None]
        (k, v), k_positions = remember(state, (k, v), ctx.positions)
        bias = ctx.position.bias(ctx.positions, k_positions)
        # attend masks by position: a query sees the keys at or before its own.
        mixed = attend(q, k, v, ctx.positions, k_positions, bias=bias)
        return self.out(mixed.transpose(1, 2).reshape(batch, time, -1))

    def new_state(
        self,
        batch: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> State:
        shapes = [(self.n_heads, self.head_dim)] * 2  # of keys and values
        return new_cache(batch, shapes, capacity, None, device, dtype)
