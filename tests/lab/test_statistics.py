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
    Verdict,
    power_of_difference,
    power_of_equivalence,
    seeds_needed,
    verdicts,
)
from minigpt.numbers import as_typed, shown_difference, shown_interval, shown_probability

DELTA = 0.01


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_intervals_and_p_values_equal_scipys(n: int, seed: int) -> None:
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
    assert seen.p_equivalent(DELTA) == pytest.approx(min(1, 2 * max(sides)), abs=1e-9)


def test_without_spread_every_difference_is_certain() -> None:
    same, other = Paired.of([0.0, 0.0, 0.0]), Paired.of([0.5, 0.5, 0.5])
    assert (same.p_different(), other.p_different()) == (1.0, 0.0)
    assert (same.p_equivalent(DELTA), other.p_equivalent(DELTA)) == (0.0, 1.0)
    assert same.interval() == (0.0, 0.0)
    assert same.effect is None


def test_one_seed_gives_no_verdict() -> None:
    (verdict,) = verdicts([[-0.3]], DELTA)
    assert (verdict.kind, verdict.p, verdict.p_equivalent) == ("no verdict", 1.0, 1.0)
    assert verdict.interval == (-math.inf, math.inf)


@pytest.mark.parametrize(("n", "shift"), [(3, 1.0), (5, 0.0), (5, 1.5), (12, 0.6), (40, -0.5)])
def test_the_power_of_a_difference_matches_simulations(n: int, shift: float) -> None:
    drawn = np.random.default_rng(0).normal(shift, 1, (20_000, n))
    found = np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < ALPHA)
    assert power_of_difference(n, 0.002 * shift, 0.002) == pytest.approx(found, abs=0.011)


@pytest.mark.parametrize(("n", "mean", "delta"), [(8, 0.0, 1.5), (20, 0.2, 0.9), (60, -0.1, 0.5)])
def test_the_power_of_equivalence_matches_simulations(n: int, mean: float, delta: float) -> None:
    drawn = np.random.default_rng(1).normal(mean, 1, (20_000, n))
    lower = stats.ttest_1samp(drawn, -delta, axis=1, alternative="greater").pvalue
    upper = stats.ttest_1samp(drawn, delta, axis=1, alternative="less").pvalue
    found = np.mean(np.maximum(lower, upper) < ALPHA / 2)  # whether the 95 % interval lies within delta
    assert found > 0.6
    assert found - 0.02 < power_of_equivalence(n, mean, 1.0, delta) < found + 0.011


def test_power_is_finite_for_extreme_values() -> None:
    for n in (2, 3, 100, 10_000):
        for shift in (0.0, 1e-6, 0.5, 30.0, 1e4):
            assert 0 <= power_of_difference(n, shift, 1.0) <= 1.0000001
            assert 0 <= power_of_equivalence(n, shift, 1.0, 0.1) <= 1.0000001
    assert power_of_difference(3, 1e4, 1.0) == pytest.approx(1.0)


@given(st.floats(-3, 3), st.integers(3, 10))
def test_the_suggested_number_of_seeds_suffices_and_one_fewer_does_not(shift: float, n: int) -> None:
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


def test_a_variant_equal_to_the_base_is_called_better_or_worse_in_five_per_cent() -> None:
    """The same holds for any of several such variants together."""
    draw = np.random.default_rng(2)
    for variants in (1, 4):
        base = draw.normal(1.5, 0.01, (10_000, 1, 5))
        differences = draw.normal(1.5, 0.01, (10_000, variants, 5)) - base
        kinds = [{verdict.kind for verdict in verdicts(grid.tolist(), 1e-5)} for grid in differences]
        wrong = np.mean([bool(seen & {"better", "worse"}) for seen in kinds])
        assert wrong < ALPHA + 0.006, variants  # three standard errors of 10,000 simulations
        assert wrong > 0.02, variants


def test_a_difference_of_two_standard_errors_is_found_as_often_as_the_power_formula_says() -> None:
    draw = np.random.default_rng(3)
    n, sd = 5, 0.01
    mean = -2 * sd / math.sqrt(n)
    grids = draw.normal(mean, sd, (10_000, 1, n))
    kinds = [verdicts(grid.tolist(), 1e-5)[0].kind for grid in grids]
    assert np.mean([kind == "better" for kind in kinds]) == pytest.approx(power_of_difference(n, mean, sd), abs=0.015)
    assert np.mean([kind == "worse" for kind in kinds]) < 0.002


def test_all_verdicts_of_a_grid_are_right_in_ninety_five_per_cent() -> None:
    """No variant without a difference is called different, and none that differs by delta is called equivalent."""
    draw, sd, n = np.random.default_rng(4), 0.01, 5
    truth = np.array([0.0, 0.0, DELTA, -DELTA])
    base = draw.normal(0, sd, (10_000, 1, n))
    grids = truth[:, None] + draw.normal(0, sd, (10_000, len(truth), n)) - base
    true_kinds = [{"equivalent", "cannot tell"}] * 2 + [{"worse", "cannot tell"}, {"better", "cannot tell"}]
    false = [
        any(verdict.kind not in kinds for verdict, kinds in zip(verdicts(grid.tolist(), DELTA), true_kinds, strict=True))
        for grid in grids
    ]
    assert np.mean(false) < ALPHA + 0.006


