"""Attention from scores to output, and what decoding remembers of it.

The only module that knows kernels, masks and caches. The mask follows from positions alone: a query sees the keys at or
before its own position, and within the window if there is one. So a cache, a ring buffer, a chunked prefill and training
are one computation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minigpt.contracts import State


def visible(
    q_positions: Int[Tensor, " time"], k_positions: Int[Tensor, " source"], window: int | None = None
) -> Bool[Tensor, "time source"]:
    """Which keys each query sees: itself and what came before, at most `window` positions in all."""
    distance = q_positions[:, None] - k_positions[None, :]
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


def attend(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch kv_heads source head_dim"],
    v: Float[Tensor, "batch kv_heads source v_dim"],
    q_positions: Int[Tensor, " time"],
    k_positions: Int[Tensor, " source"],
    *,
    window: int | None = None,
    bias: Float[Tensor, "bias_heads time source"] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads time v_dim"]:
    """Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762), causal by position.

    Args:
        q: Queries, rotated already.
        k: Keys, likewise; query head h reads key head h // (heads / kv_heads).
        v: Values.
        q_positions: Where the queries stand, ascending by one.
        k_positions: Where the keys stand, ascending by one; the very same tensor where nothing is remembered.
        window: A query sees itself and window - 1 positions before; None for all.
        bias: Added to the scores after scaling.
        scale: Factor on the scores; None for 1/sqrt(head_dim).
        dropout: Rate at which attention weights are dropped (0 outside training).
    """
    grouped = q.shape[1] != k.shape[1]
    time, source = q.shape[2], k.shape[2]
    whole = window is None or window >= source
    if bias is None and whole and (k_positions is q_positions or time == 1):
        # Nothing remembered: plain causal. One query: it stands last, so it sees every key, and needs no mask.
        return F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=time > 1, scale=scale, enable_gqa=grouped
        )
    mask = visible(q_positions, k_positions, window)
    if bias is not None:
        mask = torch.where(mask, bias.to(q.dtype), -torch.inf)[None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale, enable_gqa=grouped)


def new_cache(
    batch: int,
    kv_heads: int,
    head_dims: tuple[int, int],
    capacity: int,
    window: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> State:
    """An empty cache of keys and values for `remember`.

    Args:
        batch: Sequences.
        kv_heads: Key heads.
        head_dims: Widths of a key and of a value.
        capacity: Most tokens that will be decoded.
        window: As for `attend`; a window needs twice its size at most, so that old keys are moved out rarely.
        device: Where the buffers live.
        dtype: Of keys and values.
    """
    room = capacity if window is None else min(capacity, 2 * window)
    return State(
        tensors={
            "k": torch.zeros(batch, kv_heads, room, head_dims[0], device=device, dtype=dtype),
            "v": torch.zeros(batch, kv_heads, room, head_dims[1], device=device, dtype=dtype),
        },
        positions=torch.zeros(room, dtype=torch.long, device=device),
    )


def remember(
    state: State | None,
    k: Float[Tensor, "batch kv_heads time head_dim"],
    v: Float[Tensor, "batch kv_heads time v_dim"],
    positions: Int[Tensor, " time"],
    window: int | None = None,
) -> tuple[
    Float[Tensor, "batch kv_heads source head_dim"], Float[Tensor, "batch kv_heads source v_dim"], Int[Tensor, " source"]
]:
    """Append new keys and values to a cache, drop what no query can see any more, return all that is left.

    Without a state, or with an empty one, the new keys come back as they are, `positions` being the same tensor: `attend`
    takes that as the sign that nothing is remembered.

    Raises:
        ValueError: More tokens than the cache was made for, and no window to drop any.
    """
    if state is None:
        return k, v, positions
    assert state.positions is not None, "a cache made by new_cache has positions"
    buffers = (state.tensors["k"], state.tensors["v"])
    room, new, before = len(state.positions), len(positions), state.length
    useful = before if window is None else min(before, window - 1)  # what the oldest new query still sees
    if before + new <= room:
        _write(buffers, state.positions, before, k, v, positions)
        state.length = before + new
        if before == 0:
            return k, v, positions
        seen = slice(before - useful, state.length)
        return buffers[0][:, :, seen].to(k.dtype), buffers[1][:, :, seen].to(v.dtype), state.positions[seen]
    if window is None:
        raise ValueError(f"the state has room for {room} tokens, {before} are there and {new} more came")
    kept = slice(before - useful, before)
    if useful:
        k = torch.cat((buffers[0][:, :, kept].to(k.dtype), k), 2)
        v = torch.cat((buffers[1][:, :, kept].to(v.dtype), v), 2)
        positions = torch.cat((state.positions[kept], positions))
    first = max(0, len(positions) - window + 1)  # of those that the next query will still see
    _write(buffers, state.positions, 0, k[:, :, first:], v[:, :, first:], positions[first:])
    state.length = len(positions) - first
    return k, v, positions


def _write(buffers: tuple[Tensor, Tensor], places: Tensor, start: int, k: Tensor, v: Tensor, positions: Tensor) -> None:
    end = start + len(positions)
    buffers[0][:, :, start:end] = k
    buffers[1][:, :, start:end] = v
    places[start:end] = positions
