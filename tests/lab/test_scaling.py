"""Curves over sizes: recovered from known losses, held against scipy, and with intervals that cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize

from minigpt.lab.statistics import Scaling, scaling_of
from minigpt.lab.statistics.scaling import fitted

Numbers = NDArray[np.float64]
ALPHA = 0.2


def curves(
    compute: Numbers,
    floor: float = 1.0,
    scales: tuple[float, float] = (0.7, 0.65),
    alphas: tuple[float, float] = (ALPHA, ALPHA),
) -> Numbers:
    """Losses of base and variant [curve, size]; a scale is the height above the floor at the geometric mean of compute."""
    x = np.log(compute / np.exp(np.log(compute).mean()))
    return floor + np.array(scales)[:, None] * np.exp(-np.array(alphas)[:, None] * x)


def with_seeds(losses: Numbers, draw: np.random.Generator, n: int = 3, sd: float = 0.008, shared: float = 0.5) -> Numbers:
    """Losses [curve, size, seed] with noise that base and variant share in part."""
    common, own = draw.normal(size=(1, losses.shape[1], n)), draw.normal(size=(*losses.shape, n))
    return losses[..., None] + sd * (math.sqrt(shared) * common + math.sqrt(1 - shared) * own)


def found(compute: Numbers, losses: Numbers, draws: int = 300) -> Scaling:
    return scaling_of([compute.tolist()] * 2, losses.tolist(), draws)


@given(
    st.integers(3, 6),
    st.floats(0.1, 3.0),
    st.floats(0.2, 2.0),
    st.floats(0.7, 1.4),
    st.floats(0.05, 0.5),
    st.floats(0.8, 1.25),
    st.floats(1e9, 1e18),
)
def test_known_curves_are_recovered(
    sizes: int, floor: float, scale: float, ratio: float, alpha: float, bend: float, first: float
) -> None:
    compute = first * np.geomspace(1, 100, sizes)
    alphas = alpha, alpha * bend
    losses = curves(compute, floor, (scale, scale * ratio), alphas)
    result = found(compute, losses[..., None])
    assert result.exponents == pytest.approx(alphas, rel=1e-4)
    assert result.floor == pytest.approx(floor, abs=1e-4 * losses.min())
    level = losses[:, -1].max() - floor
    needed = [(level / each) ** (-1 / slope) for each, slope in zip((scale, scale * ratio), alphas, strict=True)]
    assert result.speedup.value == pytest.approx(needed[0] / needed[1], rel=1e-3)
    assert result.trend.value == pytest.approx(10 ** (bend - 1), rel=1e-3)
    assert (result.speedup.low, result.noise, result.change) == (None, None, "cannot tell"), "one seed has no spread"
    assert any("one seed" in caution for caution in result.cautions)


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_equals_that_of_scipy(seed: int) -> None:
    draw = np.random.default_rng(seed)
    compute = np.geomspace(1, 50, 4)
    x = np.log(np.stack([compute, compute])) - np.log(compute).mean()
    means = curves(compute, alphas=(0.2, 0.25)) + 0.003 * draw.normal(size=(2, 4))

    def model(place: Numbers, floor: float, *rest: float) -> Numbers:
        curve = place.reshape(2, -1)
        return (floor + np.exp(np.array(rest[:2])[:, None] - np.array(rest[2:])[:, None] * curve)).ravel()

    values, _ = optimize.curve_fit(model, x.ravel(), means.ravel(), p0=(0.9, -0.3, -0.3, 0.2, 0.2), ftol=1e-14, xtol=1e-14)
    fit = fitted(means, x, exact=True)
    assert [float(fit.floor), *fit.scale, *fit.exponent] == pytest.approx(values, abs=1e-6)
    quick = fitted(np.stack([means] * 3), x)
    assert quick.exponent == pytest.approx(np.stack([fit.exponent] * 3), rel=2e-2)
    assert quick.residuals == pytest.approx(np.stack([fit.residuals] * 3), abs=1e-4)


def test_base_and_variant_in_exchange_have_the_inverse_speed_up() -> None:
    compute = np.geomspace(1, 64, 3) * 1e12
    losses = with_seeds(curves(compute), np.random.default_rng(0))
    one, other = found(compute, losses), found(compute, losses[::-1])
    assert one.speedup.value is not None
    assert one.speedup.low is not None
    assert one.speedup.low < (0.7 / 0.65) ** (1 / ALPHA) < (one.speedup.high or 0)
    assert other.speedup.value == pytest.approx(1 / one.speedup.value, rel=1e-9)
    assert other.speedup.high == pytest.approx(1 / one.speedup.low, rel=1e-6)


PLANTED = {
    "the advantage stays": ((0.7, 0.6), (0.2, 0.2), "stays"),
    "there is none": ((0.7, 0.7), (0.2, 0.2), "stays"),
    "it vanishes at the largest size": ((0.7, 0.7 * 8**-0.05), (0.2, 0.15), "vanishes"),
    "it shrinks": ((0.7, 0.5), (0.2, 0.17), "shrinks"),
    "it grows": ((0.7, 0.65), (0.2, 0.24), "grows"),
    "a disadvantage grows": ((0.6, 0.7), (0.2, 0.16), "shrinks"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_was_planted_is_found(planted: str) -> None:
    scales, alphas, change = PLANTED[planted]
    compute = np.geomspace(1, 64, 3) * 1e12
    losses = curves(compute, 1.0, scales, alphas)
    draws = [with_seeds(losses, np.random.default_rng(seed), n=5, sd=0.003) for seed in range(3)]
    results = [found(compute, drawn, 200) for drawn in draws]
    changes = [result.change for result in results]
    assert changes.count(change) >= 2, changes  # one in ten intervals misses the truth
    truth = found(compute, losses[..., None]).speedup.value
    assert truth is not None
    for result in results:
        assert result.speedup.value == pytest.approx(truth, rel=0.15)


def test_an_advantage_that_vanishes_in_another_form_than_a_power_law_is_found_out() -> None:
    compute = np.geomspace(1, 64, 4)
    base = curves(compute)[0]
    losses = np.stack([base, base - 0.15 * compute**-0.9])
    result = found(compute, with_seeds(losses, np.random.default_rng(3), sd=0.002, shared=0.9))
    assert result.change == "vanishes"
    assert any("the fit is poor" in caution for caution in result.cautions)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "n", "sd", "alphas"),
    [(3, 3, 0.008, (0.2, 0.2)), (3, 5, 0.02, (0.2, 0.16)), (5, 3, 0.008, (0.2, 0.2)), (3, 3, 0.008, (0.1, 0.12))],
)
def test_the_intervals_cover_the_truth_as_often_as_they_say(
    sizes: int, n: int, sd: float, alphas: tuple[float, float]
) -> None:
    compute, draw, ladders = np.geomspace(1, 64, sizes) * 1e12, np.random.default_rng(1), 300
    losses = curves(compute, alphas=alphas)
    truth = found(compute, losses[..., None])
    results = [found(compute, with_seeds(losses, draw, n, sd)) for _ in range(ladders)]
    for number in ("speedup", "trend"):
        true = getattr(truth, number).value
        ends = [getattr(result, number) for result in results]
        covered = np.mean([(end.low or 0) <= true <= (end.high or math.inf) for end in ends])
        assert 0.85 <= covered <= 0.96, (number, covered)
    poor = np.mean([any("the fit is poor" in caution for caution in result.cautions) for result in results])
    assert poor < 0.1, "a true curve is called poor in about 5 %"


CAUTIONS = {
    "no floor": (lambda: curves(np.geomspace(1, 64, 3), 0.0), 64, "L0 is at the end of its range (0)"),
    "a plateau": (lambda: np.array([[2.0, 1.21, 1.2], [2.0, 1.19, 1.18]]), 64, "L0 is at the end of its range (just below"),
    "few sizes": (lambda: curves(np.geomspace(1, 64, 3)), 64, "with 3 sizes, 5 numbers are fitted to 6 mean losses"),
    "a small span": (lambda: curves(np.geomspace(1, 5, 3)), 5, "the sizes span a factor of only 5.0 in compute"),
    "rising losses": (lambda: np.array([[1.5, 1.6, 1.7], [1.5, 1.4, 1.35]]), 64, "the loss of the base does not fall"),
    "far apart": (
        lambda: curves(np.geomspace(1, 20, 3), 1.0, (0.7, 0.35)),
        20,
        "equal losses lie beyond the measured sizes, so the speed-up is an extrapolation",
    ),
}


@pytest.mark.parametrize("case", CAUTIONS)
def test_doubtful_numbers_come_with_a_caution(case: str) -> None:
    losses, span, caution = CAUTIONS[case]
    compute = np.geomspace(1, span, 3) * 1e12
    result = found(compute, with_seeds(losses(), np.random.default_rng(0), sd=1e-4))
    assert any(each.startswith(caution) for each in result.cautions), result.cautions
    if case == "rising losses":
        assert (result.speedup.value, result.speedup.low, result.change) == (None, None, "cannot tell")
    sound = np.geomspace(1, 64, 5) * 1e12
    assert found(sound, with_seeds(curves(sound), np.random.default_rng(0), sd=1e-3)).cautions == ()
