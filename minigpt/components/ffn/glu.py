"""Gated linear units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, FeedForward, ResidualLinear, State
from minigpt.registry import register

GATES: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "geglu": F.gelu, "reglu": F.relu}


@register("ffn", "glu")
class GatedLinearUnit(FeedForward):
    """W_out (f(W_gate x) * W_in x): one half gates the other (Shazeer 2020, arXiv:2002.05202).

    Args:
        variant: f: swiglu (SiLU), geglu (GELU) or reglu (ReLU).
        expansion: Hidden width as a multiple of d_model; 8/3 has the parameters of an mlp with 4.
        bias: Biases in all three maps.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        variant: Literal["swiglu", "geglu", "reglu"] = "swiglu",
        expansion: Annotated[float, Field(gt=0, le=64)] = 8 / 3,
        bias: bool = False,
    ):
        super().__init__()
        hidden = max(1, round(expansion * dims.d_model))
        self.gate = GATES[variant]
        self.into = nn.Linear(dims.d_model, 2 * hidden, bias=bias)
        self.out = ResidualLinear(hidden, dims.d_model, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        gate, value = self.into(x).chunk(2, dim=-1)
        return self.out(self.gate(gate) * value)
