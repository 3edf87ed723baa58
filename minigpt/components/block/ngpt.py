"""The residual stream on a sphere."""

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
    """Each sub-layer proposes a point on the sphere, and the stream takes a step towards it (Loshchilov et al. 2024).

        x <- unit(x + a * (unit(attention(x)) - x)), then with ffn and a step a' of its own; unit(z) = z sqrt(D) / |z|

    arXiv:2410.01131, with the radius sqrt(D) where the paper has 1: a sub-layer reads what a norm would give it, and the
    paper's factor sqrt(D) on the gate of its MLP is there already. What is stored of a is a / (a_0 sqrt(D)), so that an
    optimizer moves it at the paper's pace; its sign does not count. Rows of the linear maps that read the stream, and
    columns of those that write to it, are brought back to length 1 after every update; stacked expert weights (moe) are not.

    The paper's model is this block with attention {"bias": false, "qk_norm": "rmsnorm"} (the gains are s_qk; the product of
    two heads of root mean square 1 over sqrt(K) is sqrt(K) times their cosine), ffn {"name": "glu", "gain": true}, position
    rope, unit_embeddings, tied_head false, no dropout, no weight decay and no warm-up. Two things differ: a gain of q and k
    acts before the rotation, is shared by the heads, and moves at a gain's pace rather than sqrt(D) times as fast.

    Args:
        step_size: Initial a_0 of every channel (the paper's 0.05, or about 1/n_layers).
    """

    final_norm = False

    def __init__(self, dims: Dims, layer: Layer, *, step_size: Annotated[float, Field(gt=0)] = 0.05):
        super().__init__()
        self.d_model = dims.d_model
        self.stored_unit = step_size * dims.d_model**0.5  # a for a stored value of 1
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
        """Vectors of d_model numbers in the weights go back to length 1."""
        for weight, axis in self._on_the_sphere():
            weight.copy_(F.normalize(weight, dim=axis))

    def _on_the_sphere(self) -> Iterator[tuple[Tensor, int]]:
        """The constrained weights, each with the axis that is d_model long."""
        for part in (self.attention, self.ffn):
            for module in part.modules():
                if isinstance(module, ResidualLinear) and module.out_features == self.d_model:
                    yield module.weight, 0
                elif not isinstance(module, InnerLinear | ResidualLinear) and isinstance(module, nn.Linear):
                    yield module.weight, 1


def _unit(x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time d_model"]:
    """The vector of length sqrt(d_model) in the same direction; near zero, where there is none, it stays small."""
    return rms_norm(x, eps=1e-8)  # rows of unit_embeddings have a mean square of only 1/D
