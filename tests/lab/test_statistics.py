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
    smallest_difference,
    verdicts,
)
from minigpt.numbers import as_typed, shown_difference, shown_interval, shown_probability

DELTA = 0.01


@given(st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_the_interval_is_students_and_wider_where_the_tail_is(n: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    base = draw.normal(1.5, 0.01, n)
    variant = base + draw.normal(draw.normal(0, 0.01), 0.01, n)
    seen = Paired.of((variant - base).tolist())
    test = stats.ttest_rel(variant, base)
    assert seen.error == pytest.approx(stats.sem(variant - base), abs=1e-12)
    skew = float(stats.skew(variant - base)) if n > 2 else 0.0
    assert seen.skew == pytest.approx(skew, abs=1e-9)
    factor = {side: 1 + min(1, 10 / n) * max(0, side * skew) ** 2 for side in (-1, 1)}
    for level in (0.9, 0.95):
        student = test.confidence_interval(level)
        low, high = seen.interval(level)
        assert seen.mean - low == pytest.approx((seen.mean - student.low) * factor[-1], abs=1e-9)
        assert high - seen.mean == pytest.approx((student.high - seen.mean) * factor[1], abs=1e-9)
    t = stats.t(n - 1)
    towards = factor[1] if seen.mean < 0 else factor[-1]
    assert seen.p_different() == pytest.approx(2 * t.sf(abs(seen.mean) / seen.error / towards), abs=1e-9)
    ends = [t.sf((DELTA + side * seen.mean) / seen.error / factor[-side]) for side in (-1, 1)]
    assert seen.p_equivalent(DELTA) == pytest.approx(min(1, 2 * max(ends)), abs=1e-9)


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


def ends(samples: np.ndarray, looking: bool = False) -> np.ndarray:
    """Both ends of the 95 % interval of each row."""
    return np.array([Paired.of(row, looking=looking).interval() for row in samples.tolist()]).T


@pytest.mark.parametrize(("n", "shift"), [(3, 1.0), (5, 0.0), (5, 1.5), (12, 0.6), (40, -0.5)])
def test_the_power_of_a_difference_matches_simulations(n: int, shift: float) -> None:
    low, high = ends(np.random.default_rng(0).normal(shift, 1, (6000, n)))
    found = np.mean((low > 0) | (high < 0))
    assert power_of_difference(n, 0.002 * shift, 0.002) == pytest.approx(found, abs=0.02)


@pytest.mark.parametrize(("n", "mean", "delta"), [(8, 0.0, 1.8), (20, 0.2, 1.0), (60, -0.1, 0.5)])
def test_the_power_of_equivalence_matches_simulations(n: int, mean: float, delta: float) -> None:
    low, high = ends(np.random.default_rng(1).normal(mean, 1, (6000, n)))
    found = np.mean((low > -delta) & (high < delta))  # whether the 95 % interval lies within delta
    assert found > 0.6
    assert found - 0.03 < power_of_equivalence(n, mean, 1.0, delta) < found + 0.02


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (5, 0.01), (30, 0.05)])
def test_the_smallest_difference_is_found_four_times_in_five(n: int, alpha: float) -> None:
    smallest = smallest_difference(n, 0.02, alpha=alpha)
    assert power_of_difference(n, smallest, 0.02, alpha) == pytest.approx(0.8, abs=1e-4)
    assert smallest_difference(n, 0.04, alpha=alpha) == pytest.approx(2 * smallest, rel=1e-4)
    assert smallest_difference(n + 1, 0.02, alpha=alpha) < smallest
    assert smallest_difference(n, 0.0, alpha=alpha) == 0
    assert smallest_difference(1, 0.02, alpha=alpha) == math.inf


