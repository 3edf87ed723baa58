"""Recurrent depth with a random number of passes in training, as a plugin (Geiping et al. 2025, arXiv:2502.05171)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Block, BlockSpec, Context, Dims, InnerLinear, Layer, State, substate
from minigpt.registry import register

_BACKPROP = 8
"""Passes with gradients; the paper's number."""


@register("block", "random_depth")
class RandomDepthBlock(Block):
    """s <- block(W [s, x]), repeated; x enters every pass, so that the passes can converge (arXiv:2502.05171).

    In training the number of passes is drawn anew for each forward pass: 1 + Poisson(e^t), t normal with mean
    log(loops - 1) - sigma^2 / 2 and deviation sigma = 1/2, at most 4 loops. Otherwise it is `loops`. Gradients go
    through the last 8 passes and through x. The paper starts s from noise; here it starts from x, so that decoding repeats.

    Args:
        loops: Mean number of passes in training, and the number in evaluation and decoding.
        block: The inner block.
    """

    uses = frozenset({"segments"})  # the inner block gets them; a part that does not use them is refused

    def __init__(
        self,
        dims: Dims,
        layer: Layer,
        *,
        loops: Annotated[int, Field(ge=2, le=64)] = 4,
        block: BlockSpec = "pre_norm",  # type: ignore[assignment] # as a value in JSON
    ):
        super().__init__()
        self.loops = loops
        self.inner = block.build(dims, layer)
        self.adapter = InnerLinear(2 * dims.d_model, dims.d_model, bias=False)
        self.norm = layer.norm.build(dims.d_model)
        self.final_norm = self.inner.final_norm

    def init_weights(self) -> None:
        """The adapter starts as the mean of s and x."""
        half = 0.5 * torch.eye(self.adapter.out_features)
        nn.init.zeros_(self.adapter.weight)
        self.adapter.weight.data += torch.cat((half, half), 1)

    def passes(self) -> int:
        """The number of passes of this forward pass, from torch's seed in training."""
        if not self.training:
            return self.loops
        log_rate = torch.randn((), device="cpu") * 0.5 + math.log(self.loops - 1) - 0.125
        return min(1 + int(torch.poisson(log_rate.exp())), 4 * self.loops)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        passes, s = self.passes(), x
        for number in range(passes):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= passes - _BACKPROP):
                both = self.adapter(torch.cat((s, x), -1))
                s = self.norm(self.inner.leave(self.inner(self.inner.enter(both), ctx, substate(state, str(number)))))
        return s

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State | None:
        passes = 4 * self.loops if self.training else self.loops
        states = {str(number): self.inner.new_state(batch, capacity, device, dtype) for number in range(passes)}
        children = {name: state for name, state in states.items() if state is not None}
        return State(children=children) if children else None
