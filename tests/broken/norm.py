"""Norms."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Norm
from tests.broken import broken, correct


@correct("norm")
class RootMeanSquare(Norm):
    """x / sqrt(mean(x^2) + eps), then a gain.

    Args:
        eps: Added to the mean square.
    """

    scaling = "invariant"

    def __init__(self, width: int, *, eps: Annotated[float, Field(gt=0)] = 1e-6):
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x.float()).to(x.dtype) * self.gain.to(x.dtype)

    def normed(self, x: Tensor) -> Tensor:
        """Without the gain."""
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()


@correct("norm")
class Gain(Norm):
    """A gain alone."""

    scaling = "equivariant"

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain.to(x.dtype)


@broken("norm", "causality", "the mean square runs over time as well as the width")
class OverTime(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        axes = (-2, -1) if x.ndim > 1 else (-1,)
        return x * (x.square().mean(axes, keepdim=True) + self.eps).rsqrt()


@broken("norm", "batch", "the mean square runs over the batch, as batch norm's does")
class OverTheBatch(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        axes = (0, -1) if x.ndim > 1 else (-1,)
        return x * (x.square().mean(axes, keepdim=True) + self.eps).rsqrt()


@broken("norm", "vectorwise", "the root mean square is that of the whole tensor")
class OverAll(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return x * (x.square().mean() + self.eps).rsqrt()


@broken("norm", "vectorwise", "three axes are taken for granted, and heads bring a fourth")
class ThreeAxesOnly(RootMeanSquare):
    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        return super().forward(x.reshape(batch * time, width)).view(batch, time, width)


@broken(
    "norm", "vectorwise", "a view for a reshape: vectors that do not lie one after another, as heads do not, are refused"
)
class ViewsItsInput(RootMeanSquare):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(-1, x.shape[-1])).view(x.shape)


@broken("norm", "vectorwise", "the axis is counted from the front: right for [B, T, D], and for heads it is time")
class AxisFromTheFront(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(min(2, x.ndim - 1), keepdim=True) + self.eps).rsqrt()


@broken("norm", "determinism", "running statistics move with every pass, in evaluation too")
class RunningStatistics(RootMeanSquare):
    def __init__(self, width: int, *, eps: Annotated[float, Field(gt=0)] = 1e-6):
        super().__init__(width, eps=eps)
        self.register_buffer("square", torch.ones(()))

    def normed(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.square.lerp_(x.square().mean(), 0.1)
        return x * (self.square + self.eps).rsqrt()


@broken("norm", "determinism", "dropout on the gain is on in evaluation too")
class DropsInEval(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return F.dropout(super().normed(x), 0.1)


@broken("norm", "scaling", "the root is forgotten: the larger the input, the smaller the output")
class RootForgotten(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps)


@broken("norm", "scaling", "what is promised to grow with its input is clamped")
class Clamped(Gain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-5, 5)


@broken("norm", "scaling", "a bias stays as it is when the input grows")
class GainAndBias(Gain):
    def __init__(self, width: int):
        super().__init__(width)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bias.to(x.dtype)

    def init_weights(self) -> None:
        nn.init.normal_(self.bias)


@broken("norm", "shape", "eps is added to the quotient, not to what is divided by: 0 / 0 for a vector of zeros")
class EpsOutsideTheQuotient(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt() + self.eps


@broken("norm", "shape", "the mean square is taken in the input's precision and comes back in fp32 times the gain")
class ComesBackInFloat32(RootMeanSquare):
    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x.float()) * self.gain.float()


@broken("norm", "liveness", "the gain is made and never multiplied with")
class GainNotUsed(RootMeanSquare):
    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x.float()).to(x.dtype)


@broken("norm", "knobs", "an eps is accepted, and the kernel's own is used")
class EpsNotUsed(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:])
