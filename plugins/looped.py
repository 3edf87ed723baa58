"""A looped transformer: an example plugin, a block that applies other blocks several times, with a state for each pass.

Use it by naming this file in an experiment's "plugins" (see experiments/looped.json), or on the command line:

    minigpt run experiments/quickstart.json --plugin plugins/looped.py --set model.block=looped --set model.n_layers=1
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Block, BlockSpec, Context, Dims, Layer, State, substate
from minigpt.registry import register


@register("block", "looped")
class LoopedBlock(Block):
    """The same inner blocks again and again (Universal Transformer: Dehghani et al. 2018, arXiv:1807.03819).

    x <- block_n(... block_1(x + e_r)) for passes r = 1 ... R

    e_r is a trained vector that says which pass it is; it starts at zero. Each pass has its own keys and values, so a
    state is R times as large as that of the inner blocks. A model of one such layer is a Universal Transformer of depth R.
    Layers with another block before and after it are the prelude and the coda of later work (arXiv:2502.05171).

    Args:
        loops: Number R of passes.
        depth: Number n of different inner blocks.
        block: The inner blocks; all of them have the layer's parts.
    """

    uses = frozenset({"segments"})  # the inner blocks get them; a part that does not use them is refused
    elementwise = frozenset({"pass_vectors"})

    def __init__(
        self,
        dims: Dims,
        layer: Layer,
        *,
        loops: Annotated[int, Field(ge=1, le=256)] = 4,
        depth: Annotated[int, Field(ge=1, le=256)] = 1,
        block: BlockSpec = "pre_norm",  # type: ignore[assignment] # as a value in JSON
    ):
        super().__init__()
        self.loops = loops
        self.inner = nn.ModuleList(block.build(dims, layer) for _ in range(depth))
        self.pass_vectors = nn.Parameter(torch.zeros(loops, dims.d_model))
        self.final_norm = self.inner[-1].final_norm

    def enter(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time *streams d_model"]:
        entered: Tensor = self.inner[0].enter(x)
        return entered

    def leave(self, x: Float[Tensor, "batch time *streams d_model"]) -> Float[Tensor, "batch time d_model"]:
        left: Tensor = self.inner[-1].leave(x)
        return left

    def forward(
        self, x: Float[Tensor, "batch time *streams d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time *streams d_model"]:
        for number, pass_vector in enumerate(self.pass_vectors):
            x = x + pass_vector.to(x.dtype)
            for index, block in enumerate(self.inner):
                x = block(x, ctx, substate(state, f"{number}.{index}"))
        return x

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State | None:
        # The inherited method would give each inner block one state, which the passes would share.
        states = {
            f"{number}.{index}": block.new_state(batch, capacity, device, dtype)
            for number in range(self.loops)
            for index, block in enumerate(self.inner)
        }
        children = {name: state for name, state in states.items() if state is not None}
        return State(children=children) if children else None
