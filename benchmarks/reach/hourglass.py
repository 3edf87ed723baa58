"""Hourglass, as a plugin: a block whose inner blocks see one vector for every k tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Block, BlockSpec, Context, Dims, Layer, ResidualLinear, State, substate
from minigpt.registry import register


@register("block", "hourglass")
class HourglassBlock(Block):
    """x_t + W_up inner(g)_j: g_j = W_down [k tokens], j the last group that is complete at t (arXiv:2110.13711).

    Nawrot et al. 2021 shift the tokens so that a group is used only when all its tokens were read; here a token reads the
    newest complete group, which is the same. The first k - 1 tokens have none.

    Args:
        shorten: Number k of tokens in a group.
        depth: Number of inner blocks.
        block: The inner blocks; all of them have the layer's parts.
    """

    def __init__(
        self,
        dims: Dims,
        layer: Layer,
        *,
        shorten: Annotated[int, Field(ge=2, le=64)] = 2,
        depth: Annotated[int, Field(ge=1, le=256)] = 2,
        block: BlockSpec = "pre_norm",  # type: ignore[assignment] # as a value in JSON
    ):
        super().__init__()
        self.shorten = shorten
        self.norm = layer.norm.build(dims.d_model)
        self.down = nn.Linear(shorten * dims.d_model, dims.d_model, bias=False)
        self.inner = nn.ModuleList(block.build(dims, layer) for _ in range(depth))
        self.up = ResidualLinear(dims.d_model, dims.d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], ctx: Context, state: State | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        if ctx.segments is not None:
            raise ValueError("hourglass joins neighbouring tokens and cannot keep segments of a row apart")
        start, k = 0 if state is None else int(ctx.positions[0]), self.shorten
        waiting, newest = x[:, :0], torch.zeros_like(x[:, :1])
        if state is not None:
            waiting, newest = state.tensors["waiting"][:, : start % k].to(x.dtype), state.tensors["newest"].to(x.dtype)
        tokens = torch.cat((waiting, x), 1)
        groups, places = tokens.shape[1] // k, torch.arange(start, start + x.shape[1], device=x.device)
        if groups:
            whole = self.norm(tokens[:, : groups * k])
            inner = self._inner(self.down(whole.reshape(len(x), groups, -1)), start // k, ctx, state)
            newest = torch.cat((newest, inner), 1)
        if state is not None:
            rest = tokens[:, groups * k :]
            state.tensors["waiting"][:, : rest.shape[1]] = rest
            state.tensors["newest"].copy_(newest[:, -1:])
        return x + self.up(newest)[:, (places + 1) // k - start // k]

    def _inner(self, x: Tensor, first: int, ctx: Context, state: State | None) -> Tensor:
        """The inner blocks on groups, the first of which is number `first`."""
        positions = torch.arange(first, first + x.shape[1], device=x.device)
        ends = (positions + 1) * self.shorten - 1 - ctx.positions[0]  # a group ends in one of the new tokens
        # Streams and shared values of other layers have one entry for each token, so the inner blocks get their own.
        short = replace(ctx, positions=positions, tokens=ctx.tokens[:, ends], outputs=[x], shared={})
        stream = self.inner[0].enter(x)
        for index, block in enumerate(self.inner):
            stream = block(stream, short, substate(state, f"inner.{index}"))
            short.outputs.append(block.leave(stream))
        return short.outputs[-1]

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().new_state(batch, -(-capacity // self.shorten), device, dtype) or State()
        for name, size in (("waiting", self.shorten - 1), ("newest", 1)):
            state.tensors[name] = torch.zeros(batch, size, self.up.in_features, device=device, dtype=dtype)
        return state
