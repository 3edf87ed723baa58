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


@broken("attention", "shape", "a squeeze takes away time or batch where it is 1")
class SqueezedOutput(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state).squeeze()


@broken("attention", "shape", "with one head the axis of heads is squeezed away")
class OneHeadSqueezed(Plain):
    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q.squeeze(1), k.squeeze(1), v.squeeze(1)


@broken("attention", "shape", "heads are taken to fill the model: n_heads * head_dim = d_model")
class HeadsFillTheModel(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.out = ResidualLinear(dims.d_model, dims.d_model, bias=False)


@broken("attention", "shape", "the table of slopes ends one token before block_size")
class OneTokenShort(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.strength = nn.Parameter(torch.ones(max(1, dims.block_size - 1)))

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state) * self.strength[ctx.positions][:, None]


@broken("attention", "shape", "the output is fp32 whatever came in")
class AlwaysFloat32(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state).float()


@broken("attention", "shape", "exponentials without their maximum taken off overflow")
class ExpOverflows(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        exps = scores.exp().masked_fill(~seen, 0.0)
        return exps / exps.sum(-1, keepdim=True)


@broken("attention", "device", "a mask is made on the CPU whatever the input's device")
class MaskOnTheCpu(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return torch.ones(len(q_positions), len(k_positions), dtype=torch.bool).tril(len(k_positions) - len(q_positions))


@broken("attention", "device", "a mask is a plain attribute, not a buffer: it does not move with the model")
class MaskIsNoBuffer(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.triangle = torch.ones(2 * dims.block_size, 2 * dims.block_size, dtype=torch.bool).tril()

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return self.triangle[q_positions][:, k_positions]


@broken("attention", "device", "the constructor reads numbers out of a tensor: it cannot be built on meta, to be counted")
class ReadsTensorsInConstructor(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.temperatures = torch.linspace(0.5, 1.5, dims.n_heads).tolist()

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        temperatures = torch.tensor(self.temperatures, device=scores.device, dtype=scores.dtype)
        return super().weights(scores * temperatures[:, None, None], seen)


@broken("attention", "device", "distances are counted by an arange on the CPU")
class ArangeOnTheCpu(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(scores - 0.01 * torch.arange(scores.shape[-1]).flip(0), seen)


# Weights and gradients.


@broken("attention", "liveness", "a gate is detached, and what makes it is never trained")
class DetachedGate(Gated):
    def gates(self, x: Tensor) -> Tensor:
        return super().gates(x).detach()


@broken("attention", "liveness", "a gate is computed without gradients, to save memory")
class GateWithoutGradients(Gated):
    def gates(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().gates(x)


@broken("attention", "liveness", "a gate is made and never used")
class UnusedGate(Gated):
    def gates(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


@broken("attention", "liveness", "a gate is thresholded: its gradient is zero everywhere")
class HardGate(Gated):
    def gates(self, x: Tensor) -> Tensor:
        return 0.5 + 0.5 * self.gate(x).sign()


@broken("attention", "liveness", "a root has an infinite slope at 0, and infinity times the 0 of a mask is no number")
class RootAtZero(Gated):
    def gates(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        return (gate * (gate > 0)).sqrt()


@broken("attention", "liveness", "a where drops the value of the branch that it does not choose, but not its gradient")
class NanBehindWhere(Gated):
    def gates(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        return torch.where(gate > 0, gate.sqrt(), torch.zeros_like(gate))


@broken("attention", "weights", "a random projection is kept in a buffer that is not saved")
class ProjectionNotSaved(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("projection", torch.randn(dims.head_dim, dims.head_dim), persistent=False)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().heads(x)
        return q, k, v @ self.projection.to(v.dtype)


@broken("attention", "weights", "initial weights are drawn by numpy, which no torch seed reaches")
class NumpyWeights(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.scale = nn.Parameter(torch.tensor(np.random.uniform(0.5, 1.5, dims.n_heads), dtype=torch.float32))

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(scores * self.scale[:, None, None], seen)


@broken("attention", "weights", "maps are kept in a plain list: they are not found, moved or saved")
class MapsInAList(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.maps = [nn.Linear(dims.d_model, dims.d_model, bias=False) for _ in range(2)]

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state) + sum(F.linear(x, each.weight.to(x.dtype)) for each in self.maps)


@broken("attention", "weights", "a function that closes over self goes on to use the original's weights in a deepcopy")
class ClosureOverSelf(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.temperature = nn.Parameter(torch.ones(dims.n_heads, 1, 1))
        self.sharpen = lambda scores: scores * self.temperature

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        return super().weights(self.sharpen(scores), seen)


@broken("attention", "compile", "the path for compilation takes another kernel, and forgets the position's bias")
class OtherWhenCompiled(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        weights = super().weights(scores, seen)
        return weights.square() if torch.compiler.is_compiling() else weights


@broken("attention", "knobs", "a rate is accepted and never used")
class DeadKnob(Plain):
    """A knob that is dead.

    Args:
        dropout: Rate on the weights.
    """

    def __init__(self, dims: Dims, *, dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0):
        super().__init__(dims)
        self.dropout = nn.Dropout(dropout)


@broken("attention", "knobs", "a parent's window is accepted, and then overwritten by a constant")
class KnobOverwritten(Windowed):
    def __init__(self, dims: Dims, **shared: Any):
        super().__init__(dims, **shared)
        self.window = self.reach = 4


@broken("attention", "uses", "a position's rotation is said to be honoured, and never asked for")
class RotationPromised(Plain):
    def rotate(self, q: Tensor, k: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        return q, k
