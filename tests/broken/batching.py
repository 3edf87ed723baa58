"""Broken batchings."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from minigpt.contracts import Batch, Batching, Draw, Source, TokenRows, TokenStream
from tests.broken import broken, correct


@correct("batching")
class Anywhere(Batching):
    """Windows that start anywhere, of which the first targets may not count.

    Args:
        unscored: Share of the targets, at the beginning of a window of text, that do not count.
    """

    def __init__(self, *, unscored: Annotated[float, Field(ge=0, lt=1)] = 0.0):
        self.unscored = unscored

    def batch(self, source: Source, draw: Draw) -> Batch:
        data = source.data
        if isinstance(data, TokenRows):
            return data.at(self.numbers(draw, len(data.tokens)))
        drawn = self.window(data, draw)
        counts = torch.arange(draw.block_size) >= int(self.unscored * draw.block_size)
        return replace(drawn, mask=counts.expand_as(drawn.tokens).clone())

    def window(self, data: TokenStream, draw: Draw) -> Batch:
        """Return windows of a text."""
        return data.at(self.numbers(draw, len(data.ids) - draw.block_size), draw.block_size)

    def numbers(self, draw: Draw, below: int) -> np.ndarray:
        """Return where the sequences are."""
        return self.rng(draw).integers(0, below, draw.batch_size)

    def rng(self, draw: Draw) -> np.random.Generator:
        """Return a generator of random numbers."""
        return draw.rng()


@broken("batching", "function", "one generator is made in the constructor, so a resumed run sees other tokens")
class KeepsAGenerator(Anywhere):
    def __init__(self) -> None:
        super().__init__()
        self.kept = np.random.default_rng(0)

    def rng(self, draw: Draw) -> np.random.Generator:
        return self.kept


@broken("batching", "function", "the class counts its draws and ignores the update's number")
class CountsDraws(Anywhere):
    drawn: ClassVar[int] = 0

    def rng(self, draw: Draw) -> np.random.Generator:
        type(self).drawn += 1
        return replace(draw, step=self.drawn).rng()


@broken("batching", "function", "windows are drawn with torch's global generator")
class DrawsWithTorch(Anywhere):
    def numbers(self, draw: Draw, below: int) -> np.ndarray:
        return torch.randint(below, (draw.batch_size,)).numpy()


@broken("batching", "function", "Python's global generator is used, which dropout does not seed")
class DrawsWithPython(Anywhere):
    def numbers(self, draw: Draw, below: int) -> np.ndarray:
        return np.array([random.randrange(below) for _ in range(draw.batch_size)])


@broken("batching", "function", "a step of an epoch shuffles the data in place")
class ShufflesInPlace(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        for part in vars(source.data).values():
            part.copy_(part.flip(0))
        return super().batch(source, draw)


@broken("batching", "batches", "targets are int32, as the data are stored")
class NarrowTargets(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        drawn = super().batch(source, draw)
        return replace(drawn, targets=drawn.targets.int())


@broken("batching", "batches", "a target that does not count is -100, as torch's loss has it")
class IgnoresLikeTorch(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        drawn = super().batch(source, draw)
        ignored = torch.zeros_like(drawn.tokens, dtype=torch.bool)
        ignored[:, 0] = True
        return replace(drawn, targets=drawn.targets.masked_fill(ignored, -100), mask=~ignored)


@broken("batching", "batches", "the mask says what is left out instead of what counts")
class InvertedMask(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        drawn = super().batch(source, draw)
        return drawn if drawn.mask is None else replace(drawn, mask=~drawn.mask)


@broken("batching", "batches", "windows are one token too long, because the target was counted")
class OneTokenTooLong(Anywhere):
    def window(self, data: TokenStream, draw: Draw) -> Batch:
        return super().window(data, replace(draw, block_size=min(draw.block_size + 1, len(data.ids) - 1)))

    def batch(self, source: Source, draw: Draw) -> Batch:
        if isinstance(source.data, TokenRows):
            return super().batch(source, draw)
        return self.window(source.data, draw)


@broken("batching", "batches", "fewer windows, and as many tokens as it says, but not in such sequences")
class OtherSequences(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        drawn = super().batch(source, draw)
        if draw.block_size % 2:
            return drawn
        parts = {
            name: None if part is None else part.reshape(-1, draw.block_size // 2) for name, part in vars(drawn).items()
        }
        return Batch(**parts)


@broken("batching", "batches", "memory grows, but shape does not say so")
class MemoryGrowsInSecret(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        if isinstance(source.data, TokenRows):
            return super().batch(source, draw)
        earlier = min(draw.step, 3)
        places = self.numbers(draw, len(source.data.ids) - draw.block_size - earlier)
        drawn = source.data.at(places + earlier, draw.block_size)
        return replace(drawn, memory=source.data.at(places, earlier).tokens) if earlier else drawn


@broken("batching", "batches", "short windows first, but shape still says that they are long")
class GrowsInSecret(Anywhere):
    def window(self, data: TokenStream, draw: Draw) -> Batch:
        short = replace(draw, block_size=1 + draw.block_size // 2)
        return super().window(data, short if draw.progress < 0.5 else draw)

    def batch(self, source: Source, draw: Draw) -> Batch:
        if isinstance(source.data, TokenRows):
            return super().batch(source, draw)
        return self.window(source.data, draw)


@broken("batching", "batches", "memory is one row for all sequences")
class SharedMemory(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        drawn = super().batch(source, draw)
        return replace(drawn, memory=drawn.tokens[:1].repeat(1 + len(drawn.tokens), 1))


@broken("batching", "order", "targets are the inputs, so a model learns to copy")
class TargetsAreInputs(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        drawn = super().batch(source, draw)
        return replace(drawn, targets=drawn.tokens)


@broken("batching", "order", "targets are two tokens ahead")
class SkipsAToken(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        drawn = super().batch(source, draw)
        return replace(drawn, targets=drawn.targets.roll(-1, 1))


@broken("batching", "order", "inputs are shuffled in a window, and targets are not")
class ShuffledInputs(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        drawn = super().batch(source, draw)
        return replace(drawn, tokens=drawn.tokens[:, self.rng(draw).permutation(drawn.tokens.shape[1])])


@broken("batching", "order", "the mask of a task is forgotten, so its random inputs are predicted too")
class ForgetsTheMask(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        return replace(super().batch(source, draw), mask=None)


@broken("batching", "order", "two halves of different windows are joined, without segments")
class JoinsWindows(Anywhere):
    def window(self, data: TokenStream, draw: Draw) -> Batch:
        drawn, half = super().window(data, draw), draw.block_size // 2
        parts: dict[str, Any] = {name: getattr(drawn, name).clone() for name in ("tokens", "targets")}
        for part in parts.values():
            part[:, half:] = part[:, half:].roll(1, 0)
        return Batch(**parts)


@broken("batching", "order", "memory is what follows the window: the targets are in it")
class MemoryOfTheFuture(Anywhere):
    def batch(self, source: Source, draw: Draw) -> Batch:
        drawn = super().batch(source, draw)
        return replace(drawn, memory=drawn.targets)


@broken("batching", "draws", "each update sees the same windows")
class ForgetsTheStep(Anywhere):
    def rng(self, draw: Draw) -> np.random.Generator:
        return np.random.default_rng(draw.seed)


@broken("batching", "draws", "two seeds see the same windows, so their runs are not independent")
class ForgetsTheSeed(Anywhere):
    def rng(self, draw: Draw) -> np.random.Generator:
        return np.random.default_rng(draw.step)


@broken("batching", "knobs", "a share is accepted, and every target counts")
class IgnoresTheShare(Anywhere):
    def __init__(self, *, unscored: Annotated[float, Field(ge=0, lt=1)] = 0.0):
        super().__init__()


@correct("batching")
class RestartsInTheMiddle(Anywhere):
    """Two segments in each window of text, with their own positions."""

    def window(self, data: TokenStream, draw: Draw) -> Batch:
        drawn = super().window(data, draw)
        half = draw.block_size // 2
        positions = torch.cat((torch.arange(half), self.second(draw.block_size - half))).expand_as(drawn.tokens).clone()
        segments = (torch.arange(draw.block_size) >= half).long().expand_as(drawn.tokens).clone()
        return replace(drawn, segments=segments, positions=positions)

    def second(self, length: int) -> torch.Tensor:
        """Return the positions of the second segment."""
        return torch.arange(length)


@broken("batching", "batches", "positions of the second segment begin at block_size, beyond any table")
class BeginsAtBlockSize(RestartsInTheMiddle):
    def second(self, length: int) -> torch.Tensor:
        return super().second(length) + 2 * length


@broken("batching", "batches", "positions go in steps of two, but relative ones in steps of one")
class PositionsInStepsOfTwo(RestartsInTheMiddle):
    def second(self, length: int) -> torch.Tensor:
        return super().second(length) // 2


@broken("batching", "batches", "with memory, segments are those of the tokens alone")
class SegmentsWithoutThoseOfMemory(Anywhere):
    def window(self, data: TokenStream, draw: Draw) -> Batch:
        drawn = super().window(data, draw)
        return replace(drawn, segments=torch.zeros_like(drawn.tokens), memory=drawn.tokens[:, :1])
