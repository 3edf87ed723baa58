"""A Kolmogorov-Arnold network, as a plugin: a trained curve on every connection in place of a weight."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, FeedForward, InnerLinear, ResidualLinear, State
from minigpt.registry import register


@register("ffn", "kan")
class KAN(FeedForward):
    """Two layers y_j = sum over i of (w_ji silu(x_i) + sum over m of c_jim B_m(x_i)) (Liu et al. 2024, arXiv:2404.19756).

    B are the B-splines of the given degree on a uniform grid from -grid_range to grid_range, zero beyond it.

    Args:
        hidden: Width between the layers as a multiple of d_model.
        grid: Intervals of the grid.
        degree: Degree of the splines.
        grid_range: End of the grid; a normed stream is mostly within 3.
    """

    knots: Tensor

    def __init__(
        self,
        dims: Dims,
        *,
        hidden: Annotated[float, Field(gt=0, le=64)] = 0.5,
        grid: Annotated[int, Field(ge=1, le=256)] = 5,
        degree: Annotated[int, Field(ge=1, le=5)] = 3,
        grid_range: Annotated[float, Field(gt=0)] = 3.0,
    ):
        super().__init__()
        self.degree = degree
        inner, curves = max(1, round(hidden * dims.d_model)), grid + degree
        step = 2 * grid_range / grid
        self.register_buffer("knots", torch.arange(-degree, grid + degree + 1) * step - grid_range, persistent=False)
        self.into = nn.Linear(dims.d_model, inner)
        self.into_curves = InnerLinear(dims.d_model * curves, inner, bias=False)
        self.out = ResidualLinear(inner, dims.d_model)
        self.out_curves = ResidualLinear(inner * curves, dims.d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        h = self.into(F.silu(x)) + self.into_curves(self.splines(x).flatten(-2))
        return self.out(F.silu(h)) + self.out_curves(self.splines(h).flatten(-2))

    def splines(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width curves"]:
        """The values of all B-splines, by de Boor's recursion from degree 0."""
        knots, x = self.knots.to(x.dtype), x[..., None]
        x = x.clamp(knots[0], knots[-1])  # all splines are zero at the ends; products of larger numbers could overflow
        values = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
        for degree in range(1, self.degree + 1):
            rising = (x - knots[: -degree - 1]) / (knots[degree:-1] - knots[: -degree - 1])
            falling = (knots[degree + 1 :] - x) / (knots[degree + 1 :] - knots[1:-degree])
            values = rising * values[..., :-1] + falling * values[..., 1:]
        return values