def test_all_intervals_hold_together_in_ninety_five_per_cent() -> None:
    draw = np.random.default_rng(5)
    truth = draw.normal(0, 0.02, 6)
    base = draw.normal(0, 0.01, (10_000, 1, 4))
    grids = truth[:, None] + draw.normal(0, 0.01, (10_000, 6, 4)) - base
    held = [
        all(low <= true <= high for true, (low, high) in zip(truth, intervals, strict=True))
        for grid in grids
        if (intervals := [verdict.interval for verdict in verdicts(grid.tolist(), DELTA)])
    ]
    assert 1 - ALPHA - 0.006 < np.mean(held) < 0.99, "not much wider than necessary"


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[float]], float]:
    """Differences of some variants over the same seeds, of every size and spread, and a delta near them."""
    n, variants = draw(st.integers(3, 8)), draw(st.integers(1, 6))
    scale = draw(st.sampled_from((1e-9, 1e-4, 0.01, 1.0)))
    shift = st.floats(-3, 3)
    each = [
        [scale * (mean + spread * noise) for noise in draw(st.lists(st.floats(-1, 1), min_size=n, max_size=n))]
        for mean, spread in draw(st.lists(st.tuples(shift, st.floats(0, 2)), min_size=variants, max_size=variants))
    ]
    return each, scale * draw(st.floats(0.01, 3))


@given(tables())
def test_verdict_interval_and_p_never_contradict_each_other(table: tuple[list[list[float]], float]) -> None:
    differences, delta = table
    for verdict in verdicts(differences, delta):
        low, high = verdict.interval
        is_within = -delta < low and high < delta
        assert (verdict.kind == "better") == (high < 0)
        assert (verdict.kind == "worse") == (low > 0)
        assert (verdict.kind in ("better", "worse")) == (verdict.p < ALPHA)
        assert (verdict.kind == "equivalent") == (is_within and low <= 0 <= high)
        assert (verdict.p_equivalent < ALPHA) == is_within
        assert verdict.plain_interval[0] >= low
        assert verdict.plain_interval[1] <= high, "the plain interval is narrower: it is not corrected for other variants"
        assert verdict.family == len(differences)
        if verdict.kind == "cannot tell":
            assert verdict.seeds is None or verdict.seeds > verdict.paired.n


@given(tables())
def test_shown_numbers_do_not_contradict_the_verdict_after_rounding(table: tuple[list[list[float]], float]) -> None:
    differences, delta = table
    for verdict in verdicts(differences, delta):
        assert kind_as_shown(verdict) == verdict.kind
        mean = float(shown_difference(verdict.paired.mean, delta))
        assert (mean > 0) - (mean < 0) == (verdict.paired.mean > 0) - (verdict.paired.mean < 0)


def kind_as_shown(verdict: Verdict) -> str:
    """The verdict that a reader concludes from the shown digits and p-value."""
    low, high = map(float, shown_interval(verdict.interval, verdict.delta).split(" to "))
    delta = float(as_typed(verdict.delta))
    is_significant = float(shown_probability(verdict.p, ALPHA).removeprefix("< ")) < ALPHA
    assert is_significant == (low > 0 or high < 0)
    if is_significant:
        return "better" if high < 0 else "worse"
    return "equivalent" if -delta < low and high < delta else "cannot tell"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0564, "+0.0564"),
        (0.00004, "+0.00004"),
        (-0.00004, "-0.00004"),
        (0.0, "+0.0000"),
        (3e-12, "+3e-12"),
        (0.01, "+0.0100"),
        (0.0099999, "+0.0099999"),
        (0.010001, "+0.010001"),
    ],
)
def test_a_number_has_enough_digits_to_stay_on_its_side(value: float, text: str) -> None:
    assert shown_difference(value, DELTA) == text


def test_a_p_value_is_shown_on_its_side_of_five_per_cent() -> None:
    shown = [shown_probability(p, ALPHA) for p in (0.0004, 0.02, 0.04996, 0.05, 0.0501, 1.0)]
    assert shown == ["< 0.001", "0.020", "0.04996", "0.050", "0.0501", "1.000"]


def test_a_variant_that_failed_is_not_corrected_for() -> None:
    """The number of seeds needed for a verdict follows from the same criterion as the verdict."""
    difference = [0.004, 0.006, 0.011]
    (one,) = verdicts([difference], DELTA)
    first, *_ = verdicts([difference, [0.0, 0.1, 0.2], [0.3, 0.1, 0.0]], DELTA)
    assert (one.family, first.family) == (1, 3)
    assert one.p < first.p
    assert one.interval == one.plain_interval == first.plain_interval
    assert one.seeds is not None
    assert first.seeds is not None
    assert one.seeds < first.seeds
    level = ALPHA / 3
    powers = [
        max(
            power_of_difference(n, first.paired.mean, first.paired.sd, level),
            power_of_equivalence(n, first.paired.mean, first.paired.sd, DELTA, level),
        )
        for n in (first.seeds - 1, first.seeds)
    ]
    assert powers[0] < 0.8 <= powers[1]


def test_more_spread_needs_more_seeds() -> None:
    needed = [seeds_needed(Paired(3, 0.01, sd), delta=1e-6) for sd in (0.01, 0.02, 0.04, 0.1)]
    assert all(one is not None and other is not None and one < other for one, other in pairwise(needed))
