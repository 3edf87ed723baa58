"""Tests of the interval over the validation text, by simulation and against scipy's bootstrap."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from minigpt.lab.statistics.text import FEWEST_BLOCKS, OverText, over_text


def error(sums: Any, sizes: Any, axis: int = -1) -> Any:
    """Standard error of a ratio of sums."""
    ratio = sums.sum(axis, keepdims=True) / sizes.sum(axis, keepdims=True)
    n = sums.shape[axis]
    return np.sqrt(((sums - ratio * sizes) ** 2).sum(axis) * n / (n - 1)) / sizes.sum(axis)


@pytest.mark.parametrize("n", [10, 37])
@pytest.mark.parametrize("level", [0.95, 0.9])
def test_the_interval_is_that_of_scipys_bootstrap_of_the_studentised_ratio(n: int, level: float) -> None:
    draw = np.random.default_rng(n)
    sizes = np.exp(draw.normal(5, 1, n))
    sums = sizes * draw.normal(-0.02, 0.05, n)
    ratio = sums.sum() / sizes.sum()

    def studentised(sums: Any, sizes: Any, axis: int) -> Any:
        return (sums.sum(axis) / sizes.sum(axis) - ratio) / error(sums, sizes, axis)

    seed = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"
    options: Any = {"paired": True, "vectorized": True, "n_resamples": 10_000, seed: np.random.default_rng(0)}
    options |= {"confidence_level": level, "method": "percentile"}
    low, high = stats.bootstrap((sums, sizes), studentised, **options).confidence_interval
    expected = ratio - high * error(sums, sizes), ratio - low * error(sums, sizes)
    assert over_text(sums, sizes, level).interval == pytest.approx(expected, abs=1e-9)


def test_blocks_of_equal_length_with_normal_differences_give_students_interval() -> None:
    differences = np.random.default_rng(3).normal(0.5, 1, 60)
    found = over_text(differences, np.ones(60))
    assert found.interval == pytest.approx(stats.ttest_1samp(differences, 0).confidence_interval(), abs=0.03)


@pytest.mark.parametrize("memory", [0.0, 0.99])
def test_ninety_five_percent_of_intervals_cover_the_truth_when_tokens_correlate(memory: float) -> None:
    """200 blocks of 100 tokens. With a memory of 0.99, tokens correlate over a block, and without joining 74 % do."""
    draw, covered = np.random.default_rng(0), 0
    for _ in range(60):
        tokens = signal.lfilter([1], [1, -memory], draw.normal(0, 1, 23_000))[3000:]
        low, high = over_text(tokens.reshape(200, 100).sum(1), np.full(200, 100)).interval or (1, -1)
        covered += low <= 0 <= high
    assert covered >= 52


def test_neighbours_are_joined_only_if_they_correlate() -> None:
    draw = np.random.default_rng(0)
    independent, walk = draw.normal(0, 1, 200), np.cumsum(draw.normal(0, 1, 200))
    assert len(over_text(independent, np.ones(200)).blocks) == 200
    joined = over_text(walk, np.arange(1, 201))
    assert len(joined.blocks) == 25
    assert joined.mean == pytest.approx(walk.sum() / np.arange(1, 201).sum())


@given(st.sampled_from([2, 9, 10, 39, 61]), st.floats(-1, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_an_interval_contains_the_mean_and_moves_with_it(n: int, shift: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 1000, n)
    sums = sizes * draw.normal(0, 1, n)
    found, moved = over_text(sums, sizes), over_text(sums + shift * sizes, sizes)
    assert found == over_text(sums, sizes)
    assert moved.mean == pytest.approx(found.mean + shift, abs=1e-9)
    if n < FEWEST_BLOCKS:
        assert found.interval is None
        assert found.reason == f"the text has {n} blocks, and 10 are needed"
        return
    assert found.interval is not None
    assert moved.interval is not None
    assert found.interval[0] < found.mean < found.interval[1]
    assert moved.interval == pytest.approx([bound + shift for bound in found.interval], abs=1e-9)


def test_equal_blocks_are_certain_and_nearly_equal_blocks_show_nothing() -> None:
    assert over_text([2.0] * 20, [1.0] * 20) == OverText(2.0, (2.0, 2.0), (2.0,) * 20)
    assert over_text([0.0] * 20 + [1.0], [1.0] * 21).reason == "nearly all blocks have the same difference"
