from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.contracts import Schedule
from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY


def schedule(name: str, max_iters: int, **params: float) -> Schedule:
    built = REGISTRY.resolve("schedule", {"name": name, **params}).build(max_iters)
    assert isinstance(built, Schedule)
    return built


@given(st.sampled_from([entry.name for entry in REGISTRY.entries("schedule")]), st.integers(1, 500))
def test_every_factor_is_finite_in_bounds_and_a_function_of_the_step_alone(name: str, max_iters: int) -> None:
    one, two = schedule(name, max_iters), schedule(name, max_iters)
    factors = [one.factor(step) for step in range(max_iters)]
    assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in factors)
    assert factors == [two.factor(step) for step in reversed(range(max_iters))][::-1]
    assert max_iters < 20 or max(factors) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", ["constant", "cosine", "inverse_sqrt", "linear", "wsd"])
def test_warm_up_increases_linearly(name: str) -> None:
    warm = schedule(name, 100, warmup_ratio=0.1)
    assert [warm.factor(step) for step in range(10)] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert warm.factor(10) == 1.0


def test_cosine_computes_the_papers_formula() -> None:
    cosine = schedule("cosine", 101, warmup_ratio=0.0, min_lr_ratio=0.2)
    for step in range(101):
        assert cosine.factor(step) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * step / 100)) / 2)
    assert cosine.factor(100) == pytest.approx(0.2)


def test_linear_ends_at_its_floor() -> None:
    linear = schedule("linear", 11, warmup_ratio=0.0, min_lr_ratio=0.5)
    assert [linear.factor(step) for step in (0, 5, 10)] == pytest.approx([1.0, 0.75, 0.5])


def test_wsd_is_flat_until_its_decay() -> None:
    wsd = schedule("wsd", 101, warmup_ratio=0.0, decay_ratio=0.2)
    assert {wsd.factor(step) for step in range(81)} == {1.0}
    assert wsd.factor(90) == pytest.approx(0.5)
    assert wsd.factor(100) == pytest.approx(0.0, abs=1e-9)
    assert {schedule("wsd", 50, warmup_ratio=0.0, decay_ratio=0.0).factor(step) for step in range(50)} == {1.0}


def test_constant_stays_at_the_peak() -> None:
    assert {schedule("constant", 50, warmup_ratio=0.0).factor(step) for step in range(50)} == {1.0}


def test_a_warm_up_and_a_decay_longer_than_training_are_refused() -> None:
    with pytest.raises(ExperimentError, match="add up to more than 1"):
        schedule("wsd", 10, warmup_ratio=0.5, decay_ratio=0.6)


def test_inverse_sqrt_follows_the_root_of_the_update_number() -> None:
    root = schedule("inverse_sqrt", 1000, warmup_ratio=0.1)
    assert root.factor(100) == pytest.approx(1.0)
    assert root.factor(4 * 101 - 1) == pytest.approx(0.5)
    assert schedule("inverse_sqrt", 1000, warmup_ratio=0.0).factor(99) == pytest.approx(0.1)


def test_one_cycle_goes_up_and_down_once() -> None:
    cycle = schedule("one_cycle", 101, peak_ratio=0.3, start_ratio=0.04, end_ratio=0.001)
    factors = [cycle.factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.04)
    assert factors[15] == pytest.approx(0.52)
    assert factors[30] == pytest.approx(1.0)
    assert factors[65] == pytest.approx((1 + 0.001) / 2)
    assert factors[100] == pytest.approx(0.001)
    assert factors.index(max(factors)) == 30
    assert factors[:31] == sorted(factors[:31])
    assert factors[30:] == sorted(factors[30:], reverse=True)
