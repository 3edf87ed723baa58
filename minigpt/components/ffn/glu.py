"""Gated linear units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, FeedForward, ResidualLinear, State
from minigpt.registry import register

Gate = Literal["swiglu", "geglu", "geglu_tanh", "reglu", "swiglu_clamped"]


def _swiglu_clamped(gate: Tensor, value: Tensor) -> Tensor:
    gate, value = gate.clamp(max=7.0), value.clamp(-7.0, 7.0)
    return gate * torch.sigmoid(1.702 * gate) * (value + 1)


GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "swiglu": lambda gate, value: F.silu(gate) * value,
    "geglu": lambda gate, value: F.gelu(gate) * value,
    "geglu_tanh": lambda gate, value: F.gelu(gate, approximate="tanh") * value,
    "reglu": lambda gate, value: F.relu(gate) * value,
    "swiglu_clamped": _swiglu_clamped,
}


@register("ffn", "glu")
class GatedLinearUnit(FeedForward):
    """W_out (f(W_gate x) * W_in x): one projection gates the other (Shazeer 2020, arXiv:2002.05202).

    Args:
        variant: f: swiglu (SiLU), geglu (GELU; geglu_tanh approximates it, as in Gemma 2: arXiv:2408.00118) or reglu (ReLU);
            swiglu_clamped is g sigmoid(1.702 g) * (v + 1) with g at most 7 and v within +-7 (gpt-oss: arXiv:2508.10925).
        expansion: Hidden width as a multiple of d_model; with 8/3 it has the parameters of an mlp with 4.
        bias: Biases in all three maps.
        gain: A trained factor, initially 1, on each coordinate of W_gate x and W_in x (s_v and s_u of nGPT:
            arXiv:2410.01131).
    """

    def __init__(
        self,
        dims: Dims,
        *,
        variant: Gate = "swiglu",
        expansion: Annotated[float, Field(gt=0, le=64)] = 8 / 3,
        bias: bool = False,
        gain: bool = False,
    ):
        super().__init__()
        hidden = max(1, round(expansion * dims.d_model))
        self.gate = GATES[variant]
        self.into = nn.Linear(dims.d_model, 2 * hidden, bias=bias)
        self.gain = nn.Parameter(torch.ones(2 * hidden)) if gain else None
        self.out = ResidualLinear(hidden, dims.d_model, bias=bias)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        hidden = self.into(x)
        gate, value = (hidden if self.gain is None else hidden * self.gain).chunk(2, dim=-1)
        return self.out(self.gate(gate, value))
