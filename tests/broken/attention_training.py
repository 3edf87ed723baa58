"""Softmax attention: mistakes of train mode, of the backward pass, and of bf16."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, State
from minigpt.kernels import visible
from tests.broken import broken
from tests.broken.attention import Gated, Plain


@broken("attention", "modes", "in training, scores are divided by the head's width instead of its root")
class ColdInTraining(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(scores / math.sqrt(self.head_dim) if self.training else scores, seen)


@broken("attention", "modes", "only evaluation has the window")
class WindowOnlyInEval(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return visible(q_positions, k_positions, None if self.training else 16)


@broken("attention", "modes", "in train mode it starts afresh, although it is given the state of earlier tokens")
class IgnoresMemoryInTraining(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, None if self.training else state)


@broken("attention", "modes", "weights are dropped at a fixed rate with own masks, even if the model has no dropout")
class OwnDropout(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        weights = super().weights(scores, seen)
        return weights * (torch.rand_like(weights) > 0.1) / 0.9 if self.training else weights


@broken("attention", "backward", "keys are detached, so they are not trained to be found")
class KeysDetached(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q, k.detach(), v


@broken("attention", "backward", "in training, a hook doubles the gradient of the values")
class HookInTraining(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        if self.training and v.requires_grad:
            v.register_hook(lambda gradient: 2 * gradient)
        return q, k, v


@broken("attention", "backward", "the gate's parameter has a hook that reverses its gradient")
class HookOnAWeight(Gated):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.gate.weight.register_hook(lambda gradient: -gradient)


class _SoftmaxWithoutMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, scores: Tensor) -> Tensor:
        weights = scores.softmax(-1)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return weights * gradient  # the mean of the gradient is not subtracted


@broken("attention", "backward", "the backward pass of an own softmax does not subtract the mean")
class OwnSoftmax(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return _SoftmaxWithoutMean.apply(scores.masked_fill(~seen, -torch.inf))


@broken("attention", "backward", "with a parameter, half of the gradient of the gate is stopped")
class StopsHalf(Gated):
    """Gated softmax attention.

    Args:
        stopped: Share of the gate's gradient that is stopped.
    """

    def __init__(self, dims: Dims, *, stopped: Annotated[float, Field(ge=0, le=1)] = 0.0):
        super().__init__(dims)
        self.stopped = stopped

    def gates(self, x: Tensor) -> Tensor:
        gates = super().gates(x)
        return gates + self.stopped * (gates.detach() - gates)


@broken(
    "attention",
    "autocast",
    "positions for the distances are in the type of the scores, and bf16 has no odd number above 256",
)
class DistancesInBf16(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        places = torch.arange(scores.shape[-1], device=scores.device).to(scores.dtype)
        ends = places[-scores.shape[-2] :]
        return super().weights(scores - (ends[:, None] - places).abs(), seen)


@broken("attention", "autocast", "a running mean of the inputs counts its tokens in the type of the state")
class CountsInTheState(Gated):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.mean = nn.Linear(dims.d_model, dims.d_model, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        before = (0.0, 0.0) if state is None else (state.tensors["sum"], state.tensors["count"])
        sums = x.abs().cumsum(1) + before[0]
        counts = torch.ones_like(x[..., :1]).cumsum(1) + before[1]
        if state is not None:
            kinds = {name: tensor.dtype for name, tensor in state.tensors.items()}
            state.tensors |= {"sum": sums[:, -1:].to(kinds["sum"]), "count": counts[:, -1:].to(kinds["count"])}
        return self.mean(x * sums / counts)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        width = self.mean.in_features
        sums, counts = (torch.zeros(batch, 1, size, device=device, dtype=dtype) for size in (width, 1))
        return State({"sum": sums.float(), "count": counts})


@broken("attention", "batch", "outputs are centred over groups of eight sequences")
class GroupsOfEightRows(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        if len(x) % 8 == 0:
            groups = y.unflatten(0, (-1, 8))
            y = (groups - groups.mean(1, keepdim=True)).flatten(0, 1)
        return y


@broken("attention", "batch", "a row that occurs several times in the batch counts once")
class CopiesCountOnce(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        copies = (x[:, None] == x[None]).flatten(2).all(-1).sum(1)
        return y / copies[:, None, None]
