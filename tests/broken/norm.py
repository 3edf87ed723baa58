"""Broken norms."""

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
        """Return the normalised input without the gain."""
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()


@correct("norm")
class Gain(Norm):
    """Only a gain."""

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


@broken("norm", "batch", "the mean square runs over the batch, as in batch norm")
class OverTheBatch(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        axes = (0, -1) if x.ndim > 1 else (-1,)
        return x * (x.square().mean(axes, keepdim=True) + self.eps).rsqrt()


@broken("norm", "vectorwise", "the root mean square is taken over the whole tensor")
class OverAll(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return x * (x.square().mean() + self.eps).rsqrt()


@broken("norm", "vectorwise", "it assumes three axes, but heads add a fourth")
class ThreeAxesOnly(RootMeanSquare):
    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        return super().forward(x.reshape(batch * time, width)).view(batch, time, width)


@broken("norm", "vectorwise", "a view instead of a reshape fails for inputs that are not contiguous, such as heads")
class ViewsItsInput(RootMeanSquare):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.view(-1, x.shape[-1])).view(x.shape)


@broken("norm", "vectorwise", "the axis is counted from the front: correct for [B, T, D], but for heads it is time")
class AxisFromTheFront(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(min(2, x.ndim - 1), keepdim=True) + self.eps).rsqrt()


@broken("norm", "determinism", "running statistics are updated in each pass, in evaluation mode too")
class RunningStatistics(RootMeanSquare):
    def __init__(self, width: int, *, eps: Annotated[float, Field(gt=0)] = 1e-6):
        super().__init__(width, eps=eps)
        self.register_buffer("square", torch.ones(()))

    def normed(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.square.lerp_(x.square().mean(), 0.1)
        return x * (self.square + self.eps).rsqrt()


@broken("norm", "determinism", "dropout of the output is active in evaluation mode too")
class DropsInEval(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return F.dropout(super().normed(x), 0.1)


@broken("norm", "scaling", "the root is missing, so larger inputs give smaller outputs")
class RootForgotten(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps)


@broken("norm", "scaling", "the output is clamped, although it promises to scale with the input")
class Clamped(Gain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-5, 5)


@broken("norm", "scaling", "a bias does not scale with the input")
class GainAndBias(Gain):
    def __init__(self, width: int):
        super().__init__(width)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bias.to(x.dtype)

    def init_weights(self) -> None:
        nn.init.normal_(self.bias)


@broken("norm", "shape", "eps is added to the quotient instead of the divisor: 0 / 0 for a vector of zeros")
class EpsOutsideTheQuotient(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt() + self.eps


@broken("norm", "shape", "the output is fp32 for inputs of any dtype")
class AlwaysFloat32(RootMeanSquare):
    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x.float()) * self.gain.float()


@broken("norm", "liveness", "the gain is created but not used")
class GainNotUsed(RootMeanSquare):
    def forward(self, x: Tensor) -> Tensor:
        return self.normed(x.float()).to(x.dtype)


@broken("norm", "knobs", "an eps is accepted, but the kernel's default is used")
class EpsNotUsed(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:])


@broken("norm", "modes", "eps is outside of the root in evaluation")
class OtherEpsInEval(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        root = x.square().mean(-1, keepdim=True)
        return x / ((root + 0.01).sqrt() if self.training else root.sqrt() + 0.01)


@broken("norm", "backward", "the root mean square is detached: the gradient takes it for a constant")
class DetachedRoot(RootMeanSquare):
    def normed(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt().detach()
