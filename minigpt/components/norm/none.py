"""No normalisation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from minigpt.contracts import Norm
from minigpt.registry import register


@register("norm", "none")
class NoNorm(Norm):
    """Returns the input: for blocks without norms (ReZero: arXiv:2003.04887), and to see the effect of a norm."""

    scaling = "equivariant"

    def __init__(self, width: int):
        super().__init__()

    def forward(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        return x
