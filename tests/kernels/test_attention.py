"""`attend` against explicit scores in float64, and `remember` against a plain list."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.kernels import attend, new_cache, remember, visible
from tests.rounding import assert_formula, assert_within, gamma, normal

CPU = torch.device("cpu")


def explicit(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_positions: torch.Tensor,
    k_positions: torch.Tensor,
    window: int | None,
    bias: torch.Tensor | None,
    scale: float | None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """softmax(q k^T scale + bias) v, written as loops over heads and queries, in float64."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float64)
    q, k, v = q.double(), k.double(), v.double()
    group = q.shape[1] // k.shape[1]
    for head in range(q.shape[1]):
        for i, place in enumerate(q_positions.tolist()):
            seen = [
                j for j, key in enumerate(k_positions.tolist()) if key <= place and (window is None or place - key < window)
            ]
            scores = (k[:, head // group, seen] @ q[:, head, i, :, None]).squeeze(-1)
            scores = scores * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            if bias is not None:
                scores = scores + bias[..., head if bias.shape[-3] > 1 else 0, i, seen].double()
            powers = scores.exp()
            total = powers.sum(-1, keepdim=True) + (0 if sinks is None else sinks[head].double().exp())
            out[:, head, i] = ((powers / total)[:, None] @ v[:, head // group, seen]).squeeze(1)
    return out


@given(
    time=st.integers(1, 9),
    before=st.integers(0, 9),
    groups=st.sampled_from([(4, 4), (4, 2), (4, 1), (3, 1)]),
    window=st.sampled_from([None, 1, 2, 5, 40]),
    biased=st.sampled_from([None, 1, "heads", "batch"]),
    scale=st.sampled_from([None, 0.3]),
    softcap=st.sampled_from([None, None, 0.7]),
    sunk=st.booleans(),
    v_dim=st.sampled_from([4, 6, 9]),
    seed=st.integers(0, 99),
)
def test_every_branch_equals_explicit_scores(
    time: int,
    before: int,
    groups: tuple[int, int],
    window: int | None,
    biased: object,
    scale: float | None,
    softcap: float | None,
    sunk: bool,
    v_dim: int,
    seed: int,
) -> None:
    heads, kv_heads = groups
    if window is not None:
        before = min(before, window - 1)  # the entries that `remember` keeps for one query
    q = normal(2, heads, time, 6, seed=seed)
    k = normal(2, kv_heads, before + time, 6, seed=seed + 1)
    v = normal(2, kv_heads, before + time, v_dim, seed=seed + 2)
    q_positions = torch.arange(before, before + time)
    k_positions = q_positions if before == 0 else torch.arange(before + time)
    bias = None
    if biased is not None:
        bias = normal(1 if biased == 1 else heads, time, before + time, seed=seed + 3)
        bias = torch.stack((bias, bias + 1 + bias)) if biased == "batch" else bias
    sinks = normal(heads, seed=seed + 4) if sunk else None
    rest = {"window": window, "scale": scale, "softcap": softcap}
    got = attend(q, k, v, q_positions, k_positions, bias=bias, sinks=sinks, **rest)
    expected = explicit(q, k, v, q_positions, k_positions, bias=bias, sinks=sinks, **rest)
    assert_formula(got, expected)
    single = (None if part is None else part.float() for part in (q, k, v, bias, sinks))
    q32, k32, v32, bias32, sinks32 = single
    got = attend(q32, k32, v32, q_positions, k_positions, bias=bias32, sinks=sinks32, **rest)
    # A score is a sum of 6 products, scaled, capped and biased; its error is the relative error of its weight. Weights are of
    # one sign and sum to 1, so y is off by no more than the largest value times what two weights and a sum are off by.
    scores = q.norm(dim=-1).max() * k.norm(dim=-1).max() + (0 if bias is None else bias.abs().max()) + 1
    bound = 2 * gamma(6 + 10) * scores + gamma(2 * (before + time) + 10)
    assert_within(got, expected, (bound * v.abs().max()).expand_as(expected))


def test_attention_dropout_keeps_the_mean_and_follows_the_seed() -> None:
    q, k = torch.randn(1, 1, 64, 8), torch.randn(1, 1, 64, 8)
    v = torch.ones(1, 1, 64, 1)
    places = torch.arange(64)
    torch.manual_seed(3)
    first = torch.stack([attend(q, k, v, places, places, dropout=0.3) for _ in range(200)])
    torch.manual_seed(3)
    again = attend(q, k, v, places, places, dropout=0.3)
    assert torch.equal(first[0], again)
    assert not torch.equal(first[0], first[1])
    assert first.mean().item() == pytest.approx(1.0, abs=0.02)


@given(
    window=st.sampled_from([None, 1, 2, 3, 7, 50]),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
def test_remember_returns_every_key_that_a_query_can_see(window: int | None, lengths: list[int], seed: int) -> None:
    total = sum(lengths)
    random = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, 3, total, 4, generator=random), torch.randn(2, 3, total, 5, generator=random)
    state = new_cache(2, [(3, 4), (3, 5), (1, 2)], total, window, CPU, torch.float32)
    latents = torch.randn(2, 1, total, 2, generator=random)
    start = 0
    for length in lengths:
        positions = torch.arange(start, start + length)
        part = slice(start, start + length)
        new = (keys[:, :, part], values[:, :, part], latents[:, :, part])
        (k, v, latent), places = remember(state, new, positions, window)
        oldest = 0 if window is None else max(0, start - window + 1)
        assert torch.equal(places, torch.arange(oldest, start + length))
        assert torch.equal(k, keys[:, :, oldest : start + length])
        assert torch.equal(v, values[:, :, oldest : start + length])
        assert torch.equal(latent, latents[:, :, oldest : start + length])
        start += length


@pytest.mark.parametrize("window", [None, 3])
def test_cached_tensors_are_read_without_a_copy(window: int | None) -> None:
    state = new_cache(1, [(2, 4), (1, 3)], 6, window, CPU, torch.float32)
    k, v = torch.randn(1, 2, 5, 4), torch.randn(1, 1, 5, 3)
    for start in range(5):
        part = slice(start, start + 1)
        read, places = remember(state, (k[:, :, part], v[:, :, part]), torch.arange(start, start + 1), window)
    assert state.positions is not None
    for tensor, buffer in zip((*read, places), (*state.tensors.values(), state.positions), strict=True):
        assert tensor.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr(), "copied for every token"


@pytest.mark.parametrize("window", [None, 3])
def test_a_cache_of_lower_precision_is_returned_in_the_precision_of_new_tensors(window: int | None) -> None:
    state = new_cache(1, [(1, 4)], 6, window, CPU, torch.bfloat16)
    k = torch.randn(1, 1, 9, 4)[:, :, : 6 if window is None else 9]
    for start in range(k.shape[2]):
        (read,), _ = remember(state, (k[:, :, start : start + 1],), torch.arange(start, start + 1), window)
    assert read.dtype == torch.float32
    torch.testing.assert_close(read, k[:, :, -read.shape[2] :], rtol=2**-8, atol=0)


def test_a_window_bounds_the_cache() -> None:
    bounded = new_cache(1, [(1, 8)], 10_000, 16, CPU, torch.float32)
    assert bounded.tensors["0"].shape[2] == 32
    assert new_cache(1, [(1, 8), (1, 8)], 10_000, None, CPU, torch.float32).nbytes == 2 * 10_000 * 8 * 4


def test_more_tokens_than_the_capacity_are_refused() -> None:
    state = new_cache(1, [(1, 2), (1, 2)], 3, None, CPU, torch.float32)
    k = torch.zeros(1, 1, 2, 2)
    remember(state, (k, k), torch.arange(2))
    with pytest.raises(ValueError, match="room for 3 tokens; it holds 2, and 2 more were added"):
        remember(state, (k, k), torch.arange(2, 4))


def test_more_tokens_than_the_capacity_are_refused_under_a_larger_window() -> None:
    state = new_cache(1, [(1, 2)], 3, 50, CPU, torch.float32)
    remember(state, (torch.zeros(1, 1, 3, 2),), torch.arange(3), 50)
    with pytest.raises(ValueError, match="room for 3 tokens"):
        remember(state, (torch.zeros(1, 1, 1, 2),), torch.arange(3, 4), 50)


def test_the_window_counts_the_query_itself() -> None:
    places = torch.arange(4)
    assert visible(places, places, 2).tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [False, True, True, False],
        [False, False, True, True],
    ]
