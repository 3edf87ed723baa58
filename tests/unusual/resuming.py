"""Parts that keep something between passes or updates, and are restored exactly."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.contracts import (
    Batch,
    Batching,
    Context,
    Dims,
    Draw,
    FeedForward,
    Layer,
    Objective,
    Prediction,
    ResidualLinear,
    Source,
    State,
    TokenRows,
)
from minigpt.kernels.fused import upcast
from tests.unusual import unusual


class Perceptron(FeedForward):
    """W_out f(W_in x)."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.into = nn.Linear(dims.d_model, 2 * dims.d_model, bias=False)
        self.out = ResidualLinear(2 * dims.d_model, dims.d_model, bias=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return self.out(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """Return the hidden units."""
        return F.silu(self.into(x))


@unusual("ffn", "resumable", "a gate opens with the updates, which are counted in a buffer that is saved")
class OpensSlowly(Perceptron):
    updates: Tensor

    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) * (0.1 + self.updates / 64).clamp(max=1).to(x.dtype)

    def after_step(self) -> None:
        self.updates += 1


@unusual("ffn", "resumable", "a count for the next update is not saved, but it is used and reset before any checkpoint")
class CountsUntilTheUpdate(Perceptron):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.active = 0
        self.register_buffer("bias", torch.zeros(2 * dims.d_model))

    def hidden(self, x: Tensor) -> Tensor:
        hidden = super().hidden(x + 0)
        if self.training:
            self.active = self.active + (hidden.detach() > 0).sum((0, 1))
        return hidden + self.bias.to(x.dtype)

    def after_step(self) -> None:
        if isinstance(self.active, Tensor):
            active = self.active.float()
            self.bias += 1e-3 * (active.mean() - active).sign()
        self.active = 0


@unusual("ffn", "resumable", "the product of both maps is kept in eval mode, and forgotten whenever the mode is set")
class ProductInEval(Perceptron):
    product: Tensor | None = None

    def train(self, mode: bool = True) -> Self:
        self.product = None
        return super().train(mode)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return F.linear(x, self.out.weight @ self.into.weight)
        if self.product is None or self.product.dtype != x.dtype:
            self.product = self.out.weight @ self.into.weight
        return F.linear(x, self.product)


@unusual(
    "ffn", "resumable", "a number for Python is kept beside the buffer that it comes from, and is read from it when loaded"
)
class NumberFromABuffer(Perceptron):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("updates", torch.zeros(()))
        self.number = 0.0
        self.register_load_state_dict_post_hook(lambda module, _: module.read())

    def read(self) -> None:
        """Take the number from the buffer."""
        if self.updates.device.type != "meta":
            self.number = float(self.updates)

    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) / (1 + self.number)

    def after_step(self) -> None:
        self.updates += 1
        self.read()


@unusual("ffn", "resumable", "what the update before changed is kept in its extra state, a tensor")
class ExtraState(Perceptron):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.sizes = torch.zeros(3)

    def get_extra_state(self) -> Tensor:
        return self.sizes

    def set_extra_state(self, state: Tensor) -> None:
        self.sizes = state.clone()

    def after_step(self) -> None:
        if self.into.weight.device.type == "cpu":
            self.sizes = torch.cat((self.sizes[1:], self.into.weight.abs().mean().float()[None].cpu()))
            self.into.weight.mul_(1 - 1e-4 * self.sizes[0].to(self.into.weight.dtype))


@unusual("objective", "resumable", "the further term fades with the updates, which are counted in a buffer that is saved")
class FadingTerm(Objective):
    updates: Tensor

    def __init__(self, dims: Dims, layer: Layer):
        super().__init__()
        self.again = nn.Linear(dims.d_model, dims.vocab_size, bias=False)
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, prediction: Prediction) -> Tensor:
        losses: list[Any] = []
        for logits, ids in ((prediction.logits, prediction.targets), (self.again(prediction.hidden), prediction.tokens)):
            losses.append(prediction.mean(F.cross_entropy(upcast(logits).mT, ids, reduction="none")))
        prediction.ctx.losses.append(losses[1] * 0.1 / (1 + self.updates / 20))
        return losses[0]

    def after_step(self) -> None:
        self.updates += 1


@unusual("batching", "function", "the order of an epoch is kept between draws, but it follows from the seed and the epoch")
class KeepsAnOrder(Batching):
    kept: tuple[tuple[int, int, int], np.ndarray] | None = None

    def batch(self, source: Source, draw: Draw) -> Batch:
        rows = source.data.tokens if isinstance(source.data, TokenRows) else source.data.ids
        n_places = len(rows) if isinstance(source.data, TokenRows) else len(rows) - draw.block_size
        epoch, place = divmod(draw.step * draw.batch_size, n_places)
        key = (draw.seed, epoch, n_places)
        if self.kept is None or self.kept[0] != key:
            self.kept = key, np.random.default_rng(list(key)).permutation(n_places)
        places = np.resize(np.roll(self.kept[1], -place), draw.batch_size)
        return source.data.at(places) if isinstance(source.data, TokenRows) else source.data.at(places, draw.block_size)