def test_power_is_finite_for_extreme_values() -> None:
    for n in (2, 3, 100, 10_000):
        for shift in (0.0, 1e-6, 0.5, 30.0, 1e4):
            assert 0 <= power_of_difference(n, shift, 1.0) <= 1.0000001
            assert 0 <= power_of_equivalence(n, shift, 1.0, 0.1) <= 1.0000001
    assert power_of_difference(3, 1e4, 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("mean", "delta", "n", "looking"), [(0.6, 0.3, 3, False), (1.0, 1e-9, 5, False), (0.0, 1.0, 3, True)]
)
def test_a_verdict_comes_as_often_as_the_range_of_seeds_promises(mean: float, delta: float, n: int, looking: bool) -> None:
    draw = np.random.default_rng(6)
    came = []
    while len(came) < 25:
        first = draw.normal(mean, 1, n).tolist()
        (verdict,) = verdicts([first], delta, looking=looking)
        if verdict.kind == "cannot tell":
            assert verdict.seeds is not None
            more = first + draw.normal(mean, 1, verdict.seeds[1] - n).tolist()
            came.append([verdicts([more[:m]], delta, looking=looking)[0].kind != "cannot tell" for m in verdict.seeds])
    likely, safe = np.mean(came, axis=0)
    assert safe > 0.65, "0.8, less the error of 25 simulations"
    assert 0.3 < likely < safe


def test_where_no_number_of_seeds_gives_a_verdict_none_is_named() -> None:
    assert seeds_needed(Paired(5000, 0.0, 1.0), delta=1e-9) is None
    few = seeds_needed(Paired(50, 0.0, 1.0), delta=0.1)
    assert few is not None
    assert 50 < few[0] < few[1] < 10_000


def test_a_variant_equal_to_the_base_is_called_better_or_worse_in_five_per_cent() -> None:
    """The same holds for any of several such variants together."""
    draw = np.random.default_rng(2)
    for variants in (1, 4):
        base = draw.normal(1.5, 0.01, (5_000, 1, 5))
        differences = draw.normal(1.5, 0.01, (5_000, variants, 5)) - base
        kinds = [{verdict.kind for verdict in verdicts(grid.tolist(), 1e-5)} for grid in differences]
        wrong = np.mean([bool(seen & {"better", "worse"}) for seen in kinds])
        assert wrong < ALPHA + 0.009, variants  # three standard errors of 5,000 simulations
        assert wrong > 0.02, variants


def test_a_difference_of_two_standard_errors_is_found_as_often_as_the_power_formula_says() -> None:
    draw = np.random.default_rng(3)
    n, sd = 5, 0.01
    mean = -2 * sd / math.sqrt(n)
    grids = draw.normal(mean, sd, (5_000, 1, n))
    kinds = [verdicts(grid.tolist(), 1e-5)[0].kind for grid in grids]
    assert np.mean([kind == "better" for kind in kinds]) == pytest.approx(power_of_difference(n, mean, sd), abs=0.015)
    assert np.mean([kind == "worse" for kind in kinds]) < 0.002


def test_all_verdicts_of_a_grid_are_right_in_ninety_five_per_cent() -> None:
    """No variant without a difference is called different, and none that differs by delta is called equivalent."""
    draw, sd, n = np.random.default_rng(4), 0.01, 5
    truth = np.array([0.0, 0.0, DELTA, -DELTA])
    base = draw.normal(0, sd, (5_000, 1, n))
    grids = truth[:, None] + draw.normal(0, sd, (5_000, len(truth), n)) - base
    true_kinds = [{"equivalent", "cannot tell"}] * 2 + [{"worse", "cannot tell"}, {"better", "cannot tell"}]
    false = [
        any(verdict.kind not in kinds for verdict, kinds in zip(verdicts(grid.tolist(), DELTA), true_kinds, strict=True))
        for grid in grids
    ]
    assert np.mean(false) < ALPHA + 0.009


def test_all_intervals_hold_together_in_ninety_five_per_cent() -> None:
    draw = np.random.default_rng(5)
    truth = draw.normal(0, 0.02, 6)
    base = draw.normal(0, 0.01, (4_000, 1, 4))
    grids = truth[:, None] + draw.normal(0, 0.01, (4_000, 6, 4)) - base
    held = [
        all(low <= true <= high for true, (low, high) in zip(truth, intervals, strict=True))
        for grid in grids
        if (intervals := [verdict.interval for verdict in verdicts(grid.tolist(), DELTA)])
    ]
    assert 1 - ALPHA - 0.009 < np.mean(held) < 0.99, "not much wider than necessary"


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


def test_more_spread_needs_more_seeds() -> None:
    needed = [seeds_needed(Paired(3, 0.01, sd), delta=0.01) for sd in (0.01, 0.02, 0.04, 0.1)]
    assert all(one is not None and other is not None and one[1] < other[1] for one, other in pairwise(needed))
