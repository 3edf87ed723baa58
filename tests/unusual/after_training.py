"""Parts that change while they are trained, and positions of unusual kinds; all of them are right."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Position, State
from tests.broken.attention import Plain
from tests.broken.ffn import Perceptron
from tests.broken.norm import RootMeanSquare
from tests.broken.position import Rotating, Slopes, Table
from tests.unusual import unusual


@unusual("attention", "causality", "its output fades in over 100 updates, by a count in a buffer")
class FadesIn(Plain):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        return super().forward(x, ctx, state) * (0.5 + self.updates / 200).clamp(max=1).to(x.dtype)

    def after_step(self) -> None:
        self.updates += 1


@unusual("attention", "decoding", "its window grows with the progress of the training, and it always sees the past only")
class GrowingWindow(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        self.seen = 4 + 100 * torch.as_tensor(ctx.progress, device=x.device)
        return super().forward(x, ctx, state)

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return super().mask(q_positions, k_positions) & (q_positions[:, None] - k_positions < self.seen)


@unusual("ffn", "causality", "tokens that were frequent in training count less: counts by id change in after_step only")
class RareTokensCount(Perceptron):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("counts", torch.zeros(dims.vocab_size))
        self.register_buffer("new", torch.zeros(dims.vocab_size), persistent=False)

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        if self.training:
            self.new += ctx.tokens.flatten().bincount(minlength=len(self.new))
        return super().forward(x, ctx, state) * (1 + self.counts[ctx.tokens])[..., None].rsqrt().to(x.dtype)

    def after_step(self) -> None:
        self.counts += self.new
        self.new.zero_()


@unusual("norm", "batch", "its gain is brought back to a mean of 1 after each update")
class GainOfMeanOne(RootMeanSquare):
    def after_step(self) -> None:
        self.gain += 1 - self.gain.mean()


@unusual("position", "distinct", "two neighbours share an angle, on purpose")
class PairsOfTokens(Rotating):
    relative = False

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        return super().angles(like, positions // 2)


@unusual("position", "distinct", "far distances have one bias, that of a distance of 50")
class FarIsFar(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return distance.clamp(max=50)


@unusual("position", "distinct", "places past the table share its last row, so texts of any length can be read")
class LastRowForTheRest(Table):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.max_positions = None

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().embed(x, positions.clamp(max=self.table.num_embeddings - 1))


@unusual("position", "distinct", "angles repeat at the end of the table, and it says how many places there are")
class AnglesOfATable(Rotating):
    relative = False

    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.max_positions = 2 * dims.block_size

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        return super().angles(like, positions % self.max_positions)


@unusual("position", "distinct", "its strength may be zero, and then it changes nothing")
class OfAnyStrength(Rotating):
    """A rotation by a share of the angles.

    Args:
        strength: The share.
    """

    def __init__(self, dims: Dims, *, strength: Annotated[float, Field(ge=0, le=2, examples=[0.0])] = 1.0):
        super().__init__(dims)
        self.strength = strength

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        return self.strength * super().angles(like, positions)


@unusual("position", "beyond", "its vectors are large, so that fp32 rounds scores coarsely; float64 shows that it is right")
class Loud(Position):
    def __init__(self, dims: Dims):
        super().__init__()
        self.directions = nn.Parameter(torch.zeros(2, dims.d_model))

    def init_weights(self) -> None:
        nn.init.normal_(self.directions)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        angles = positions.to(self.directions.dtype) / 7
        waves = torch.stack((angles.sin(), angles.cos()), -1)
        return x + (60 * waves @ self.directions).to(x.dtype)
