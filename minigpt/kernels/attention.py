"""Attention from scores to output, and what decoding remembers of it.

The mask follows from positions alone: a query sees the keys at or before its own position, and within the window if there
is one. So a cache, a ring buffer, a chunked prefill and training are one computation. A mixer that sees less asks `visible`
what there is to see, or adds a bias of minus infinity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minigpt.contracts import Cache, State
from minigpt.kernels.fused import upcast


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
    bias: Float[Tensor, "*batch bias_heads time source"] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sinks: Float[Tensor, " heads"] | None = None,
) -> Float[Tensor, "batch heads time v_dim"]:
    """Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762), causal by position.

    Args:
        q: Queries, rotated already.
        k: Keys, likewise; query head h reads key head h // (heads / kv_heads).
        v: Values.
        q_positions: Where the queries stand, ascending by one.
        k_positions: Where the keys stand, ascending by one; the very same tensor where nothing is remembered.
        window: A query sees itself and window - 1 positions before; None for all.
        bias: Added to the scores after scaling; with a batch axis where it depends on content.
        scale: Factor on the scores; None for 1/sqrt(head_dim).
        dropout: Rate at which attention weights are dropped (0 outside training).
        softcap: Scores s become softcap * tanh(s / softcap), before bias and mask (Gemma 2: arXiv:2408.00118).
        sinks: A logit for each head that takes part in the softmax and has no value (gpt-oss: arXiv:2508.10925).
    """
    if softcap is not None or sinks is not None:
        seen = visible(q_positions, k_positions, window)
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
        weights = attention_weights(q, k, seen, bias=bias, scale=scale, softcap=softcap, sinks=sinks)
        return F.dropout(weights, dropout).to(v.dtype) @ v
    grouped = q.shape[1] != k.shape[1]
    time, source, v_dim = q.shape[2], k.shape[2], v.shape[-1]
    if q.shape[-1] != v_dim:  # the fused kernels want one width for all three, and zeros change no product
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        width = max(q.shape[-1], v_dim)
        q, k, v = (F.pad(part, (0, width - part.shape[-1])) for part in (q, k, v))
    # Nothing remembered is plain causal, and one query sees every key: no mask then.
    unmasked = (k_positions is q_positions or time == 1) and (window is None or window >= source)
    mask = None if unmasked and bias is None else visible(q_positions, k_positions, window)
    causal = mask is None and time > 1
    if causal and dropout == 0 and _written_out_is_faster(q):
        return _causal(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale)[..., :v_dim]
    if mask is not None and bias is not None:
        mask = torch.where(mask, bias.to(q.dtype), -torch.inf)
        mask = mask if mask.ndim == 4 else mask[None]
    mixed = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )
    return mixed if mixed.shape[-1] == v_dim else mixed[..., :v_dim]


def _written_out_is_faster(q: Float[Tensor, "batch heads time head_dim"]) -> bool:
    """In bf16 on a CPU, for training and short contexts: the fused kernel takes half as long again (torch 2.13)."""
    short = q.shape[2] <= _SHORT
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and short and torch.is_grad_enabled() and q.requires_grad


_SHORT = 512


def _causal(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch kv_heads time head_dim"],
    v: Float[Tensor, "batch kv_heads time v_dim"],
    scale: float,
) -> Float[Tensor, "batch heads time v_dim"]:
    """Plain causal attention, scores and weights in the precision of q; sums and exponentials are wider in the kernels."""
    k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
    future = torch.full((q.shape[2], k.shape[2]), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = torch.baddbmm(future, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale)
    return (scores.softmax(-1, dtype=q.dtype) @ v.flatten(0, 1)).view(*q.shape[:3], -1)


def attention_weights(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads source head_dim"],
    mask: Bool[Tensor, "time source"],
    *,
    bias: Float[Tensor, "*batch bias_heads time source"] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, " heads"] | None = None,
) -> Float[Tensor, "batch heads time source"]:
    """The softmax over scores written out, in fp32 at least, for what no fused kernel does. Arguments as for `attend`."""
    scores = upcast(q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:  # one more thing to attend to, with no value: a head may attend to nothing
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
        batch: Sequences.
        shapes: Heads and width of each tensor that is remembered: keys and values, or a latent.
        capacity: Most tokens that will be decoded.
        window: As for `attend`; a window needs twice its size at most, so that old keys are moved out rarely.
        device: Where the buffers live.
        dtype: Of the buffers.
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
    new: tuple[Float[Tensor, "batch _ time _"], ...],
    positions: Int[Tensor, " time"],
    window: int | None = None,
) -> tuple[tuple[Float[Tensor, "batch _ source _"], ...], Int[Tensor, " source"]]:
    """Append to a cache, drop what no query can see any more, return all that is left and where it stands.

        (k, v), k_positions = remember(state, (k, v), ctx.positions)

    Without a state, or with an empty one, `new` comes back as it is and `positions` is the same tensor: `attend` takes
    that as the sign that nothing is remembered.

    Args:
        state: From `new_cache`, with as many tensors as `new`; changed in place.
        new: What the new tokens leave, heads second and time third.
        positions: Where the new tokens stand, ascending by one.
        window: As for `attend`.

    Raises:
        ValueError: More tokens than the cache was made for, and no window to drop any.
    """
    if state is None:
        return new, positions
    assert isinstance(state, Cache), "remember continues what new_cache made"
    buffers = [state.tensors[str(index)] for index in range(len(new))]  # a component may keep others beside them
    room, added, before = state.positions.shape[0], positions.shape[0], state.length
    useful = before if window is None else min(before, window - 1)  # what the oldest new query still sees
    if before + added <= room:
        _write(buffers, state.positions, before, new, positions)
        state.length = before + added
        if before == 0:
            return new, positions
        kept = _read(buffers, before - useful, useful + added, new)
        return kept, state.positions.narrow(0, before - useful, useful + added)
    if window is None or room < window:
        raise ValueError(f"the state has room for {room} tokens, {before} are there and {added} more came")
    if useful:
        old = _read(buffers, before - useful, useful, new)
        new = tuple(torch.cat(both, 2) for both in zip(old, new, strict=True))
        positions = torch.cat((state.positions.narrow(0, before - useful, useful), positions))
    first = max(0, len(positions) - window + 1)  # of those that the next query will still see
    _write(buffers, state.positions, 0, tuple(tensor[:, :, first:] for tensor in new), positions)
    state.length = len(positions) - first
    return new, positions


def _read(buffers: list[Tensor], start: int, length: int, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Views, unless the buffers are of another precision."""
    return tuple(buffer.narrow(2, start, length).to(fresh.dtype) for buffer, fresh in zip(buffers, like, strict=True))


def _write(buffers: list[Tensor], places: Tensor, start: int, new: tuple[Tensor, ...], positions: Tensor) -> None:
    """From `start` on. The last of `new` stands at the last of `positions`."""
    end = start + new[0].shape[2]
    for buffer, fresh in zip(buffers, new, strict=True):
        buffer[:, :, start:end] = fresh
    if start == 0:  # and those to come follow one by one: no token after these has to write its position
        places.copy_(torch.arange(1 - end, 1 - end + places.shape[0], device=places.device) + positions[-1])
