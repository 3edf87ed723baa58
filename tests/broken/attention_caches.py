"""Softmax attention whose decoding differs from the full pass: caches, states, windows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from minigpt.contracts import Cache, Context, Dims, State
from minigpt.kernels import new_cache, remember, visible
from tests.broken import broken
from tests.broken.attention import Plain, Windowed


@broken("attention", "decoding", "the mask is aligned to the corner (is_causal), as if each chunk began the sequence")
class CornerMaskWithCache(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return torch.ones(len(q_positions), len(k_positions), dtype=torch.bool, device=q_positions.device).tril()


@broken("attention", "decoding", "decoding has no mask, so the tokens of a chunk see each other")
class ChunksWithoutMask(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        return torch.ones_like(seen) if len(k_positions) > len(q_positions) else seen


@broken("attention", "decoding", "each chunk is rotated from position 0, without the cache's offset")
class ForgetsRotationOffset(Plain):
    def rotate(self, q: Tensor, k: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        return ctx.position.rotate(q, k, torch.arange(q.shape[2], device=q.device))


@broken("attention", "decoding", "keys are rotated before caching, and again after each read")
class RotatedAfterCaching(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        k, v, places = super().remember(state, k, v, ctx)
        old = len(places) - len(ctx.positions)
        again = ctx.position.rotate(k[:, :, :old], k[:, :, :old], places[:old])[1]
        return torch.cat((again, k[:, :, old:]), 2), v, places


@broken("attention", "decoding", "each chunk overwrites the previous one")
class CacheOverwritten(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is not None:
            state.length = 0
        return super().remember(state, k, v, ctx)


@broken("attention", "decoding", "all sequences use the cached keys of the first one")
class FirstRowOfTheCache(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        new = k.shape[2]
        k, v, places = super().remember(state, k, v, ctx)
        old = k[:1, :, :-new].expand(len(k), -1, -1, -1)
        return torch.cat((old, k[:, :, -new:]), 2), v, places


@broken("attention", "decoding", "a single token is treated as the first one and sees only itself")
class SingleTokenSeesItself(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        return y if x.shape[1] > 1 else self.out(self.heads(x)[2].transpose(1, 2).flatten(2))


@broken("attention", "decoding", "a new token's key is cached after attention, not before it")
class OwnKeyTooLate(Plain):
    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        seen = super().mask(q_positions, k_positions)
        decoding = len(q_positions) == 1 and len(k_positions) > 1
        return seen & (k_positions != q_positions[:, None]) if decoding else seen


@broken("attention", "decoding", "the cache keeps one token less than the window in training")
class CacheOneTokenShort(Windowed):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        assert self.window is not None
        (k, v), places = remember(state, (k, v), ctx.positions, max(1, self.window - 1))
        return k, v, places


@broken("attention", "decoding", "training has a window, but decoding attends to everything in the cache")
class NoWindowInDecoding(Windowed):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        (k, v), places = remember(state, (k, v), ctx.positions)
        return k, v, places

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return visible(q_positions, k_positions, self.window if q_positions is k_positions else None)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return new_cache(batch, 2 * [(self.n_heads, self.head_dim)], capacity, None, device, dtype)


@broken("attention", "decoding", "a mask has block_size rows, but decoding in a window continues beyond them")
class WindowEndsAtBlockSize(Windowed):
    def __init__(self, dims: Dims, **shared: Any):
        super().__init__(dims, **shared)
        places = torch.arange(dims.block_size)
        self.register_buffer("band", visible(places, places, self.window), persistent=False)

    def mask(self, q_positions: Tensor, k_positions: Tensor) -> Tensor:
        return self.band[q_positions][:, k_positions]


@broken("attention", "reach", "the window is one token too long: <= instead of <")
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


@broken("attention", "reach", "the mask has a window, but the cache keeps everything")
class CacheNotTrimmed(Windowed):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        (k, v), places = remember(state, (k, v), ctx.positions)
        return k, v, places

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return new_cache(batch, 2 * [(self.n_heads, self.head_dim)], capacity, None, device, dtype)


@broken("attention", "reach", "a sum over all tokens is added, although `reach` promises a window")
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


@broken("attention", "states", "keys are stored on the module, so a second sequence sees the keys of the first")
class CacheOnTheModule(Plain):
    cache: Cache | None = None

    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is not None:
            assert isinstance(state, Cache)
            self.cache = state = self.cache or Cache(dict(state.tensors), positions=state.positions)
        return super().remember(state, k, v, ctx)


@broken("attention", "states", "keys are stored in a class attribute by their shape, so all sequences share them")
class CacheOnTheClass(Plain):
    caches: dict[tuple[int, ...], Cache] = {}  # noqa: RUF012 - the mistake

    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is not None:
            assert isinstance(state, Cache)
            key = (id(self), len(k), state.tensors["0"].shape[2])
            state = self.caches.setdefault(key, Cache(dict(state.tensors), positions=state.positions))
            state.length = int(ctx.positions[0])
        return super().remember(state, k, v, ctx)


@broken("attention", "states", "the module counts positions itself, across sequences that take turns")
class CountsPositionsItself(Plain):
    seen = 0

    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        if state is None:
            return super().forward(x, ctx)
        self.seen = (0 if ctx.positions[0] == 0 else self.seen) + x.shape[1]
        places = torch.arange(self.seen - x.shape[1], self.seen, device=x.device)
        return super().forward(x, replace(ctx, positions=places), state)


@broken("attention", "states", "the cache has heads before sequences, so selecting sequences selects heads")
class CacheHeadsFirst(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is None:
            return super().remember(None, k, v, ctx)
        assert isinstance(state, Cache)
        transposed = Cache(
            {name: cache.transpose(0, 1) for name, cache in state.tensors.items()},
            positions=state.positions,
            length=state.length,
        )
        k, v, places = super().remember(transposed, k, v, ctx)
        state.length = transposed.length
        return k, v, places

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        room = (self.n_heads, batch, capacity, self.head_dim)
        tensors = {name: torch.zeros(room, device=device, dtype=dtype) for name in "01"}
        return Cache(tensors, positions=torch.zeros(capacity, dtype=torch.long, device=device))


@dataclass
class ListState(State):
    chunks: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)


@broken("attention", "states", "keys are stored in a list outside the state's tensors, so selecting sequences skips them")
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


@broken("attention", "states", "a state with another number of sequences is accepted, and its first row serves all")
class TakesAnyBatch(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        if state is not None and len(state.tensors["0"]) != len(k):
            shape = (len(k), -1, -1, -1)
            state.tensors = {name: cache[:1].expand(shape).clone() for name, cache in state.tensors.items()}
        return super().remember(state, k, v, ctx)


@broken("attention", "states", "a sum is stored with a cache that can be truncated: removed tokens stay in the sum")
class SumKeepsRemovedTokens(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        sums = x.cumsum(1) if state is None else state.tensors["sum"] + x.cumsum(1)
        if state is not None:
            state.tensors["sum"] = sums[:, -1:]
        return super().forward(x, ctx, state) + 0.1 * sums / (ctx.positions[:, None] + 1)

    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().new_state(batch, capacity, device, dtype)
        state.tensors["sum"] = torch.zeros(batch, 1, self.qkv.in_features, device=device, dtype=dtype)
        return state


@broken("attention", "decoding", "the cache is one token shorter than the requested capacity")
class CapacityOneTokenShort(Plain):
    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return super().new_state(batch, max(1, capacity - 1), device, dtype)


@broken("attention", "device", "the cache is created on the CPU instead of the requested device")
class CacheOnTheCpu(Plain):
    def new_state(self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype) -> State:
        return super().new_state(batch, capacity, torch.device("cpu"), dtype)


@broken("attention", "knobs", "a window is accepted, but the mask does not use it")
class WindowNotUsed(Windowed):
    def __init__(self, dims: Dims, **shared: Any):
        super().__init__(dims, **shared)
        self.window = self.reach = None


@broken("attention", "memory", "with a state, keys are computed without gradients")
class KeysWithoutGradients(Plain):
    def remember(self, state: State | None, k: Tensor, v: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        return super().remember(state, k if state is None else k.detach(), v, ctx)


@broken("attention", "memory", "the cache is changed in place after it was read, so there is no gradient at all")
class ChangesWhatItHasRead(Plain):
    def forward(self, x: Tensor, ctx: Context, state: State | None = None) -> Tensor:
        y = super().forward(x, ctx, state)
        if state is not None:
            state.tensors["0"].mul_(1.0)
        return y
