"""Positions that ignore the place, repeat past block_size, or depend on the longest sequence so far."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minigpt.contracts import Dims
from tests.broken import broken
from tests.broken.position import Rotating, Slopes, Table, Wave


@broken("position", "distinct", "every place gets the first row of the table")
class OneRowForAll(Table):
    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table(positions.clamp(max=0))


@broken("position", "distinct", "angles are integer quotients, which are zero")
class AnglesOfZero(Rotating):
    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        return super().angles(like, positions // 1_000_000)


@broken("position", "distinct", "every distance has the same slope's bias")
class SameBiasForAll(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return torch.ones_like(distance)


class _Sized(Rotating):
    """A rotation that knows block_size."""

    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.block_size = dims.block_size


@broken("position", "distinct", "angles repeat past block_size")
class AnglesRepeat(_Sized):
    relative = False

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        return super().angles(like, positions % self.block_size)


@broken("position", "distinct", "past block_size all places have the last angle")
class AnglesEnd(_Sized):
    relative = False

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        return super().angles(like, positions.clamp(max=self.block_size - 1))


@broken("position", "distinct", "angles repeat past twice the block_size")
class AnglesRepeatLater(_Sized):
    relative = False

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        return super().angles(like, positions % (2 * self.block_size))


@broken("position", "distinct", "positions are counted in eight bits")
class PlacesInEightBits(Rotating):
    relative = False

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        return super().angles(like, positions.to(torch.uint8).to(positions.dtype))


@broken("position", "distinct", "angles are read from a table of 2,048 rows, modulo its length")
class AnglesOf2048Rows(Rotating):
    relative = False

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        return super().angles(like, positions % 2048)


@broken("position", "distinct", "rows of the table repeat past block_size")
class RowsRepeat(Table):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.max_positions = None

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().embed(x, positions % self.table.num_embeddings)


@broken("position", "beyond", "a longer sequence than before stretches the angles of all later ones")
class StretchesForGood(_Sized):
    longest = 0

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        self.longest = max(self.longest, int(positions[-1]) + 1)
        return super().angles(like, positions) / max(1, self.longest / self.block_size)


@broken("position", "determinism", "a table is computed for the longest sequence so far, scaled by its length")
class TableOfTheLongest(Wave):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.register_buffer("kept", torch.zeros(0), persistent=False)
        self.amplitude = nn.Parameter(torch.ones(()))

    def phase(self, positions: Tensor) -> Tensor:
        if len(positions) > len(self.kept):
            self.kept = torch.arange(len(positions)) / len(positions)
        return self.amplitude * self.kept[positions % len(self.kept)]
