"""Samplers against the formulas of their papers, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.contracts import Sampler
from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY
from tests.rounding import assert_formula

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])


def sampler(name: str, **params: Any) -> Sampler:
    built = REGISTRY.resolve("sampler", {"name": name, **params}).build()
    assert isinstance(built, Sampler)
    return built


def filtered(logits: torch.Tensor, **params: Any) -> torch.Tensor:
    return sampler("filtered", **{"temperature": 1.0, **params}).probabilities(logits, [0], None)


# ------------------------------------------------------------------------------------------------------------ filtered


def test_no_filter_is_the_softmax() -> None:
    assert_formula(filtered(LOGITS), LOGITS.double().softmax(-1))
    assert_formula(filtered(LOGITS, temperature=0.5), (LOGITS.double() / 0.5).softmax(-1))


def test_temperature_zero_takes_the_most_likely_token() -> None:
    assert filtered(LOGITS, temperature=0.0).tolist() == [1, 0, 0, 0]
    assert filtered(torch.tensor([0.0, 0.0, 5.0, 0.0]), temperature=0.0).tolist() == [0, 0, 1, 0]


def test_top_k_top_p_and_min_p_keep_the_documented_tokens() -> None:
    p = LOGITS.double().softmax(-1).tolist()  # 0.644 0.237 0.087 0.032
    assert (filtered(LOGITS, top_k=2) > 0).tolist() == [True, True, False, False]
    assert filtered(LOGITS, top_k=2)[0].item() == pytest.approx(p[0] / (p[0] + p[1]), rel=1e-12)
    assert (filtered(LOGITS, top_p=0.64) > 0).tolist() == [True, False, False, False]
    assert (filtered(LOGITS, top_p=0.65) > 0).tolist() == [True, True, False, False]
    assert (filtered(LOGITS, min_p=0.3) > 0).tolist() == [True, True, False, False]
    assert (filtered(LOGITS, top_k=3, min_p=0.3) > 0).tolist() == [True, True, False, False]


@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=12),
    st.floats(0, 5),
    st.none() | st.integers(1, 20),
    st.none() | st.floats(0.01, 1),
    st.none() | st.floats(0, 1),
)
def test_filtered_probabilities_sum_to_one_and_keep_the_most_likely_token(
    row: list[float], temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    logits = torch.tensor(row)
    kept = filtered(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert kept.sum().item() == pytest.approx(1, rel=1e-12)
    assert (kept >= 0).all()
    assert kept[logits == logits.max()].max() > 0
    if top_k is not None:
        assert (kept > 0).sum() <= top_k


def test_values_out_of_bounds_are_refused() -> None:
    with pytest.raises(ExperimentError, match=r"top_p: found 1.5 \(number\); allowed: at most 1"):
        sampler("filtered", top_p=1.5)
    with pytest.raises(ExperimentError, match=r"tau: found 0 \(number\); allowed: more than 0"):
        sampler("mirostat", tau=0)
    with pytest.raises(ExperimentError, match=r"penalty: found 0.5 \(number\); allowed: at least 1"):
        sampler("repetition_penalty", penalty=0.5)


# ------------------------------------------------------------------------------------------------------------ mirostat


def mirostat_by_the_paper(rows: np.ndarray, tokens: Sequence[int | None], tau: float, eta: float) -> list[np.ndarray]:
    """Algorithm 2 in float64: sort by surprise, truncate above mu, normalise; then mu <- mu - eta (S(x) - tau)."""
    mu, seen = 2 * tau, []
    for row, token in zip(rows, tokens, strict=True):
        weights = [math.exp(value - max(row)) for value in row]
        p = [weight / sum(weights) for weight in weights]
        order = sorted(range(len(p)), key=lambda index: -p[index])
        kept = [index for index in order if math.log2(1 / p[index]) <= mu] or order[:1]
        seen.append(np.array([p[index] / sum(p[k] for k in kept) if index in kept else 0.0 for index in range(len(p))]))
        x = kept[-1] if token is None else kept[token % len(kept)]
        mu -= eta * (math.log2(1 / p[x]) - tau)
    return seen


@given(st.floats(0.3, 6), st.floats(0.01, 1), st.integers(0, 99))
def test_mirostat_is_the_papers_algorithm(tau: float, eta: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 2, (20, 30))
    tokens = [int(token) for token in rng.integers(0, 1000, 20)]
    own = sampler("mirostat", tau=tau, eta=eta)
    memory = own.new_memory()
    for row, token, expected in zip(rows, tokens, mirostat_by_the_paper(rows, tokens, tau, eta), strict=True):
        found = own.probabilities(torch.tensor(row), [0], memory)
        assert found.numpy() == pytest.approx(expected, abs=1e-12)
        kept = sorted(expected.nonzero()[0], key=lambda index: -expected[index])
        own.observe(int(kept[token % len(kept)]), found, memory)


def test_mirostat_holds_the_mean_surprise_of_a_text_at_tau() -> None:
    """Where plain sampling has 4.2 bits per token, and the greedy choice 2.8."""
    logits = torch.linspace(0, 10, 64, dtype=torch.float64)
    p = logits.softmax(-1)
    for tau in (3.2, 3.9):
        own, generator = sampler("mirostat", tau=tau), torch.Generator().manual_seed(0)
        memory, surprises = own.new_memory(), []
        for _ in range(2000):
            found = own.probabilities(logits, [0], memory)
            token = int(torch.multinomial(found, 1, generator=generator))
            own.observe(token, found, memory)
            surprises.append(-math.log2(float(p[token])))
        assert np.mean(surprises[100:]) == pytest.approx(tau, abs=0.15)


# -------------------------------------------------------------------------------------------------- repetition penalty


def penalised_by_the_paper(row: np.ndarray, earlier: set[int], penalty: float) -> np.ndarray:
    """p_i = exp(x_i / I(i)) / sum_j exp(x_j / I(j)) with I = penalty for earlier tokens; for x < 0 with 1 / penalty."""
    factor = [(penalty if value > 0 else 1 / penalty) if index in earlier else 1.0 for index, value in enumerate(row)]
    weights = np.exp(row / np.array(factor))
    return weights / weights.sum()


@given(
    st.floats(1, 10),
    st.none() | st.integers(1, 12),
    st.lists(st.integers(0, 7), min_size=1, max_size=9),
    st.booleans(),
    st.integers(0, 99),
)
def test_the_penalty_is_the_papers_formula(
    penalty: float, window: int | None, ids: list[int], positive: bool, seed: int
) -> None:
    row = np.random.default_rng(seed).normal(0, 3, 8)
    row = np.abs(row) if positive else row
    own = sampler("repetition_penalty", penalty=penalty, window=window, sampler={"name": "filtered", "temperature": 1.0})
    found = own.probabilities(torch.tensor(row), ids, own.new_memory())
    earlier = set(ids if window is None else ids[-window:])
    assert found.numpy() == pytest.approx(penalised_by_the_paper(row, earlier, penalty), abs=1e-12)
    before = np.exp(row) / np.exp(row).sum()
    assert sum(found.numpy()[list(earlier)]) <= sum(before[list(earlier)]) + 1e-12, "never more likely"


def test_the_penalty_draws_with_the_sampler_inside_and_its_memory() -> None:
    """Without a penalty it is that sampler, here mirostat, which must observe the drawn tokens."""
    inner = {"name": "mirostat", "tau": 1.0, "eta": 0.5}
    wrapped, plain = sampler("repetition_penalty", penalty=1.0, sampler=inner), sampler(**inner)
    memories = wrapped.new_memory(), plain.new_memory()
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        logits = torch.randn(20, generator=generator)
        pair = [each.probabilities(logits, [1], memory) for each, memory in zip((wrapped, plain), memories, strict=True)]
        assert torch.equal(*pair)
        for each, memory in zip((wrapped, plain), memories, strict=True):
            each.observe(int(pair[0].argmax()), pair[0], memory)
    assert memories[0].mu == memories[1].mu != 2.0
