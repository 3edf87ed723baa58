"""Softmax attention whose decoding is not its full pass: caches, states, windows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from minigpt.contracts import Cache, Context, Dims, State
from minigpt.kernels import new_cache, remember, visible
from tests.broken import broken
from tests.broken.attention import Plain, Windowed


@broken("attention", "decoding", "the mask is the corner of a triangle (is_causal), as if a chunk began the sequence")
class CornerMaskWithCache(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return torch.ones(len(q_positions), len(k_positions), dtype=torch.bool, device=q_positions.device).tril()


@broken("attention", "decoding", "in decoding everything is past, and so there is no mask: a chunk sees itself whole")
class ChunksWithoutMask(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return torch.ones_like(seen) if len(k_positions) > len(q_positions) else seen


@broken("attention", "decoding", "each chunk is rotated from 0 on: the cache's offset is forgotten")
class ForgetsRotationOffset(Plain):
    def rotate(self, q: Tensor, k: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        return ctx.position.rotate(q, k, torch.arange(q.shape[2], device=q.device))


@broken("attention", "decoding", "keys are rotated when they are cached, and again whenever they are read")
class RotatedAfterCaching(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        k, v, places = super().remember(state, k, v, ctx)
        old = len(places) - len(ctx.positions)
        again = ctx.position.rotate(k[:, :, :old], k[:, :, :old], places[:old])[1]
        return torch.cat((again, k[:, :, old:]), 2), v, places


@broken("attention", "decoding", "each chunk is written over the one before")
class CacheOverwritten(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is not None:
            state.length = 0
        return super().remember(state, k, v, ctx)


@broken("attention", "decoding", "what was expanded from the prompt's one sequence keeps that one's keys for all")
class FirstRowOfTheCache(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        new = k.shape[2]
        k, v, places = super().remember(state, k, v, ctx)
        old = k[:1, :, :-new].expand(len(k), -1, -1, -1)
        return torch.cat((old, k[:, :, -new:]), 2), v, places


@broken("attention", "decoding", "a single token is taken for the first: it sees itself alone")
class SingleTokenSeesItself(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        return y if x.shape[1] > 1 else self.out(self.heads(x)[2].transpose(1, 2).flatten(2))


@broken("attention", "decoding", "a new token's own key joins the cache after it has attended, not before")
class OwnKeyTooLate(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        decoding = len(q_positions) == 1 and len(k_positions) > 1
        return seen & (k_positions != q_positions[:, None]) if decoding else seen


@broken("attention", "decoding", "the cache keeps one token less than training sees")
class CacheOneTokenShort(Windowed):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        assert self.window is not None
        (k, v), places = remember(state, (k, v), ctx.positions, max(1, self.window - 1))
        return k, v, places


@broken("attention", "decoding", "training has a window, and decoding attends to all that the cache still holds")
class NoWindowInDecoding(Windowed):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        (k, v), places = remember(state, (k, v), ctx.positions)
        return k, v, places

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return visible(q_positions, k_positions, self.window if q_positions is k_positions else None)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return new_cache(batch, 2 * [(self.n_heads, self.head_dim)], capacity, None, device, dtype)


@broken("attention", "decoding", "a mask of block_size ends there, where decoding in a window goes on without end")
class WindowEndsAtBlockSize(Windowed):
    def __init__(self, dims: Dims, **shared: Any):
        super().__init__(dims, **shared)
        places = torch.arange(dims.block_size)
        self.register_buffer("band", visible(places, places, self.window), persistent=False)

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return self.band[q_positions][:, k_positions]


@broken("attention", "reach", "the window is one too long: a comparison with <= for <")
class WindowOneTooLong(Windowed):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        assert self.window is not None
        (k, v), places = remember(state, (k, v), ctx.positions, self.window + 1)
        return k, v, places

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        assert self.window is not None
        return visible(q_positions, k_positions, self.window + 1)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        assert self.window is not None
        return new_cache(batch, 2 * [(self.n_heads, self.head_dim)], capacity, self.window + 1, device, dtype)


@broken("attention", "reach", "the mask has a window, and the cache keeps everything for ever")
class CacheNotTrimmed(Windowed):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        (k, v), places = remember(state, (k, v), ctx.positions)
        return k, v, places

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return new_cache(batch, 2 * [(self.n_heads, self.head_dim)], capacity, None, device, dtype)


@broken("attention", "reach", "a summary of all tokens is added beside a window that is promised to be all there is")
class SummaryBesideTheWindow(Windowed):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        if state is None:
            return y + 0.1 * x.cumsum(1) / (ctx.positions[:, None] + 1)
        sums = state.tensors["sum"] + x.cumsum(1)
        state.tensors["sum"] = sums[:, -1:]
        return y + 0.1 * sums / (ctx.positions[:, None] + 1)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().new_state(batch, capacity, device, dtype)
        state.tensors["sum"] = torch.zeros(batch, 1, self.qkv.in_features, device=device, dtype=dtype)
        return state


@broken("attention", "states", "keys are kept on the module: a second sequence finds those of the first")
class CacheOnTheModule(Plain):
    cache: Cache | None = None

    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is not None:
            assert isinstance(state, Cache)
            self.cache = state = self.cache or Cache(dict(state.tensors), positions=state.positions)
        return super().remember(state, k, v, ctx)


@broken(
    "attention", "states", "keys are kept in an attribute of the class, by the shape they have: all sequences meet there"
)
class CacheOnTheClass(Plain):
    caches: dict[tuple[int, ...], Cache] = {}  # noqa: RUF012 - the mistake

    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is not None:
            assert isinstance(state, Cache)
            key = (id(self), len(k), state.tensors["0"].shape[2])
            state = self.caches.setdefault(key, Cache(dict(state.tensors), positions=state.positions))
            state.length = int(ctx.positions[0])
        return super().remember(state, k, v, ctx)


@broken("attention", "states", "the module counts positions itself, and two sequences in turn count together")
class CountsPositionsItself(Plain):
    seen = 0

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        if state is None:
            return super().forward(x, ctx)
        self.seen = (0 if ctx.positions[0] == 0 else self.seen) + x.shape[1]
        places = torch.arange(self.seen - x.shape[1], self.seen, device=x.device)
        return super().forward(x, replace(ctx, positions=places), state)


@broken("attention", "states", "the cache has heads first and sequences second: rows that are selected are heads")
class CacheHeadsFirst(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is None:
            return super().remember(None, k, v, ctx)
        assert isinstance(state, Cache)
        turned = Cache(
            {name: cache.transpose(0, 1) for name, cache in state.tensors.items()},
            positions=state.positions,
            length=state.length,
        )
        k, v, places = super().remember(turned, k, v, ctx)
        state.length = turned.length
        return k, v, places

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        room = (self.n_heads, batch, capacity, self.head_dim)
        tensors = {name: torch.zeros(room, device=device, dtype=dtype) for name in "01"}
        return Cache(tensors, positions=torch.zeros(capacity, dtype=torch.long, device=device))


@dataclass
class ListState(State):
    chunks: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)


@broken("attention", "states", "keys are kept in a list beside the state's tensors, which no selection of rows reaches")
class CacheInAList(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is None:
            return k, v, ctx.positions
        assert isinstance(state, ListState)
        state.chunks.append((k, v, ctx.positions))
        keys, values, places = zip(*state.chunks, strict=True)
        return torch.cat(keys, 2), torch.cat(values, 2), torch.cat(places)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return ListState()


@broken("attention", "states", "a state of another number of sequences is not refused: its first row is used for all")
class TakesAnyBatch(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is not None and len(state.tensors["0"]) != len(k):
            shape = (len(k), -1, -1, -1)
            state.tensors = {name: cache[:1].expand(shape).clone() for name, cache in state.tensors.items()}
        return super().remember(state, k, v, ctx)


@broken("attention", "states", "a sum is kept beside a cache that forgets: tokens that are taken back stay in the sum")
class SumThatDoesNotForget(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        sums = x.cumsum(1) if state is None else state.tensors["sum"] + x.cumsum(1)
        if state is not None:
            state.tensors["sum"] = sums[:, -1:]
        return super().forward(x, ctx, state) + 0.1 * sums / (ctx.positions[:, None] + 1)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().new_state(batch, capacity, device, dtype)
        state.tensors["sum"] = torch.zeros(batch, 1, self.qkv.in_features, device=device, dtype=dtype)
        return state


@broken("attention", "decoding", "the cache is one token shorter than the capacity that was asked for")
class CapacityOneTokenShort(Plain):
    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return super().new_state(batch, max(1, capacity - 1), device, dtype)


@broken("attention", "device", "the cache is made on the CPU whatever device was asked for")
class CacheOnTheCpu(Plain):
    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return super().new_state(batch, capacity, torch.device("cpu"), dtype)


@broken("attention", "knobs", "a window is accepted and kept, and the mask never asks for it")
class WindowNotUsed(Windowed):
    def __init__(self, dims: Dims, **shared: Any):
        super().__init__(dims, **shared)
        self.window = self.reach = None
