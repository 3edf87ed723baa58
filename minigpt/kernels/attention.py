"""Softmax attention with a mask from positions, and the cache of keys and values.

The mask follows from positions alone: a query sees the keys at or before its own position, within the window if there is
one. So training, chunked prefill, a cache and a ring buffer are the same computation. A mixer that sees less uses `visible`
or adds a bias of minus infinity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from minigpt.contracts import Cache, State
from minigpt.kernels.fused import upcast


def visible(
    q_positions: Int[Tensor, " time"], k_positions: Int[Tensor, " source"], window: int | None = None
) -> Bool[Tensor, "time source"]:
    """The causal mask: each query sees its own position and those before it, at most `window` in all."""
    distance = q_positions[:, None] - k_positions[None, :]
    mask = distance >= 0
    return mask if window is None else mask & (distance < window)


def attend(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch kv_heads source head_dim"],
    v: Float[Tensor, "batch kv_heads source v_dim"],
    q_positions: Int[Tensor, " time"],
    k_positions: Int[Tensor, " source"],
    *,
    window: int | None = None,
    bias: Float[Tensor, "*batch bias_heads time source"] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sinks: Float[Tensor, " heads"] | None = None,
    segments: tuple[Int[Tensor, "batch time"], Int[Tensor, "batch source"]] | None = None,
) -> Float[Tensor, "batch heads time v_dim"]:
    """Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762), causal by position.

    Args:
        q: Queries, already rotated.
        k: Keys, already rotated; query head h reads key head h // (heads / kv_heads).
        v: Values.
        q_positions: Positions of the queries, ascending by one.
        k_positions: Positions of the keys, ascending by one; the same tensor object as q_positions if nothing is cached.
        window: A query sees itself and window - 1 positions before it; None for all.
        bias: Added to the scores after scaling; with a batch axis if it depends on content.
        scale: Factor on the scores; None for 1/sqrt(head_dim).
        dropout: Rate at which attention weights are dropped (0 outside training).
        softcap: Scores s become softcap * tanh(s / softcap), before bias and mask (Gemma 2: arXiv:2408.00118).
        sinks: For each head a logit that takes part in the softmax without a value (gpt-oss: arXiv:2508.10925).
        segments: Segments of the queries and of the keys: a query sees only keys of the same segment. None for no limit.
    """
    if softcap is not None or sinks is not None:
        is_visible = _visible_in(segments, visible(q_positions, k_positions, window))
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
        weights = attention_weights(q, k, is_visible, bias=bias, scale=scale, softcap=softcap, sinks=sinks)
        return F.dropout(weights, dropout).to(v.dtype) @ v
    grouped = q.shape[1] != k.shape[1]
    time, source, v_dim = q.shape[2], k.shape[2], v.shape[-1]
    if q.shape[-1] != v_dim:  # the fused kernels need one width for q, k and v; zeros change no product
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        width = max(q.shape[-1], v_dim)
        q, k, v = (F.pad(part, (0, width - part.shape[-1])) for part in (q, k, v))
    # Without a cache the mask is plain causal, and a single query sees every key: no mask is needed then.
    unmasked = (k_positions is q_positions or time == 1) and (window is None or window >= source)
    unmasked = unmasked and segments is None
    mask = None if unmasked and bias is None else _visible_in(segments, visible(q_positions, k_positions, window))
    causal = mask is None and time > 1
    if causal and dropout == 0 and _is_explicit_faster(q):
        return _causal(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)[..., :v_dim]
    if mask is not None and bias is not None:
        mask = torch.where(mask, bias.to(q.dtype), -torch.inf)
    if mask is not None and mask.ndim == 3:
        mask = mask[None]
    mixed = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )
    return mixed if mixed.shape[-1] == v_dim else mixed[..., :v_dim]


def _visible_in(
    segments: tuple[Int[Tensor, "batch time"], Int[Tensor, "batch source"]] | None, mask: Bool[Tensor, "time source"]
) -> Bool[Tensor, "*rows time source"]:
    """The mask without keys of other segments, with a batch axis and a head axis; without segments the mask itself."""
    if segments is None:
        return mask
    of_queries, of_keys = segments
    return mask & (of_queries[:, None, :, None] == of_keys[:, None, None, :])


def _is_explicit_faster(q: Float[Tensor, "batch heads time head_dim"]) -> bool:
    """Whether the fused kernel is slower: by 50 % in bf16 training on a CPU with short contexts (torch 2.13)."""
    is_short = q.shape[2] <= _SHORT_CONTEXT
    in_training = torch.is_grad_enabled() and q.requires_grad
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and is_short and in_training


_SHORT_CONTEXT = 512


def _causal(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch kv_heads time head_dim"],
    v: Float[Tensor, "batch kv_heads time v_dim"],
    scale: float,
) -> Float[Tensor, "batch heads time v_dim"]:
    """Plain causal attention in the precision of q, with sums and exponentials of a wider type."""
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
    future = torch.full((q.shape[2], k.shape[2]), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = torch.baddbmm(future, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale)
    return (scores.softmax(-1, dtype=q.dtype) @ v.flatten(0, 1)).view(*q.shape[:3], -1)


def attention_weights(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads source head_dim"],
    mask: Bool[Tensor, "*rows time source"],
    *,
    bias: Float[Tensor, "*batch bias_heads time source"] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, " heads"] | None = None,
) -> Float[Tensor, "batch heads time source"]:
    """Explicit softmax weights in fp32 or wider, for options that no fused kernel has; see `attend`."""
    scores = upcast(q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:  # an extra logit without a value: a head may attend to nothing
        sink = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat((scores, sink), -1)
    return scores.softmax(-1)[..., : mask.shape[-1]]


def new_cache(
    batch: int,
    shapes: Sequence[tuple[int, int]],
    capacity: int,
    window: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> Cache:
    """An empty cache for `remember`.

    Args:
        batch: Number of sequences.
        shapes: Heads and width of each cached tensor: keys and values, or a latent.
        capacity: The largest number of tokens to decode.
        window: As for `attend`. A buffer of twice the window is enough, so that old keys are rarely moved out.
        device: Device of the buffers.
        dtype: Type of the buffers.
    """
    room = capacity if window is None else min(capacity, 2 * window)
    return Cache(
        tensors={
            str(index): torch.zeros(batch, heads, room, width, device=device, dtype=dtype)
            for index, (heads, width) in enumerate(shapes)
        },
        positions=torch.zeros(room, dtype=torch.long, device=device),
        complete=window is None,
    )


def remember(
    state: State | None,
    new: tuple[Num[Tensor, "batch _ time _"], ...],
    positions: Int[Tensor, " time"],
    window: int | None = None,
    segments: Int[Tensor, "batch time"] | None = None,
) -> tuple[tuple[Num[Tensor, "batch _ source _"], ...], Int[Tensor, " source"]]:
    """Append to a cache, drop what no later query can see, return the remaining tensors and positions.

        (k, v), k_positions = remember(state, (k, v), ctx.positions)

    Without a state, or with an empty one, it returns `new` and the same `positions` object. `attend` recognises by this
    object that nothing is cached.

    Args:
        state: From `new_cache`, with as many tensors as `new`; changed in place.
        new: Tensors of the new tokens, heads second and time third.
        positions: Positions of the new tokens, ascending by one.
        window: As for `attend`.
        segments: The segments of the new tokens. Then the last of the returned tensors has those of all keys, [B, 1, S, 1].

    Raises:
        ValueError: There are more tokens than the capacity, and no window to drop any; or the first tokens of the state had
            no segments.
    """
    if segments is not None:
        new = (*new, segments[:, None, :, None])
    if state is None:
        return new, positions
    assert isinstance(state, Cache), "remember needs a state from new_cache"
    if segments is not None and str(len(new) - 1) not in state.tensors:
        if state.length:
            raise ValueError(
                f"the segments of the {state.length} tokens in the state are unknown: give segments from the first"
            )
        shape = (len(segments), 1, state.positions.shape[0], 1)
        state.tensors[str(len(new) - 1)] = torch.zeros(shape, dtype=segments.dtype, device=segments.device)
    buffers = [state.tensors[str(index)] for index in range(len(new))]  # a component may keep more tensors in the state
    room, added, before = state.positions.shape[0], positions.shape[0], state.length
    useful = before if window is None else min(before, window - 1)  # what the earliest new query can still see
    if before + added <= room:
        _write(buffers, state.positions, before, new, positions)
        state.length = before + added
        if before == 0:
            return new, positions
        kept = _read(buffers, before - useful, useful + added, new)
        return kept, state.positions.narrow(0, before - useful, useful + added)
    if window is None or room < window:
        raise ValueError(f"the state has room for {room} tokens; it holds {before}, and {added} more were added")
    if useful:
        old = _read(buffers, before - useful, useful, new)
        new = tuple(torch.cat(both, 2) for both in zip(old, new, strict=True))
        positions = torch.cat((state.positions.narrow(0, before - useful, useful), positions))
    first = max(0, len(positions) - window + 1)  # the first that the next query can still see
    _write(buffers, state.positions, 0, tuple(tensor[:, :, first:] for tensor in new), positions)
    state.length = len(positions) - first
    return new, positions


def _read(buffers: list[Tensor], start: int, length: int, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Views of the buffers, or copies if their precision differs from that of `like`."""
    return tuple(buffer.narrow(2, start, length).to(fresh.dtype) for buffer, fresh in zip(buffers, like, strict=True))


def _write(buffers: list[Tensor], places: Tensor, start: int, new: tuple[Tensor, ...], positions: Tensor) -> None:
    """Write at `start` and after it. `new` may be a suffix: its last entry belongs to the last position."""
    end = start + new[0].shape[2]
    for buffer, fresh in zip(buffers, new, strict=True):
        buffer[:, :, start:end] = fresh
    if start == 0:  # write all later positions too: they ascend by one, so later calls need not write them
        places.copy_(torch.arange(1 - end, 1 - end + places.shape[0], device=places.device) + positions[-1])
