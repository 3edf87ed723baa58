"""A gated short convolution in place of attention."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.components.attention.convolution import CausalConvolution
from minigpt.contracts import Attention, Context, Dims, ResidualLinear, State, substate
from minigpt.registry import register


@register("attention", "short_conv")
class ShortConvolution(Attention):
    """W_out (c * conv(b * z)) with b, c, z = split(W_in x): gated before and after (LFM2: arXiv:2511.23404).

    Args:
        width: Tokens in the convolution, the token itself included.
        bias: Biases in both maps and in the convolution.
    """

    def __init__(self, dims: Dims, *, width: Annotated[int, Field(gt=0, le=64)] = 3, bias: bool = False):
        super().__init__()
        self.reach = width
        self.into = nn.Linear(dims.d_model, 3 * dims.d_model, bias=bias)
        self.convolution = CausalConvolution(dims.d_model, width, bias=bias)
        self.out = ResidualLinear(dims.d_model, dims.d_model, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        before, after, value = self.into(x).chunk(3, -1)
        return self.out(after * self.convolution(before * value, substate(state, "convolution")))
