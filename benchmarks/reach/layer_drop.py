"""Stochastic depth, as a plugin: a block that leaves the inner block out at random while training."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.contracts import Block, BlockSpec, Context, Dims, Layer, State, substate
from minigpt.registry import register


@register("block", "layer_drop")
class LayerDropBlock(Block):
    """Training: block(x) with probability p, else x. Evaluation: x + p (block(x) - x) (Huang et al. 2016, arXiv:1603.09382).

    p falls linearly with depth: layer l of L (counted from 1) survives with p = 1 - rate l / L. The paper drops a layer for
    a whole batch and so saves time. Here each sequence is decided separately, and all layers are computed.

    Args:
        rate: How often the last layer is left out.
        uniform: Every layer has this rate (LayerDrop: Fan et al. 2019, arXiv:1909.11556).
        block: The inner block.
    """

    differs_in_training = True

    def __init__(
        self,
        dims: Dims,
        layer: Layer,
        *,
        rate: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        uniform: bool = False,
        block: BlockSpec = "pre_norm",  # type: ignore[assignment] # as a value in JSON
    ):
        super().__init__()
        self.survival = 1 - rate * (1.0 if uniform else (dims.layer + 1) / dims.n_layers)
        self.inner = block.build(dims, layer)
        self.final_norm = self.inner.final_norm
        self.starts_as_identity = self.inner.starts_as_identity

    def enter(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time *streams d_model"]:
        return self.inner.enter(x)

    def leave(self, x: Float[Tensor, "batch time *streams d_model"]) -> Float[Tensor, "batch time d_model"]:
        return self.inner.leave(x)

    def forward(
        self, x: Float[Tensor, "batch time *streams d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time *streams d_model"]:
        y: Tensor = self.inner(x, ctx, substate(state, "inner"))
        if not self.training:
            return x + self.survival * (y - x)
        survives = torch.rand(len(x), device=x.device) < self.survival
        return torch.where(survives.view(-1, *[1] * (x.ndim - 1)), y, x)
