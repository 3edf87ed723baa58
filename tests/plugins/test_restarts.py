from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from minigpt.contracts import Schedule
from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY
from tests.plugins.conftest import Build, Train


def factors(max_iters: int, **params: float) -> list[float]:
    built = REGISTRY.resolve("schedule", {"name": "restarts", **params}).build(max_iters)
    assert isinstance(built, Schedule)
    return [built.factor(step) for step in range(max_iters)]


@pytest.mark.parametrize("growth", [1, 2, 3])
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_it_is_torchs_where_the_lengths_are_whole(growth: int, floor: float) -> None:
    first, cycles = 7, 4
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = CosineAnnealingWarmRestarts(optimizer, T_0=first, T_mult=growth, eta_min=floor)
    total = first * sum(growth**cycle for cycle in range(cycles))
    expected = []
    for _ in range(total):
        expected.append(torchs.get_last_lr()[0])
        optimizer.step()
        torchs.step()
    got = factors(total, warmup_ratio=0.0, cycles=cycles, growth=growth, min_lr_ratio=floor)
    assert got == pytest.approx(expected, abs=1e-9)


def test_one_cycle_is_half_a_cosine() -> None:
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 50)) / 2 for step in range(50)]
    assert factors(50, warmup_ratio=0.0, cycles=1, min_lr_ratio=0.1) == pytest.approx(expected)


def test_it_warms_up_once() -> None:
    warm = factors(130, warmup_ratio=0.1, cycles=3, growth=2.0)
    assert warm[:13] == pytest.approx([(step + 1) / 14 for step in range(13)])
    assert [step for step, factor in enumerate(warm) if factor == 1.0] == [13, 13 + 17, 13 + 17 + 33]


@given(st.integers(1, 400), st.integers(1, 30), st.floats(1, 5), st.floats(0, 1), st.floats(0, 0.99))
def test_it_rises_at_restarts_alone_and_as_often_as_there_are_cycles(
    max_iters: int, cycles: int, growth: float, floor: float, warmup: float
) -> None:
    got = factors(max_iters, warmup_ratio=warmup, cycles=cycles, growth=growth, min_lr_ratio=floor)
    after = got[round(warmup * max_iters) :]
    assert all(floor - 1e-9 <= factor <= 1 for factor in after)
    restarts = [factor for before, factor in itertools.pairwise(after) if factor > before]
    assert set(restarts) <= {1.0}
    assert after[:1] in ([], [1.0])
    assert len(restarts) <= cycles - 1
    if floor < 0.9 and len(after) / sum(growth**cycle for cycle in range(cycles)) >= 2:  # no cycle is too short to be seen
        assert len(restarts) == cycles - 1


@pytest.mark.parametrize("params", [{"cycles": 0}, {"growth": 0.5}, {"min_lr_ratio": 1.5}, {"warmup_ratio": 1.0}])
def test_values_without_a_meaning_are_refused(build: Build, params: dict[str, float]) -> None:
    with pytest.raises(ExperimentError, match=next(iter(params))):
        build(10, **params)


def test_its_experiment_trains_with_as_many_restarts(train_experiment: Train) -> None:
    rates = [row.lr for row in train_experiment("training.schedule.warmup_ratio=0", updates=14).run.rows()]
    assert [step for step, rate in enumerate(rates) if rate == rates[0]] == [0, 2, 6]
