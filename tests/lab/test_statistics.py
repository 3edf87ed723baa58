from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from minigpt.lab.statistics import (
    ALPHA,
    Paired,
    holm,
    power_of_difference,
    power_of_equivalence,
    seeds_needed,
    verdicts,
)

DELTA = 0.01


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_intervals_and_p_values_are_scipys(n: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    base = draw.normal(1.5, 0.01, n)
    variant = base + draw.normal(draw.normal(0, 0.01), 0.01, n)
    seen = Paired.of((variant - base).tolist())
    test = stats.ttest_rel(variant, base)
    assert seen.p_different() == pytest.approx(test.pvalue, abs=1e-9)
    assert seen.interval() == pytest.approx(tuple(test.confidence_interval(0.95)), abs=1e-9)
    assert seen.interval(0.9) == pytest.approx(tuple(test.confidence_interval(0.9)), abs=1e-9)
    assert seen.error == pytest.approx(stats.sem(variant - base), abs=1e-12)
    sides = [
        stats.ttest_1samp(variant - base, -DELTA, alternative="greater").pvalue,
        stats.ttest_1samp(variant - base, DELTA, alternative="less").pvalue,
    ]
    assert seen.p_equivalent(DELTA) == pytest.approx(max(sides), abs=1e-9)


def test_without_spread_what_is_seen_is_certain() -> None:
    same, other = Paired.of([0.0, 0.0, 0.0]), Paired.of([0.5, 0.5, 0.5])
    assert (same.p_different(), other.p_different()) == (1.0, 0.0)
    assert (same.p_equivalent(DELTA), other.p_equivalent(DELTA)) == (0.0, 1.0)
    assert same.interval() == (0.0, 0.0)
    assert same.effect is None


def test_one_seed_says_nothing() -> None:
    (verdict,) = verdicts([[-0.3]], DELTA)
    assert (verdict.kind, verdict.p, verdict.p_equivalent) == ("no verdict", 1.0, 1.0)
    assert verdict.interval == (-math.inf, math.inf)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_correction_rejects_what_his_procedure_rejects(ps: list[float]) -> None:
    """Holm 1979: from the smallest p on, reject while p (m - rank) is below alpha, and stop at the first that is not."""
    for alpha in (0.01, ALPHA, 0.3):
        rejected = set()
        for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
            if ps[index] * (len(ps) - rank) >= alpha:
                break
            rejected.add(index)
        assert {index for index, p in enumerate(holm(ps)) if p < alpha} == rejected


@pytest.mark.parametrize(("n", "shift"), [(3, 1.0), (5, 0.0), (5, 1.5), (12, 0.6), (40, -0.5)])
def test_the_power_of_a_difference_is_what_is_found(n: int, shift: float) -> None:
    drawn = np.random.default_rng(0).normal(shift, 1, (20_000, n))
    found = np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < ALPHA)
    assert power_of_difference(n, 0.002 * shift, 0.002) == pytest.approx(found, abs=0.011)


@pytest.mark.parametrize(("n", "mean", "delta"), [(8, 0.0, 1.5), (20, 0.2, 0.9), (60, -0.1, 0.5)])
def test_the_power_of_equivalence_is_what_is_found(n: int, mean: float, delta: float) -> None:
    drawn = np.random.default_rng(1).normal(mean, 1, (20_000, n))
    lower = stats.ttest_1samp(drawn, -delta, axis=1, alternative="greater").pvalue
    upper = stats.ttest_1samp(drawn, delta, axis=1, alternative="less").pvalue
    found = np.mean(np.maximum(lower, upper) < ALPHA)
    assert found > 0.7
    assert found - 0.02 < power_of_equivalence(n, mean, 1.0, delta) < found + 0.011


def test_power_is_a_number_far_out() -> None:
    for n in (2, 3, 100, 10_000):
        for shift in (0.0, 1e-6, 0.5, 30.0, 1e4):
            assert 0 <= power_of_difference(n, shift, 1.0) <= 1.0000001
            assert 0 <= power_of_equivalence(n, shift, 1.0, 0.1) <= 1.0000001
    assert power_of_difference(3, 1e4, 1.0) == pytest.approx(1.0)


@given(st.floats(-3, 3), st.integers(3, 10))
def test_as_many_seeds_as_are_said_to_be_needed_suffice_and_one_fewer_does_not(shift: float, n: int) -> None:
    seen = Paired(n, shift, 1.0)

    def power(seeds: int) -> float:
        return max(power_of_difference(seeds, shift, 1.0), power_of_equivalence(seeds, shift, 1.0, 0.1))

    needed = seeds_needed(seen, delta=0.1)
    if needed is None:
        assert power(10_000) < 0.8
        return
    assert needed > n
    assert power(needed) >= 0.8
    assert needed == n + 1 or power(needed - 1) < 0.8


def test_a_variant_that_is_the_base_is_called_better_or_worse_in_five_of_a_hundred_cases() -> None:
    """And with several such variants, any of them is."""
    draw = np.random.default_rng(2)
    for variants in (1, 4):
        base = draw.normal(1.5, 0.01, (10_000, 1, 5))
        differences = draw.normal(1.5, 0.01, (10_000, variants, 5)) - base
        kinds = [{verdict.kind for verdict in verdicts(grid.tolist(), 1e-5)} for grid in differences]
        wrong = np.mean([bool(seen & {"better", "worse"}) for seen in kinds])
        assert wrong < ALPHA + 0.006, variants  # three standard errors of 10,000 simulations
        assert wrong > 0.02, variants


def test_a_planted_difference_of_two_standard_errors_is_found_as_often_as_the_power_formula_says() -> None:
    draw = np.random.default_rng(3)
    n, sd = 5, 0.01
    mean = -2 * sd / math.sqrt(n)
    grids = draw.normal(mean, sd, (10_000, 1, n))
    kinds = [verdicts(grid.tolist(), 1e-5)[0].kind for grid in grids]
    assert np.mean([kind == "better" for kind in kinds]) == pytest.approx(power_of_difference(n, mean, sd), abs=0.015)
    assert np.mean([kind == "worse" for kind in kinds]) < 0.002


@given(st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=6), st.floats(0.001, 0.02))
def test_verdicts_follow_from_the_numbers_beside_them(differences: list[float], delta: float) -> None:
    (verdict,) = verdicts([differences], delta)
    low, high = verdict.interval
    match verdict.kind:
        case "better":
            assert high < 1e-12
        case "worse":
            assert low > -1e-12
        case "equivalent":
            assert low <= 0 <= high
            assert abs(verdict.paired.mean) < delta
        case "cannot tell":
            assert low <= 1e-12
            assert high >= -1e-12
            assert verdict.seeds is None or verdict.seeds > len(differences)
        case other:
            raise AssertionError(other)


def test_more_spread_needs_more_seeds() -> None:
    needed = [seeds_needed(Paired(3, 0.01, sd), delta=1e-6) for sd in (0.01, 0.02, 0.04, 0.1)]
    assert all(one is not None and other is not None and one < other for one, other in pairwise(needed))
