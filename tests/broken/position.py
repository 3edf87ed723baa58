"""Broken positions: embedded, rotated, biased."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from minigpt.contracts import Dims, Position
from tests.broken import broken, correct


@correct("position")
class Table(Position):
    """A trained vector for each of block_size positions, added to the embeddings."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.max_positions = dims.block_size
        self.table = nn.Embedding(dims.block_size, dims.d_model)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table(positions)


@broken("position", "decoding", "rows are selected by the index in the chunk instead of the position")
class TableByIndex(Table):
    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table(torch.arange(x.shape[1], device=x.device))


@broken("position", "beyond", "the table ends at block_size, but max_positions is not set")
class TableWithoutLimit(Table):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.max_positions = None


@broken("position", "beyond", "the table is shorter than max_positions")
class TableTooShort(Table):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.max_positions = 2 * dims.block_size


@broken("position", "beyond", "the remaining share of block_size becomes negative and has no logarithm")
class NanBeyondBlockSize(Table):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.table = nn.Embedding(1, dims.d_model)
        self.max_positions, self.block_size = None, dims.block_size

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        left = 1 - positions / (self.block_size + 1)
        return x + left.log()[:, None] * self.table.weight


@broken("position", "liveness", "the table is read without gradients")
class TableNotTrained(Table):
    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table.weight.detach()[positions]


@correct("position")
class Wave(Position):
    """A sine of the position, added to the embeddings."""

    def __init__(self, dims: Dims):
        super().__init__()

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.phase(positions).sin()[:, None].to(x.dtype)

    def phase(self, positions: Tensor) -> Tensor:
        """Return an angle for each position."""
        return positions / 10


@broken("position", "decoding", "positions are divided by the sequence's length")
class DividedByLength(Wave):
    def phase(self, positions: Tensor) -> Tensor:
        return positions / len(positions)


@correct("position")
class Rotating(Position):
    """Rotates pairs of coordinates by angles that grow with position.

    Args:
        base: Wavelengths run from 2 pi to 2 pi base.
    """

    relative = True
    keeps_norm = True

    def __init__(self, dims: Dims, *, base: Annotated[float, Field(gt=1)] = 100.0):
        super().__init__()
        if dims.head_dim % 2:
            raise ValueError(f"coordinates are rotated in pairs: head_dim {dims.head_dim} must be even")
        self.base = base

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = self.angles(q, positions)
        return self.rotated(q, angles), self.rotated(k, angles)

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        """Return the angles, [T, K/2]."""
        exponents = torch.arange(0, like.shape[-1], 2, device=like.device) / like.shape[-1]
        return positions[:, None] * self.base**-exponents

    def rotated(self, x: Tensor, angles: Tensor) -> Tensor:
        """Rotate each pair by its angle."""
        a, b = x.float().chunk(2, -1)
        pairs = torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)
        return pairs.to(x.dtype)


@broken("position", "rotation", "vectors are rotated by their index in the chunk")
class RotatesByIndex(Rotating):
    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        return super().angles(like, torch.arange(len(positions), device=positions.device))


@broken("position", "rotation", "both halves have the same sign of the sine, so lengths change in spite of keeps_norm")
class StretchesVectors(Rotating):
    def rotated(self, x: Tensor, angles: Tensor) -> Tensor:
        a, b = x.float().chunk(2, -1)
        pairs = torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() - a * angles.sin()), -1)
        return pairs.to(x.dtype)


@broken("position", "rotation", "only queries are rotated, so scores are not relative as promised")
class RotatesQueriesOnly(Rotating):
    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return super().rotate(q, k, positions)[0], k


@broken("position", "rotation", "queries and keys are stacked, which fails with fewer key heads")
class RotatesInOneStack(Rotating):
    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        q, k = self.rotated(torch.stack((q, k)), self.angles(q, positions))
        return q, k


@broken("position", "rotation", "keys are rotated by the mean angle of all positions")
class RotatesByTheMean(Rotating):
    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = self.angles(q, positions)
        return self.rotated(q, angles), self.rotated(k, angles.mean(0, keepdim=True))


@broken("position", "decoding", "angles are cached by length and reused for other positions")
class AnglesKeptByLength(Rotating):
    kept: Tensor | None = None

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        if self.kept is None or len(self.kept) != len(positions):
            self.kept = super().angles(like, positions)
        return self.kept


@broken("position", "device", "wavelengths are created on the CPU for inputs on any device")
class AnglesOnTheCpu(Rotating):
    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        exponents = torch.arange(0, like.shape[-1], 2) / like.shape[-1]
        return positions[:, None] * self.base**-exponents


@broken("position", "knobs", "a base is accepted, but 10,000 is used")
class BaseNotUsed(Rotating):
    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        exponents = torch.arange(0, like.shape[-1], 2, device=like.device) / like.shape[-1]
        return positions[:, None] * 10_000.0**-exponents


@correct("position")
class Slopes(Position):
    """Scores fall with distance, with a trained slope for each head."""

    relative = True

    def __init__(self, dims: Dims):
        super().__init__()
        self.slopes = nn.Parameter(torch.zeros(dims.n_heads))

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        distance = (q_positions[:, None] - k_positions).float()
        return -F.softplus(self.slopes)[:, None, None] * self.lengths(distance, q_positions, k_positions)

    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """Return the distances that the slopes multiply."""
        return distance


@broken("position", "bias", "distances are divided by the number of keys, which changes in each step of decoding")
class DividedByKeys(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return distance / len(k_positions)


@broken("position", "bias", "distances are divided by the last key's position")
class DividedByLastKey(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return distance / (k_positions.max() + 1)


@broken("position", "bias", "distances are differences of indices, not positions, which differ if a window drops keys")
class CountedByIndex(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        rows, columns = (torch.arange(len(places), device=places.device) for places in (q_positions, k_positions))
        return (rows[:, None] - columns).float()


@broken("position", "bias", "keys are assumed at positions 0, 1, 2, which is wrong if a window drops the first keys")
class KeysFromTheStart(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return (q_positions[:, None] - torch.arange(len(k_positions), device=k_positions.device)).float()


@broken("position", "bias", "the logarithm of a distance of 0 is minus infinity: no token sees itself")
class LogOfZero(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return distance.abs().log()


@broken("position", "rotation", "the bias grows with the key's position, although `relative` is promised")
class AbsoluteBias(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return distance * (1 + k_positions / 100)


@broken("position", "bias", "queries and keys are exchanged: [H, S, T] instead of [H, T, S]")
class BiasTransposed(Slopes):
    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return super().bias(q_positions, k_positions).mT


@broken("position", "bias", "the number of slopes is rounded up to a power of two and exceeds the number of heads")
class TooManyHeads(Slopes):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.slopes = nn.Parameter(torch.zeros(1 << (dims.n_heads - 1).bit_length()))


@correct("position")
class TableOfRows(Table):
    """The table, also for positions that differ between rows."""

    per_row = True


@broken("position", "rows", "the positions of the first row are used for all")
class PositionsOfTheFirstRow(TableOfRows):
    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table(positions if positions.ndim == 1 else positions[0])


@broken("position", "rows", "positions that differ between rows are promised, but nothing is added")
class PromisesWithoutEmbed(Table):
    per_row = True
    embed = Position.embed
