"""Normalised transformer: the residual stream on a sphere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Block, Context, Dims, InnerLinear, Layer, ResidualLinear, State, substate
from minigpt.kernels.fused import Dropout, rms_norm
from minigpt.registry import register


@register("block", "ngpt")
class NGPTBlock(Block):
    """Each sub-layer proposes a point on a sphere, and the stream takes a step towards it (Loshchilov et al. 2024).

        x <- unit(x + a * (unit(attention(x)) - x)), then with ffn and its own step a';  unit(z) = z sqrt(D) / |z|

    arXiv:2410.01131, with radius sqrt(D) instead of 1: so a sub-layer reads the same input as after a norm, and the paper's
    factor sqrt(D) on the gate of its MLP is included. The parameter stores a / (a_0 sqrt(D)), so that an optimizer changes
    a at the paper's pace; its sign does not matter. After every update, rows of the linear maps that read the stream and
    columns of the maps that write to it are normalised to length 1; stacked expert weights (moe) are not.

    The paper's model is this block with attention {"bias": false, "qk_norm": "rmsnorm"}, ffn {"name": "glu", "gain": true},
    position rope, embedding {"unit": true, "tied": false}, no dropout, no weight decay, no warm-up. The gains of qk_norm are
    s_qk; the product of two heads of root mean square 1 over sqrt(K) is sqrt(K) times their cosine. Two things differ: a
    gain of q and k acts before the rotation and is shared by the heads, and it moves at a gain's pace, not sqrt(D) as fast.

    Args:
        step_size: Initial a_0 of every channel (the paper's 0.05, or about 1/n_layers).
    """

    final_norm = False

    def __init__(self, dims: Dims, layer: Layer, *, step_size: Annotated[float, Field(gt=0)] = 0.05):
        super().__init__()
        self.d_model = dims.d_model
        self.stored_unit = step_size * dims.d_model**0.5  # the value of a for a stored value of 1
        self.attention = layer.attention.build(dims)
        self.attention_step = nn.Parameter(torch.full((dims.d_model,), dims.d_model**-0.5))
        self.ffn = layer.ffn.build(dims)
        self.ffn_step = nn.Parameter(torch.full((dims.d_model,), dims.d_model**-0.5))
        self.dropout = Dropout(dims.dropout)

    def enter(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time d_model"]:
        return _unit(x)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        x = self._step(x, self.attention(x, ctx, substate(state, "attention")), self.attention_step)
        return self._step(x, self.ffn(x, ctx, substate(state, "ffn")), self.ffn_step)

    def _step(
        self,
        x: Float[Tensor, "batch time d_model"],
        towards: Float[Tensor, "batch time d_model"],
        stored: Float[Tensor, " d_model"],
    ) -> Float[Tensor, "batch time d_model"]:
        target = _unit(self.dropout(towards).to(x.dtype))
        return _unit(x + stored.abs() * self.stored_unit * (target - x))

    def after_step(self) -> None:
        """Normalise weight vectors with d_model numbers to length 1."""
        for weight, axis in self._on_the_sphere():
            weight.copy_(F.normalize(weight, dim=axis))

    def _on_the_sphere(self) -> Iterator[tuple[Tensor, int]]:
        """The constrained weights, each with the axis of length d_model."""
        for part in (self.attention, self.ffn):
            for module in part.modules():
                if isinstance(module, ResidualLinear) and module.out_features == self.d_model:
                    yield module.weight, 0
                elif not isinstance(module, InnerLinear | ResidualLinear) and isinstance(module, nn.Linear):
                    yield module.weight, 1


def _unit(x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time d_model"]:
    """The vector of length sqrt(d_model) in the same direction; a vector near zero has no direction and stays small."""
    return rms_norm(x, eps=1e-8)  # rows of unit length have a mean square of only 1/D
