"""The interval of skewed differences, the interval that holds however often one looks, and the warnings about a sample."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from minigpt.lab.statistics import ALPHA, Paired, verdicts
from minigpt.lab.statistics.paired import critical
from minigpt.lab.statistics.robust import usual_skewness
from minigpt.lab.statistics.sequential import PRECISION, e_value, p_value, quantile

SKEWED = {
    "exponential": lambda draw, shape: draw.exponential(size=shape) - 1,
    "lognormal": lambda draw, shape: draw.lognormal(size=shape) - math.exp(0.5),
}
SYMMETRIC = {
    "normal": lambda draw, shape: draw.normal(size=shape),
    "t3": lambda draw, shape: draw.standard_t(3, shape),
    "heteroscedastic": lambda draw, shape: draw.normal(size=shape) * draw.uniform(0.2, 2, shape),
}
samples = st.lists(st.floats(-3, 3), min_size=3, max_size=12).filter(lambda values: max(values) - min(values) > 1e-3)


@given(samples, st.booleans(), st.floats(0.5, 50), st.floats(-100, 100))
def test_another_unit_or_origin_gives_the_same_interval(
    values: list[float], looking: bool, unit: float, origin: float
) -> None:
    low, high = Paired.of(values, looking=looking).interval()
    moved = Paired.of([unit * value + origin for value in values], looking=looking)
    assert moved.interval() == pytest.approx((unit * low + origin, unit * high + origin), rel=1e-6, abs=1e-6)
    mirrored = Paired.of([-value for value in values], looking=looking)
    assert mirrored.interval() == pytest.approx((-high, -low), rel=1e-9, abs=1e-9)


@given(samples, st.booleans())
def test_intervals_of_higher_levels_contain_those_of_lower_levels(values: list[float], looking: bool) -> None:
    seen = Paired.of(values, looking=looking)
    for (low, high), (lower, higher) in pairwise(seen.interval(level) for level in (0.5, 0.9, 0.95, 0.999)):
        assert lower <= low <= seen.mean <= high <= higher


@given(samples, st.booleans(), st.floats(0.01, 5))
def test_a_p_value_is_the_level_at_which_the_interval_touches(values: list[float], looking: bool, delta: float) -> None:
    seen = Paired.of(values, looking=looking)
    size = max(map(abs, values))
    if 1e-9 < (p := seen.p_different()) < 0.999:
        assert min(map(abs, seen.interval(1 - p))) == pytest.approx(0, abs=1e-5 * size)
    if 1e-9 < (p := seen.p_equivalent(delta)) < 0.999:
        assert max(map(abs, seen.interval(1 - p))) == pytest.approx(delta, abs=1e-5 * size)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=8), st.floats(0.01, 3), st.integers(1, 50))
def test_a_verdict_that_is_valid_at_any_time_never_contradicts_its_interval(
    values: list[float], delta: float, family: int
) -> None:
    (verdict,) = verdicts([values], delta, looking=True, family=family)
    low, high = verdict.interval
    is_within = -delta < low and high < delta
    assert (verdict.kind == "better", verdict.kind == "worse") == (high < 0, low > 0)
    assert (verdict.kind in ("better", "worse")) == (verdict.p < ALPHA)
    assert (verdict.p_equivalent < ALPHA) == is_within
    assert (verdict.kind == "equivalent") == (is_within and low <= 0 <= high)
    (fixed,) = verdicts([values], delta, family=family)
    assert low <= fixed.interval[0] <= fixed.interval[1] <= high, "to look at any time costs width"


def test_many_seeds_give_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    assert Paired.of(values.tolist()).interval() == pytest.approx(
        tuple(stats.ttest_1samp(values, 0).confidence_interval()), abs=1e-5
    )


@given(st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_evidence_equals_the_formula_of_the_paper_and_the_mixture_that_it_comes_from(n: int, seed: int) -> None:
    """Its likelihood ratio of scale-invariant data at mean / sd = θ, integrated over θ ~ N(0, 1 / c²)."""
    values = np.random.default_rng(seed).normal(0.5, 1, n)
    t = float(stats.ttest_1samp(values, 0).statistic)
    total, squares = values.sum(), (values**2).sum()
    ratio = (n + PRECISION) * squares / ((n + PRECISION) * squares - total**2)
    formula = math.sqrt(PRECISION / (n + PRECISION)) * ratio ** (n / 2)
    assert e_value(n, t) == pytest.approx(formula, rel=1e-9)


@pytest.mark.parametrize(("n", "t"), [(2, 1.5), (3, 4.0), (6, -2.0)])
def test_evidence_is_a_mixture_of_noncentral_t_densities(n: int, t: float) -> None:
    def ratio(theta: float) -> float:
        shifted = stats.nct.pdf(t, n - 1, theta * math.sqrt(n)) / stats.t.pdf(t, n - 1)
        return float(shifted * stats.norm.pdf(theta, scale=1 / math.sqrt(PRECISION)))

    assert integrate.quad(ratio, -15, 15, limit=200)[0] == pytest.approx(e_value(n, t), rel=1e-5)


@given(st.integers(2, 200), st.floats(1e-6, 0.5))
def test_the_quantile_is_where_the_evidence_reaches_its_limit(n: int, alpha: float) -> None:
    t = quantile(n, alpha)
    if t == math.inf:
        assert e_value(n, math.inf) <= 1 / alpha, "no sample of so few has enough evidence"
    else:
        assert p_value(n, t) == pytest.approx(alpha, rel=1e-9)
    assert e_value(n, 0.0) < 1
    assert critical(n, alpha) < t


@pytest.mark.parametrize("shape", SYMMETRIC)
@pytest.mark.parametrize("looking", [False, True])
def test_false_verdicts_stay_below_five_per_cent(shape: str, looking: bool) -> None:
    """With a fixed number of seeds, and at any of the looks from 3 to 10 seeds; better, worse, and equivalent."""
    grids = SYMMETRIC[shape](np.random.default_rng(0), (1500, 10))
    grids /= grids.std()
    numbers = range(3, 11) if looking else (5,)
    found = [np.array([Paired.of(row[:n], looking=looking).interval() for row in grids.tolist()]) for n in numbers]
    differ = np.any([(ends[:, 0] > 0) | (ends[:, 1] < 0) for ends in found], axis=0)
    equal = np.any([(ends[:, 0] + 2 > -2) & (ends[:, 1] + 2 < 2) for ends in found], axis=0)
    assert 0 < differ.mean() < ALPHA + 0.01
    assert 0 < equal.mean() < ALPHA + 0.01


@pytest.mark.parametrize("shape", SKEWED)
def test_in_skewed_shapes_ten_seeds_give_half_of_students_false_verdicts(shape: str) -> None:
    grids = SKEWED[shape](np.random.default_rng(1), (4000, 10))
    student = np.mean(stats.ttest_1samp(grids, 0, axis=1).pvalue < ALPHA)
    ours = np.mean([Paired.of(row).p_different() < ALPHA for row in grids.tolist()])
    assert student > 0.08
    assert ours < 0.5 * student + 0.005


@pytest.mark.parametrize(
    ("values", "far", "words"),
    [
        ([0.1, 0.2, 0.12, 0.15, 4.0], (4,), "1 difference of 5 lies far from the others"),
        ([9.0, 0.1, 0.2, 0.12, 0.15, 9.3, 0.11, 0.16, 0.13], (0, 5), "2 differences of 9 lie far from the others"),
        ([0.0, 0.05, 0.1, 0.2, 0.4, 0.9], (), "the differences are skewed: rare seeds may lie far above those seen"),
        ([0.0, -0.05, -0.1, -0.2, -0.4, -0.9], (), "may lie far below those seen"),
        ([0.1, 0.2, 0.3, 0.25, 0.16], (), ""),
        ([0.1, 0.1, 0.1], (), ""),
        ([0.1, 0.1, 0.2], (2,), "1 difference of 3 lies far"),
    ],
)
def test_a_sample_like_those_that_give_false_verdicts_is_named(
    values: list[float], far: tuple[int, ...], words: str
) -> None:
    (verdict,) = verdicts([values], 0.01)
    assert verdict.outliers == far
    assert verdict.caution.startswith(words) if not words.startswith("may") else words in verdict.caution
    assert bool(verdict.caution) == bool(words)


@pytest.mark.parametrize("n", [3, 6, 12])
def test_one_normal_sample_in_ten_is_called_skewed_and_few_have_outliers(n: int) -> None:
    rows = np.random.default_rng(2).normal(size=(2000, n)).tolist()
    skews = np.array([abs(Paired.of(row).skew) for row in rows])
    assert np.mean(skews > usual_skewness(n, 0.1)) == pytest.approx(0.1, abs=0.03)
    assert np.mean([bool(verdicts([row], 1.0)[0].outliers) for row in rows]) < 0.11
