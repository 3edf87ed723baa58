"""Softmax attention: shapes, devices, weights, gradients, knobs."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, ResidualLinear, State
from tests.broken import broken
from tests.broken.attention import Gated, Plain, Windowed


@broken("attention", "shape", "a squeeze removes the time or batch axis if its size is 1")
class SqueezedOutput(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state).squeeze()


@broken("attention", "shape", "with one head, a squeeze removes the head axis")
class OneHeadSqueezed(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q.squeeze(1), k.squeeze(1), v.squeeze(1)


@broken("attention", "shape", "it assumes that n_heads * head_dim = d_model")
class HeadsFillTheModel(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.out = ResidualLinear(dims.d_model, dims.d_model, bias=False)


@broken("attention", "shape", "a table by position has one row less than block_size")
class OneTokenShort(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.strength = nn.Parameter(torch.ones(max(1, dims.block_size - 1)))

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state) * self.strength[ctx.positions][:, None]


@broken("attention", "shape", "the output is fp32 for inputs of any dtype")
class AlwaysFloat32(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state).float()


@broken("attention", "shape", "exponentials overflow, because the maximum is not subtracted")
class ExpOverflows(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        exps = scores.exp().masked_fill(~seen, 0.0)
        return exps / exps.sum(-1, keepdim=True)


@broken("attention", "device", "a mask is created on the CPU for inputs on any device")
class MaskOnTheCpu(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return torch.ones(len(q_positions), len(k_positions), dtype=torch.bool).tril(len(k_positions) - len(q_positions))


@broken("attention", "device", "a mask is an attribute and not a buffer, so it does not move with the model")
class MaskIsNoBuffer(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.triangle = torch.ones(2 * dims.block_size, 2 * dims.block_size, dtype=torch.bool).tril()

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return self.triangle[q_positions][:, k_positions]


@broken("attention", "device", "the constructor reads values from a tensor, so it cannot be built on the meta device")
class ReadsTensorsInConstructor(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.temperatures = torch.linspace(0.5, 1.5, dims.n_heads).tolist()

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        temperatures = torch.tensor(self.temperatures, device=scores.device, dtype=scores.dtype)
        return super().weights(scores * temperatures[:, None, None], seen)


@broken("attention", "device", "distances come from an arange on the CPU")
class ArangeOnTheCpu(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(scores - 0.01 * torch.arange(scores.shape[-1]).flip(0), seen)


# Weights and gradients.


@broken("attention", "liveness", "a gate is detached, so its weights are not trained")
class DetachedGate(Gated):
    def gates(self, x: Tensor) -> Tensor:
        return super().gates(x).detach()


@broken("attention", "liveness", "a gate is computed without gradients, to save memory")
class GateWithoutGradients(Gated):
    def gates(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().gates(x)


@broken("attention", "liveness", "a gate is created and never used")
class UnusedGate(Gated):
    def gates(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


@broken("attention", "liveness", "a gate is a step function, whose gradient is zero everywhere")
class HardGate(Gated):
    def gates(self, x: Tensor) -> Tensor:
        return 0.5 + 0.5 * self.gate(x).sign()


@broken("attention", "liveness", "a root has an infinite slope at 0, and infinity times the 0 of a mask is NaN")
class RootAtZero(Gated):
    def gates(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        return (gate * (gate > 0)).sqrt()


@broken("attention", "liveness", "where() drops the value of the other branch, but not its NaN gradient")
class NanBehindWhere(Gated):
    def gates(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        return torch.where(gate > 0, gate.sqrt(), torch.zeros_like(gate))


@broken("attention", "weights", "a random projection is a buffer that is not saved")
class ProjectionNotSaved(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("projection", torch.randn(dims.head_dim, dims.head_dim), persistent=False)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q, k, v @ self.projection.to(v.dtype)


@broken("attention", "weights", "initial weights come from numpy, which torch's seed does not control")
class NumpyWeights(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.scale = nn.Parameter(torch.tensor(np.random.uniform(0.5, 1.5, dims.n_heads), dtype=torch.float32))

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(scores * self.scale[:, None, None], seen)


@broken("attention", "weights", "modules are in a plain list, so they are not found, moved or saved")
class MapsInAList(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.maps = [nn.Linear(dims.d_model, dims.d_model, bias=False) for _ in range(2)]

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state) + sum(F.linear(x, each.weight.to(x.dtype)) for each in self.maps)


@broken("attention", "weights", "in a deep copy, a function that closes over self still uses the original's weights")
class ClosureOverSelf(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.temperature = nn.Parameter(torch.ones(dims.n_heads, 1, 1))
        self.sharpen = lambda scores: scores * self.temperature

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(self.sharpen(scores), seen)


@broken("attention", "compile", "the path for compilation computes other weights")
class OtherWhenCompiled(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        weights = super().weights(scores, seen)
        return weights.square() if torch.compiler.is_compiling() else weights


@broken("attention", "knobs", "a rate is accepted and never used")
class DeadKnob(Plain):
    """A knob without effect.

    Args:
        dropout: Rate on the weights.
    """

    def __init__(self, dims: Dims, *, dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0):
        super().__init__(dims)
        self.dropout = nn.Dropout(dropout)


@broken("attention", "knobs", "the parent's window is accepted, then overwritten by a constant")
class KnobOverwritten(Windowed):
    def __init__(self, dims: Dims, **shared: Any):
        super().__init__(dims, **shared)
        self.window = self.reach = 4


@broken("attention", "uses", "`uses` promises a position's rotation, but it is not applied")
class RotationPromised(Plain):
    def rotate(self, q: Tensor, k: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        return q, k
