"""Parts that train in an unusual way: noise, stopped gradients, jumps, rows of a batch that meet."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minigpt.contracts import Context, Dims, FeedForward, Norm, ResidualLinear, State
from tests.broken.attention import Plain
from tests.broken.ffn import Experts, Perceptron, Shifted
from tests.unusual import unusual


@unusual("attention", "modes", "keys are left out at the model's dropout rate, with own masks: without dropout, none are")
class LeavesOutKeys(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.rate = float(dims.dropout) if isinstance(dims.dropout, float | int) else 0.0

    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        if self.training and self.rate:
            kept = torch.rand_like(scores) >= self.rate
            seen = seen & (kept | torch.eye(scores.shape[-2], scores.shape[-1], dtype=torch.bool, device=scores.device))
        return super().weights(scores, seen)


@unusual("ffn", "modes", "it has its own dropout, which is on by default; it is dropout too")
class DropsHiddenUnits(Perceptron):
    """W_out drop(f(W_in x)).

    Args:
        rate: Rate at which hidden units are dropped.
    """

    def __init__(self, dims: Dims, *, rate: Annotated[float, Field(ge=0, lt=1)] = 0.1):
        super().__init__(dims)
        self.rate = rate

    def hidden(self, x: Tensor) -> Tensor:
        return F.dropout(super().hidden(x), self.rate, self.training)


@unusual("ffn", "modes", "noise in training that a parameter switches on, and that is declared where it is on")
class NoisyInTraining(Perceptron):
    """W_out (f(W_in x) + noise).

    Args:
        noise: Deviation of the noise.
    """

    def __init__(self, dims: Dims, *, noise: Annotated[float, Field(ge=0)] = 0.1):
        super().__init__(dims)
        self.noise = noise
        self.differs_in_training = noise > 0

    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        return hidden + self.noise * torch.randn_like(hidden) if self.training else hidden


@unusual("ffn", "modes", "noise that a parameter switches on is not declared, but only its parameter brings it")
class NoiseByParameter(Perceptron):
    """W_out (f(W_in x) + noise).

    Args:
        noise: Deviation of the noise.
    """

    def __init__(self, dims: Dims, *, noise: Annotated[float, Field(ge=0)] = 0.0):
        super().__init__(dims)
        self.noise = noise

    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        return hidden + self.noise * torch.randn_like(hidden) if self.training and self.noise else hidden


@unusual(
    "ffn",
    "modes",
    "train mode computes in another order, which differs in rounding only, and recomputes in the backward pass",
)
class Recomputes(Perceptron):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x, ctx, state)
        halves = zip(self.into.weight.chunk(2), self.out.weight.chunk(2, -1), strict=True)
        parts = [checkpoint(self._half, x, into, out, use_reentrant=False) for into, out in halves]
        return parts[0] + parts[1]

    def _half(self, x: Tensor, into: Tensor, out: Tensor) -> Tensor:
        return self.out.factor * F.linear(self.activation(F.linear(x, into)), out)


@unusual("ffn", "backward", "hidden units are rounded, with a straight-through estimate that is declared")
class RoundsDeclared(Perceptron):
    surrogate_gradient = True

    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        return hidden + (hidden.round(decimals=1) - hidden).detach()


@unusual(
    "attention",
    "backward",
    "only the four highest scores of a query count: outputs jump where another key becomes one of them",
)
class HighestFour(Plain):
    def weights(self, scores: Tensor, seen: Tensor) -> Tensor:
        scores = scores.masked_fill(~seen, -torch.inf)
        fourth = scores.topk(min(4, scores.shape[-1]), -1).values[..., -1:]
        return scores.masked_fill(scores < fourth, -torch.inf).softmax(-1)


@unusual("ffn", "backward", "hidden units compete in pairs, and a count of them is detached; both have kinks or jumps only")
class Competes(Perceptron):
    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x)
        best = hidden.unflatten(-1, (2, -1)).amax(-2, keepdim=True).expand(*x.shape[:-1], 2, -1).flatten(-2)
        active = (hidden > 0).to(hidden.dtype).mean(-1, keepdim=True)
        return hidden.relu() * best * (1 + active)


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 3 * x * x * gradient


@unusual("norm", "backward", "it computes in fp32 whatever its input is, and it has an own backward pass")
class CubedInFp32(Norm):
    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        exact = x.float()
        unit = exact * (exact.square().mean(-1, keepdim=True) + 1e-4).rsqrt()
        return (self.gain.float() * (unit + 0.1 * _Cube.apply(unit))).to(x.dtype)


@unusual("ffn", "determinism", "a table of waves is kept on the module for each length; it depends on the length only")
class KeepsATable(Perceptron):
    waves: Tensor | None = None

    def hidden(self, x: Tensor) -> Tensor:
        width = self.into.out_features
        if self.waves is None or self.waves.device != x.device:
            self.waves = torch.linspace(0, 1, width, device=x.device)
        return super().hidden(x) * (1 + self.waves.to(x.dtype))


@unusual("ffn", "determinism", "operations in place, but on its own tensors")
class InPlace(Perceptron):
    def __init__(self, dims: Dims):
        super().__init__(dims)

    def hidden(self, x: Tensor) -> Tensor:
        hidden = self.into(x)
        hidden.mul_(2)
        return hidden.relu_() + 0.5


@unusual("ffn", "batch", "tokens of all rows are sorted by expert and computed together, as a dispatcher does")
class SortsTheBatch(Experts):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        tokens = x.flatten(0, 1)
        scores = self.scores(tokens)
        best = scores.argmax(-1)
        order = best.argsort(stable=True)
        parts = [expert(tokens[order[best[order] == index]]) for index, expert in enumerate(self.experts)]
        together = torch.cat(parts)[order.argsort()] * scores.softmax(-1).gather(-1, best[:, None])
        return together.view_as(x)


@unusual("ffn", "batch", "equal ids of the whole batch are looked up once")
class LooksUpOnce(FeedForward):
    def __init__(self, dims: Dims):
        super().__init__()
        self.table = nn.Embedding(dims.vocab_size, dims.d_model)
        self.out = ResidualLinear(dims.d_model, dims.d_model, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        if ctx.tokens.device.type == "meta":
            return self.out(x + self.table(ctx.tokens))
        ids, places = ctx.tokens.unique(return_inverse=True)
        return self.out(x + self.table(ids)[places])


@unusual("ffn", "autocast", "a moving average in the type of the requested state: bf16 rounds it, and no error adds up")
class MovingAverage(Shifted):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        mean = torch.zeros_like(x[:, 0]) if state is None else state.tensors["last"][:, 0].to(x.dtype)
        means = []
        for token in x.unbind(1):
            mean = mean + 0.1 * (token - mean)
            means.append(mean)
        if state is not None:
            state.tensors["last"] = mean[:, None].to(state.tensors["last"].dtype)
        return self.out(self.hidden(x + torch.stack(means, 1)))
