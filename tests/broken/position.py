"""Positions: embedded, rotated, biased."""

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


@broken("position", "decoding", "rows are taken by the index in the chunk, not by position")
class TableByIndex(Table):
    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table(torch.arange(x.shape[1], device=x.device))


@broken("position", "beyond", "the table ends at block_size, and nothing says so")
class TableEndsUnsaid(Table):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.max_positions = None


@broken("position", "beyond", "a limit is promised that the table does not reach")
class TableTooShort(Table):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.max_positions = 2 * dims.block_size


@broken("position", "beyond", "the share of block_size that is left turns negative, and so has no logarithm")
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
        """An angle for each."""
        return positions / 10


@broken("position", "decoding", "positions are divided by the sequence's length")
class DividedByLength(Wave):
    def phase(self, positions: Tensor) -> Tensor:
        return positions / len(positions)


@correct("position")
class Turning(Position):
    """Pairs of coordinates are turned by angles that grow with position.

    Args:
        base: Wavelengths run from 2 pi to 2 pi base.
    """

    relative = True
    keeps_norm = True

    def __init__(self, dims: Dims, *, base: Annotated[float, Field(gt=1)] = 100.0):
        super().__init__()
        if dims.head_dim % 2:
            raise ValueError(f"coordinates are turned in pairs: head_dim {dims.head_dim} must be even")
        self.base = base

    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = self.angles(q, positions)
        return self.turn(q, angles), self.turn(k, angles)

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        """[T, K/2]."""
        exponents = torch.arange(0, like.shape[-1], 2, device=like.device) / like.shape[-1]
        return positions[:, None] * self.base**-exponents

    def turn(self, x: Tensor, angles: Tensor) -> Tensor:
        """Each pair by its angle."""
        a, b = x.float().chunk(2, -1)
        turned = torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), -1)
        return turned.to(x.dtype)


@broken("position", "rotation", "vectors are turned by their index in the chunk")
class TurnsByIndex(Turning):
    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        return super().angles(like, torch.arange(len(positions), device=positions.device))


@broken("position", "rotation", "both halves get the sign of the first: lengths change, which are promised not to")
class StretchesVectors(Turning):
    def turn(self, x: Tensor, angles: Tensor) -> Tensor:
        a, b = x.float().chunk(2, -1)
        turned = torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() - a * angles.sin()), -1)
        return turned.to(x.dtype)


@broken("position", "rotation", "queries are turned and keys are not: what is promised to be relative is absolute")
class TurnsQueriesOnly(Turning):
    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return super().rotate(q, k, positions)[0], k


@broken("position", "rotation", "queries and keys are turned in one stack, which fewer heads of keys do not fit into")
class TurnsInOneStack(Turning):
    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        q, k = self.turn(torch.stack((q, k)), self.angles(q, positions))
        return q, k


@broken("position", "rotation", "keys are turned by the mean of the vectors' angles, for want of a broadcast")
class TurnsByTheMean(Turning):
    def rotate(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = self.angles(q, positions)
        return self.turn(q, angles), self.turn(k, angles.mean(0, keepdim=True))


@broken("position", "decoding", "angles are kept as long as the length stays the same, wherever the tokens stand")
class AnglesKeptByLength(Turning):
    kept: Tensor | None = None

    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        if self.kept is None or len(self.kept) != len(positions):
            self.kept = super().angles(like, positions)
        return self.kept


@broken("position", "device", "wavelengths are made on the CPU whatever the input's device")
class AnglesOnTheCpu(Turning):
    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        exponents = torch.arange(0, like.shape[-1], 2) / like.shape[-1]
        return positions[:, None] * self.base**-exponents


@broken("position", "knobs", "a base is accepted, and the usual one is used")
class BaseNotUsed(Turning):
    def angles(self, like: Tensor, positions: Tensor) -> Tensor:
        exponents = torch.arange(0, like.shape[-1], 2, device=like.device) / like.shape[-1]
        return positions[:, None] * 10_000.0**-exponents


@correct("position")
class Slopes(Position):
    """Scores fall with distance, each head's at a trained slope."""

    relative = True

    def __init__(self, dims: Dims):
        super().__init__()
        self.slopes = nn.Parameter(torch.zeros(dims.n_heads))

    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        distance = (q_positions[:, None] - k_positions).float()
        return -F.softplus(self.slopes)[:, None, None] * self.lengths(distance, q_positions, k_positions)

    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        """What the slopes are multiplied by."""
        return distance


@broken("position", "bias", "distances are divided by the number of keys, which is another in each step of decoding")
class DividedByKeys(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return distance / len(k_positions)


@broken("position", "bias", "distances are divided by the last key's position")
class DividedByLastKey(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return distance / (k_positions.max() + 1)


@broken("position", "bias", "distances are counted by index, from the end, which is right while no key was dropped")
class CountedByIndex(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        rows, columns = (torch.arange(len(places), device=places.device) for places in (q_positions, k_positions))
        return (rows[:, None] - columns).float()


@broken("position", "bias", "keys are taken to stand at 0, 1, 2: wrong as soon as a window has dropped the first")
class KeysFromTheStart(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return (q_positions[:, None] - torch.arange(len(k_positions), device=k_positions.device)).float()


@broken("position", "bias", "the logarithm of a distance of 0 is minus infinity: no token sees itself")
class LogOfZero(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return distance.abs().log()


@broken("position", "rotation", "what is promised to be relative grows with the key's own position")
class AbsoluteBias(Slopes):
    def lengths(self, distance: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return distance * (1 + k_positions / 100)


@broken("position", "bias", "queries and keys are the wrong way round: [H, S, T] for [H, T, S]")
class BiasTransposed(Slopes):
    def bias(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return super().bias(q_positions, k_positions).mT


@broken("position", "bias", "slopes are made for the next power of two of heads, and all of them given out")
class TooManyHeads(Slopes):
    def __init__(self, dims: Dims):
        super().__init__(dims)
        self.slopes = nn.Parameter(torch.zeros(1 << (dims.n_heads - 1).bit_length()))
