"""The ratio of two times on a simulated busy machine, with jitter, bursts and drift."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from minigpt.training.interleaved import measure_ratio, median_interval
from tests.simulated_machine import Machine

WIDTH = 0.03


@pytest.mark.parametrize("noise", [{}, {"burst": 10.0}, {"jitter": 0.02, "drift": 5.0}, {"jitter": 0.15, "burst": 1.5}])
def test_the_ratio_is_within_the_stated_width_in_ninety_five_of_a_hundred_cases(noise: dict[str, float]) -> None:
    random, within, settled = np.random.default_rng(0), 0, 0
    for seed in range(100):
        machine, first, ratio = Machine(seed, **noise), random.uniform(0.03, 0.2), math.exp(random.uniform(-1, 1))
        found = measure_ratio(machine.work(first), machine.work(ratio * first), width=WIDTH, at_most=1000.0, now=machine.now)
        settled += found.width <= WIDTH
        within += found.width <= WIDTH and abs(math.log(found.value / ratio)) <= math.log(1 + WIDTH)
    assert settled > 90
    assert within >= 0.95 * settled


def test_times_measured_one_after_another_give_any_ratio() -> None:
    """Shows why work is timed in turn, and that the simulated noise is large."""
    ratios = []
    for seed in range(100):
        machine = Machine(seed)
        first, second = ([machine.work(0.1)() for _ in range(7)] for _ in range(2))
        ratios.append(np.median(second) / np.median(first))
    assert max(ratios) / min(ratios) > 5


def test_equal_work_has_a_ratio_of_one_whichever_is_first() -> None:
    one, other = Machine(1), Machine(1)
    found = measure_ratio(one.work(0.05), one.work(0.1), width=WIDTH, at_most=60, now=one.now)
    turned = measure_ratio(other.work(0.1), other.work(0.05), width=WIDTH, at_most=60, now=other.now)
    assert found.value == pytest.approx(1 / turned.value, rel=2 * WIDTH)
    still = Machine(2, jitter=0.0, burst=1.0, drift=1.0)
    same = measure_ratio(still.work(0.05), still.work(0.05), width=WIDTH, at_most=60, now=still.now)
    assert (same.value, same.low, same.high, same.pairs) == pytest.approx((1, 1, 1, 9))
    assert same.variation == pytest.approx(0)
    assert str(same) == "1.000 ± 0.000"


def test_on_a_machine_that_is_too_busy_measuring_stops_when_the_time_is_over() -> None:
    machine = Machine(3, jitter=1.0, burst=20.0)
    found = measure_ratio(machine.work(0.1), machine.work(0.1), width=WIDTH, at_most=60, now=machine.now)
    assert found.width > WIDTH
    assert found.variation > 1
    assert machine.time < 600, "only the nine pairs that are required"


def test_short_work_is_repeated_and_slow_work_is_not_timed_for_ever() -> None:
    still = Machine(4, jitter=0.0, burst=1.0, drift=1.0)
    done: list[int] = []
    short = still.work(0.001)

    def counted() -> float:
        done.append(1)
        return short()

    measure_ratio(counted, still.work(0.1), width=WIDTH, at_most=60, now=still.now)
    assert len(done) >= 9 * 20
    noisy = Machine(5, jitter=1.0)
    assert measure_ratio(noisy.work(100), noisy.work(100), width=WIDTH, at_most=1, now=noisy.now).pairs == 9


@given(st.integers(1, 200), st.sampled_from((0.05, 0.005)))
def test_the_interval_of_a_median_has_the_error_it_should(n: int, error: float) -> None:
    """By order statistics: the probability that the median is outside follows from the binomial distribution."""
    low, high = median_interval(list(range(n)), error)
    rank = int(low) + 1
    assert high == n - rank
    outside = 2 * stats.binom.cdf(rank - 1, n, 0.5)
    assert outside <= error or rank == 1
    if rank < n // 2:
        assert 2 * stats.binom.cdf(rank, n, 0.5) > error, "no narrower interval is allowed"


def test_more_measurements_make_the_interval_narrower() -> None:
    draw = np.random.default_rng(0).normal(0, 1, 2000).tolist()
    widths = [high - low for n in (20, 100, 500, 2000) for low, high in [median_interval(draw[:n])]]
    assert all(wider > narrower for wider, narrower in pairwise(widths))
