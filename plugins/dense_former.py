"""DenseFormer: an example plugin, a block that reads a weighted mean of all earlier layers.

Use it by naming this file in an experiment's "plugins" (see experiments/dense_former.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/dense_former.py --set model.block=dense_former
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Block, BlockSpec, Context, Dims, Layer, State, substate
from minigpt.registry import register


@register("block", "dense_former")
class DenseFormerBlock(Block):
    """block(sum over j of a_j X_j), X_j the stream after layer j (Pagliardini et al. 2024, arXiv:2402.02622).

    X_0 is the embedding. The last layer also returns such a sum. The weights a are trained, at first 1 for the newest X and
    0 for all others: with these weights the model is the same as with the inner block. The paper has the sums after layers;
    here each is at the start of the next layer, which is the same model.

    Args:
        dilation: Only every n-th earlier layer takes part, counted back from the newest (the paper's k).
        block: The inner block.
    """

    def __init__(
        self,
        dims: Dims,
        layer: Layer,
        *,
        dilation: Annotated[int, Field(ge=1, le=1024)] = 1,
        block: BlockSpec = "pre_norm",  # type: ignore[assignment] # as a value in JSON
    ):
        super().__init__()
        self.dilation, self.is_last = dilation, dims.layer == dims.n_layers - 1
        self.inner = block.build(dims, layer)
        self.final_norm = self.inner.final_norm
        earlier = dims.layer // dilation
        self.weights = nn.Parameter(torch.cat((torch.ones(1), torch.zeros(earlier))))  # the newest first
        last = (dims.layer + 1) // dilation
        self.last_weights = nn.Parameter(torch.cat((torch.ones(1), torch.zeros(last)))) if self.is_last else None

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        # The stream of this block is plain, so it enters and leaves the inner block's form in every layer.
        earlier = ctx.outputs[:-1]  # the newest is x
        x = self.inner.enter(self._sum(self.weights, [*earlier, x]))
        x = self.inner.leave(self.inner(x, ctx, substate(state, "inner")))
        return x if self.last_weights is None else self._sum(self.last_weights, [*ctx.outputs, x])

    def _sum(
        self, weights: Float[Tensor, " chosen"], streams: list[Float[Tensor, "batch time d_model"]]
    ) -> Float[Tensor, "batch time d_model"]:
        chosen = torch.stack(streams[::-1][:: self.dilation])
        return (weights.to(chosen.dtype).view(-1, 1, 1, 1) * chosen).sum(0)  # no matrix product, which autocast would round
